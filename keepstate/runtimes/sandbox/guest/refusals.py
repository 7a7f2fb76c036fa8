"""What the sandbox refuses, in words: the kernel's own speak of resources that are "temporarily unavailable".

The calls are made all the same, so that nothing here decides what is refused; an error keeps its class and number and
says what is missing instead. For Python's own functions alone: what calls the kernel by `ctypes` gets plain numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from socket import socket
from typing import Any

PROCESSES = "processes and programs cannot be started in this sandbox"
THREADS = "can't start new thread: there are no threads in this sandbox"
NETWORK = "there is no network in this sandbox"
SHARED = "there are no shared memory and no sizes of file systems in this sandbox"

Function = Callable[..., Any]


def put_into_words() -> None:
    """Replace the functions, before the modules are loaded that take them over by name."""
    started = ("fork", "forkpty", "posix_spawn", "posix_spawnp", "execv", "execve")
    asked = ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo")
    _replace("posix os", started, _os_error(PROCESSES))
    _replace("posix os", ("system",), _system)
    _replace("_posixsubprocess", ("fork_exec",), _os_error(PROCESSES))
    _replace("_multiprocessing", ("SemLock",), _os_error(PROCESSES))  # of which pools and queues are made
    _replace("_posixshmem", ("shm_open",), _os_error(SHARED))
    _replace("posix os", ("statvfs",), _os_error(SHARED))  # asked by multiprocessing's shared values first
    _replace("_thread", ("start_new_thread", "start_new", "start_joinable_thread"), _thread_error)
    _replace("_socket socket", asked, _os_error(NETWORK))
    socket.__init__ = _os_error(NETWORK)(socket.__init__)  # type: ignore[method-assign]
    _replace("_imp", ("create_dynamic",), _import_error)


def _replace(modules: str, names: tuple[str, ...], kind: Callable[[Function], Function]) -> None:
    """Replace functions of the first of `modules`, in all of them; what this Python does not have is left out."""
    try:
        holders = [import_module(module) for module in modules.split()]
    except ImportError:
        return
    for name in names:
        if (function := getattr(holders[0], name, None)) is not None:
            worded = kind(function)
            for holder in holders:
                if getattr(holder, name, None) is function:
                    setattr(holder, name, worded)


def _os_error(words: str) -> Callable[[Function], Function]:
    def kind(function: Function) -> Function:
        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            try:
                return function(*arguments, **named)
            except OSError as error:
                refused = type(error)(error.errno, words)
            raise refused

        return call

    return kind


def _thread_error(function: Function) -> Function:
    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except RuntimeError as error:
            refused = RuntimeError(THREADS if "start new thread" in str(error) else str(error))
        raise refused

    return call


def _import_error(function: Function) -> Function:
    @wraps(function)
    def call(spec: Any, *arguments: Any) -> Any:
        try:
            return function(spec, *arguments)
        except ImportError as error:
            words = f"{spec.name.lstrip('_')} is not available in this sandbox: its system library is not there"
            refused = ImportError(words if "shared object file" in str(error) else str(error), name=spec.name)
        raise refused

    return call


def _system(function: Function) -> Function:
    @wraps(function)
    def system(command: Any) -> Any:
        status = function(command)
        if status:
            print(f"os.system: {PROCESSES}", file=sys.stderr)  # where a shell says what it does not find
        return status

    return system
