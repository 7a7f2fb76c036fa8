"""The contract, part 6: what a sandbox does not have is said in one line, by the error that code could expect."""

import pytest
from playground import FORGET, PERSISTENT, opened

from keepstate.runtimes import Sandbox
from keepstate.vocabulary import Rung

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROCESSES = "processes and programs cannot be started in this sandbox"
THREADS = "can't start new thread: there are no threads in this sandbox"
NETWORK = "there is no network in this sandbox"
SHARED = "there are no shared memory and no sizes of file systems in this sandbox"
OS_ERRORS = ("BlockingIOError", "FileNotFoundError", "PermissionError", "OSError")

REFUSED = {
    "fork": ("import os\nos.fork()", OS_ERRORS, PROCESSES),
    "spawn": ("import os\nos.posix_spawn('/bin/ls', ['ls'], {})", OS_ERRORS, PROCESSES),
    "exec": ("import os\nos.execvp('ls', ['ls'])", OS_ERRORS, PROCESSES),
    "terminal": ("import os\nos.forkpty()", OS_ERRORS, PROCESSES),
    "run": ("import subprocess\nsubprocess.run(['ls'])", OS_ERRORS, PROCESSES),
    "shell": ("import subprocess\nsubprocess.check_output('ls', shell=True)", OS_ERRORS, PROCESSES),
    "popen": ("import os\nos.popen('ls')", OS_ERRORS, PROCESSES),
    "process": ("import multiprocessing as m\nm.Process(target=print).start()", OS_ERRORS, PROCESSES),
    "pool": ("import multiprocessing as m\nm.Pool(2)", OS_ERRORS, PROCESSES),
    "queue": ("import multiprocessing as m\nm.Queue()", OS_ERRORS, PROCESSES),
    "lock": ("import multiprocessing as m\nm.Lock()", OS_ERRORS, PROCESSES),
    "executor": ("from concurrent.futures import *\nProcessPoolExecutor(2).submit(abs, -1)", OS_ERRORS, PROCESSES),
    "thread": ("import threading\nthreading.Thread(target=print).start()", ("RuntimeError",), THREADS),
    "low thread": ("import _thread\n_thread.start_new_thread(print, ())", ("RuntimeError",), THREADS),
    "timer": ("import threading\nthreading.Timer(1, print).start()", ("RuntimeError",), THREADS),
    "threads": ("from concurrent.futures import *\nThreadPoolExecutor(2).submit(abs, -1)", ("RuntimeError",), THREADS),
    "to_thread": ("import asyncio\nasyncio.run(asyncio.to_thread(abs, -1))", ("RuntimeError",), THREADS),
    "socket": ("import socket\nsocket.socket()", ("PermissionError",), NETWORK),
    "connection": ("import socket\nsocket.create_connection(('127.0.0.1', 80))", ("PermissionError",), NETWORK),
    "server": ("import socket\nsocket.create_server(('127.0.0.1', 0))", ("PermissionError",), NETWORK),
    "name": ("import socket\nsocket.gethostbyname('example.invalid')", ("gaierror",), NETWORK),
    "url": ("import urllib.request\nurllib.request.urlopen('http://example.invalid')", ("URLError",), NETWORK),
    "https": ("import urllib.request\nurllib.request.urlopen('https://example.invalid')", ("URLError",), NETWORK),
    "shared memory": (
        "from multiprocessing.shared_memory import *\nSharedMemory(create=True, size=9)",
        OS_ERRORS,
        SHARED,
    ),
    "shared value": ("import multiprocessing as m\nm.Value('i', 0)", OS_ERRORS, SHARED),
    "disk": ("import shutil\nshutil.disk_usage('/')", OS_ERRORS, SHARED),
    "http": ("import http.client\nhttp.client.HTTPConnection('127.0.0.1').connect()", ("PermissionError",), NETWORK),
    "asyncio": ("import asyncio\nasyncio.run(asyncio.open_connection('127.0.0.1', 9))", ("PermissionError",), NETWORK),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_is_not_there_is_said(real_sandbox: Sandbox, what: str) -> None:
    code, kinds, words = REFUSED[what]
    async with opened(PERSISTENT, real_sandbox) as session:
        await session.output("kept = 41")
        result = await session.run(code)
        assert result.error is not None
        assert "emporar" not in result.error, "nothing here is worth another try"
        if not (real_sandbox.rung is Rung.SECCOMP and result.error_type == "ModuleNotFoundError"):
            assert result.error_type in kinds
            assert words in result.error.splitlines()[-1]
        assert await session.output("print(kept + 1)") == "42\n"


async def test_a_shell_command_fails_aloud(real_sandbox: Sandbox) -> None:
    async with opened(FORGET, real_sandbox) as session:
        output = await session.output("import os\nprint(os.system('ls') != 0)")
    assert output == f"os.system: {PROCESSES}\nTrue\n"


@pytest.mark.parametrize("module", ["sqlite3", "ssl", "curses", "readline"])
async def test_a_module_without_its_system_library_is_not_available(real_sandbox: Sandbox, module: str) -> None:
    async with opened(FORGET, real_sandbox) as session:
        result = await session.run(f"import {module}\nprint('there')")
    if result.error is None:
        assert result.output == "there\n", "this Python has the library built in, or loaded already"
    elif result.error_type == "ImportError":
        assert result.error.endswith(f"{module} is not available in this sandbox: its system library is not there")
    else:
        assert result.error_type == "ModuleNotFoundError"


async def test_what_is_there_works_as_ever(real_sandbox: Sandbox) -> None:
    code = (
        "import asyncio, socket\na, b = socket.socketpair()\na.send(b'x')\nprint(b.recv(1), repr(a)[:14])\n"
        "async def f():\n    await asyncio.sleep(0)\n    return 7\nprint(asyncio.run(f()))"
    )
    async with opened(FORGET, real_sandbox) as session:
        assert await session.output(code) == "b'x' <socket.socket\n7\n"


async def test_at_the_unsafe_rung_processes_and_threads_are_as_ever(sandbox: Sandbox) -> None:
    if sandbox.rung is not Rung.PROCESS:
        pytest.skip("the other rungs refuse them")
    code = "import os, threading\nt = threading.Thread(target=print, args=('ran',))\nt.start()\nt.join()"
    async with opened(FORGET, sandbox) as session:
        assert await session.output(f"{code}\nos.system('true')") == "ran\n0\n"
