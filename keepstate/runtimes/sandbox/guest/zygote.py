"""The warm process that all workers of one sandbox are forked from. It never runs model code itself.

Started by the host with an environment of its own, so that nothing of the host is in it or in its children. Talks
over a socket that keeps messages apart (`SOCK_SEQPACKET`): each request asks for one worker, each answer brings the
host's end of the worker's connection and a descriptor of its process. Ends when the host does.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
from _signal import SIG_DFL, SIGCHLD  # type: ignore[import-not-found]  # `signal` without its enums: 60 pages a worker
from _signal import signal as set_signal
from _socket import SCM_RIGHTS, SOL_SOCKET, socketpair
from _socket import socket as _socket
from collections.abc import Iterator
from contextlib import suppress
from struct import Struct
from typing import Any

from . import kernel, library, preload, refusals
from .actions import Action
from .confine import NAMESPACES, PROCESS, Confinement, confine, fork_worker, prepare
from .interpreter import Interpreter
from .wire import ANSWER, REQUEST

DESCRIPTORS = Struct("=ii")
"""Of a worker's connection and its process, as they are sent beside an answer."""


def main(folder: str, host: str, rung: str) -> Iterator[Action]:
    """Serve until the host closes the connection; returns in a worker: what its outermost frame is to do.

    Args:
        folder: Of this package.
        host: The host's process id. The connection to it is descriptor 0.
        rung: Which.
    """
    control = socket.socket(fileno=os.dup(0))
    os.dup2(1, 0)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(host):  # it died before we asked to be told
        os._exit(1)
    os.environ.pop("PYTHONHASHSEED", None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):  # else the host is put aside for each worker that it wakes: 10 % fewer episodes a second
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    places = library.find()
    library.rename(places, folder, sys._getframe(1).f_code)
    if rung != PROCESS:
        refusals.put_into_words()
    preload.load(without_files=rung != NAMESPACES)
    try:
        confinement = prepare(rung, places)
    except (OSError, ValueError) as error:
        _answer(control, {"failed": getattr(error, "strerror", None) or str(error)})
        os._exit(1)
    interpreter = Interpreter()
    interpreter.rehearse()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # from here on the kernel reaps
    _answer(control, {"ready": True})
    os.dup2(0, 2)  # from here on an error is told over a connection
    connection = _socket(fileno=control.detach())
    while request := connection.recv(REQUEST.size):
        if _spawn(connection, confinement, interpreter, *REQUEST.unpack(request)):
            return interpreter.serve()
    os._exit(0)


def _answer(control: socket.socket, message: dict[str, Any]) -> None:
    control.send(json.dumps(message).encode())


def _spawn(control: _socket, confinement: Confinement, interpreter: Interpreter, number: int, memory_mib: int) -> bool:
    """Fork a worker, and tell the host; returns whether this is the worker.

    What the zygote touches here has to be copied for it after every fork, so it is little.
    """
    ours, theirs = socketpair()
    try:
        pid = fork_worker(confinement)
    except OSError as error:
        control.send(ANSWER.pack(number) + f"fork: {error}".encode())
    else:
        if pid == 0:
            control.detach()
            ours.detach()
            _work(theirs.detach(), confinement, interpreter, memory_mib)
            return True
        process = os.pidfd_open(pid)
        told = DESCRIPTORS.pack(ours.fileno(), process)
        control.sendmsg((ANSWER.pack(number),), ((SOL_SOCKET, SCM_RIGHTS, told),))
        os.close(process)
    ours.close()
    theirs.close()
    return False


def _work(connection: int, confinement: Confinement, interpreter: Interpreter, memory_mib: int) -> None:
    """Become a worker, or end."""
    try:
        set_signal(SIGCHLD, SIG_DFL)
        _close_all_but(connection, confinement.ruleset)
        _open_own_null()
        interpreter.connect(connection)
        try:
            confine(confinement, memory_mib)
        except OSError as error:
            interpreter.report_failure(error.strerror or str(error))
            os._exit(1)
    except BaseException:
        os._exit(1)


def _open_own_null() -> None:
    """Open descriptors 0 to 2 anew: flags of an open file are shared by all processes that have inherited it."""
    own = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(own, descriptor)
    os.close(own)


def _close_all_but(kept: int, other: int | None) -> None:
    """Close every descriptor above 2 but those; the zygote itself never has many."""
    first, second = (kept, kept) if other is None else (kept, other) if kept < other else (other, kept)
    os.closerange(3, first)
    os.closerange(first + 1, second)
    os.closerange(second + 1, 256)
