"""The contract, part 1: what a block leaves to the next one. Persistent: everything. Forget: nothing at all."""

import asyncio
import os

import pytest
from playground import CODEACT, FORGET, PERSISTENT, opened, shown

from keepstate.runtimes import Sandbox
from keepstate.vocabulary import Rung, RuntimeName

pytestmark = pytest.mark.asyncio(loop_scope="module")

LEFT_BEHIND = [
    ("variable", "x = 41", "print(x + 1)", "42\n"),
    ("function", "def double(n):\n    return 2 * n", "print(double(21))", "42\n"),
    ("import", "import json", "print(json.dumps(None))", "null\n"),
    ("import from", "from math import floor as down", "print(down(1.5))", "1\n"),
    ("generator", "g = (n for n in range(9)); next(g)", "print(next(g))", "1\n"),
    ("object identity", "a = []; b = a", "a.append(1); print(b)", "[1]\n"),
    ("class", "class C:\n    n = 1\nC.n = 2", "print(C().n)", "2\n"),
]
"""What a first block leaves, and a second block that needs it: a NameError where it is gone."""

LEFT_IN_MODULES = [
    ("monkeypatched module", "import math\nmath.pi = 3", "import math\nprint(math.pi == 3)"),
    ("attribute of a module", "import json\njson.seen = 1", "import json\nprint(hasattr(json, 'seen'))"),
    ("module in sys.modules", "import sys, types\nsys.modules['mine'] = types.ModuleType('mine')",
     "import sys\nprint('mine' in sys.modules)"),
    ("recursion limit", "import sys\nsys.setrecursionlimit(777)", "import sys\nprint(sys.getrecursionlimit() == 777)"),
    ("random state", "import random\nrandom.seed(5); first = random.random(); random.seed(5)",
     "import random\nprint(random.random() == 0.6229016948897019)"),
    ("environment variable", "import os\nos.environ['KEPT'] = '1'", "import os\nprint('KEPT' in os.environ)"),
    ("decimal context", "import decimal\ndecimal.getcontext().prec = 3",
     "import decimal\nprint(decimal.getcontext().prec == 3)"),
    ("warning filter", "import warnings\nwarnings.simplefilter('error', UserWarning)",
     "import warnings\nprint(any(f[0] == 'error' and f[2] is UserWarning for f in warnings.filters))"),
]  # fmt: skip


@pytest.mark.parametrize(("leave", "need", "output"), [row[1:] for row in LEFT_BEHIND], ids=[r[0] for r in LEFT_BEHIND])
async def test_persistent_keeps_names_and_forget_none(sandbox: Sandbox, leave: str, need: str, output: str) -> None:
    async with opened(PERSISTENT, sandbox) as kept, opened(FORGET, sandbox) as lost:
        assert (await kept.run(leave)).error is None
        assert await kept.output(need) == output
        assert (await lost.run(leave)).error is None
        gone = await lost.run(need)
        assert gone.error_type == "NameError"
        assert not gone.state_lost, "forgetting is the rule here, not a loss"


@pytest.mark.parametrize(("leave", "ask"), [row[1:] for row in LEFT_IN_MODULES], ids=[r[0] for r in LEFT_IN_MODULES])
async def test_what_is_changed_inside_modules_follows_the_same_rule(sandbox: Sandbox, leave: str, ask: str) -> None:
    async with opened(PERSISTENT, sandbox) as kept, opened(FORGET, sandbox) as lost:
        await kept.output(leave)
        assert await kept.output(ask) == "True\n"
        await lost.output(leave)
        assert await lost.output(ask) == "False\n"


@pytest.mark.needs("files")
async def test_files_follow_the_same_rule(sandbox: Sandbox) -> None:
    write = "open('/tmp/kept-by-a-block.txt', 'w').write('kept')"
    read = "import os\nprint(os.path.exists('/tmp/kept-by-a-block.txt'))\nos.unlink('/tmp/kept-by-a-block.txt')"
    async with opened(PERSISTENT, sandbox) as kept, opened(FORGET, sandbox) as lost:
        await kept.output(write)
        assert await kept.output(read) == "True\n"
        await lost.output(write)
        assert await lost.output("import os\nprint(os.path.exists('/tmp/kept-by-a-block.txt'))") == "False\n"


async def test_random_numbers_differ_between_fresh_interpreters(sandbox: Sandbox) -> None:
    async with opened(FORGET, sandbox) as one, opened(FORGET, sandbox) as two:
        draws = [await s.output("import random\nprint(random.random())") for s in (one, one, two, two)]
    assert len(set(draws)) == 4
    async with opened(FORGET, sandbox) as session:
        addresses = [await session.output("import uuid\nprint(uuid.uuid4())") for _ in range(2)]
    assert addresses[0] != addresses[1]


async def test_two_episodes_share_nothing(sandbox: Sandbox) -> None:
    async with opened(PERSISTENT, sandbox) as one, opened(PERSISTENT, sandbox) as two:
        await one.output("import math\nmath.pi = 3\nx = 1")
        assert (await two.run("x")).error_type == "NameError"
        assert await two.output("import math\nprint(math.pi > 3)") == "True\n"


LEFT_OUTSIDE = [
    ("flags of the streams", "for fd in range(3): fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK | os.O_APPEND)",
     "print([fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_NONBLOCK | os.O_APPEND) for fd in range(3)])"),
    ("lock of a stream", "fcntl.flock(0, fcntl.LOCK_EX)",
     "fcntl.flock(os.open('/dev/null', os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)"),
    ("lock of a device", "kept = os.open('/dev/zero', os.O_RDONLY); fcntl.flock(kept, fcntl.LOCK_EX)",
     "fcntl.flock(os.open('/dev/zero', os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)"),
    ("lock of a shared file", "kept = os.open(LIBRARY, os.O_RDONLY); fcntl.lockf(kept, fcntl.LOCK_SH, 71, 13)",
     "print(fcntl.fcntl(os.open(LIBRARY, os.O_RDONLY), fcntl.F_GETLK, struct.pack('hhqqi', 1, 0, 0, 0, 0)))"),
    ("lock of an open file",
     "kept = os.open(LIBRARY, os.O_RDONLY)\nfcntl.fcntl(kept, 37, struct.pack('hhqqi', 0, 0, 5, 6, 0))",
     "print(fcntl.fcntl(os.open(LIBRARY, os.O_RDONLY), 36, struct.pack('hhqqi', 1, 0, 0, 0, 0)))"),
    *[(f"times of {path}", f"os.utime({path!r})", f"print(os.stat({path!r}).st_mtime_ns)")
      for path in ("/dev/null", "/dev/urandom", "/dev", "/")],
    ("times of a shared file", "os.utime(LIBRARY)", "print(os.stat(LIBRARY).st_mtime_ns)"),
    ("times of a stream", "os.utime(1)", "print(os.fstat(1).st_mtime_ns)"),
    ("mode of a stream", "os.fchmod(1, 0o600)", "print(os.fstat(1).st_mode)"),
    ("owner of a stream", "fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())", "print(fcntl.fcntl(0, fcntl.F_GETOWN))"),
    ("time that another has run", "sum(range(10**6))",
     "import time\nprint(time.clock_gettime(~OTHER << 3 | 2) > 0.0001)"),
    ("load of the machine", "kept = bytes(10**6)", "library = __import__('ctypes').CDLL(None)\n"
     "print(library.sysinfo(__import__('ctypes').create_string_buffer(200)) == 0)"),
    ("room on the disk", "", "print(os.statvfs(LIBRARY).f_bfree > 0)"),
]  # fmt: skip
"""What a block might leave at places that are not its own, and how the next block or another episode would see it."""


@pytest.mark.parametrize(("leave", "look"), [row[1:] for row in LEFT_OUTSIDE], ids=[row[0] for row in LEFT_OUTSIDE])
async def test_nothing_is_left_outside_an_interpreter(real_sandbox: Sandbox, leave: str, look: str) -> None:
    library = "os.__file__" if real_sandbox.rung is Rung.NAMESPACES else repr(os.__file__)  # where it can be opened
    start = f"import fcntl, os, struct\nLIBRARY = {library}\nOTHER = {{pid}}\n"

    def after(code: str, pid: int) -> str:
        lines = "".join(f"    {line}\n" for line in code.splitlines() or ["pass"])
        return f"{start.format(pid=pid)}try:\n{lines}except (OSError, ImportError) as error:\n    print(type(error))"

    async with opened(FORGET, real_sandbox) as one, opened(PERSISTENT, real_sandbox) as two:
        await two.output("sum(range(10**6))")
        if real_sandbox.rung is not Rung.SECCOMP:
            assert await two.output(f"import os\nos.close(os.open({library}, os.O_RDONLY))") == ""
        pid = two.runtime._worker.pid  # type: ignore[attr-defined]
        before = [shown(await session.run(after(look, pid))) for session in (one, two)]
        await one.run(after(leave, pid))
        async with opened(PERSISTENT, real_sandbox) as living:
            await living.run(after(leave, pid))
            assert [shown(await session.run(after(look, pid))) for session in (one, two)] == before
    assert "True" not in before[0], "nor is it told of another episode"


WAIT = """
import ctypes, os
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
place = libc.mmap(None, 4096, 1, 1, os.open(LIBRARY, os.O_RDONLY), 0)
word = ctypes.c_uint32.from_address(place)
seconds = ctypes.byref((ctypes.c_long * 2)(SECONDS, 0))
number = 202 if os.uname().machine == "x86_64" else 98
print(libc.syscall(number, ctypes.c_void_p(place), OPERATION, word, seconds, None, 0))
"""
"""A futex in a file of the standard library: operation 0 waits, 1 wakes."""


async def test_no_episode_wakes_another(real_sandbox: Sandbox) -> None:
    if real_sandbox.rung is Rung.SECCOMP:
        pytest.skip("no file can be opened there")
    library = "os.__file__" if real_sandbox.rung is Rung.NAMESPACES else repr(os.__file__)
    code = WAIT.replace("LIBRARY", library)
    async with opened(PERSISTENT, real_sandbox) as one, opened(FORGET, real_sandbox) as two:
        waiting = asyncio.ensure_future(one.output(code.replace("SECONDS", "1").replace("OPERATION", "0")))
        await asyncio.sleep(0.2)
        assert await two.output(code.replace("SECONDS", "0").replace("OPERATION", "1")) == "-1\n"
        assert await waiting == "-1\n"


async def test_globals_are_the_agents_names(sandbox: Sandbox) -> None:
    async with opened(PERSISTENT, sandbox) as session:
        first = await session.run("b = 1\ndef a():\n    pass\n_hidden = 2")
        second = await session.run("del b\nc = [n for n in range(3)]\necho = 5")
    assert first.globals is not None
    assert {"a", "b"} <= set(first.globals) <= {"a", "b", "_hidden"}
    assert list(first.globals) == sorted(first.globals)
    assert second.globals is not None
    assert {"a", "c"} <= set(second.globals) <= {"a", "c", "_hidden"}, "neither `b` nor the name of a tool"


async def test_forget_has_no_globals_to_show(sandbox: Sandbox) -> None:
    async with opened(FORGET, sandbox) as session:
        assert (await session.run("x = 1")).globals == ()


@pytest.mark.parametrize("runtime", CODEACT)
async def test_a_block_is_an_ordinary_main_module(sandbox: Sandbox, runtime: RuntimeName) -> None:
    code = """
import copy, dataclasses, pickle, sys, typing
@dataclasses.dataclass(order=True)
class Item:
    value: int
    tags: typing.List[str] = dataclasses.field(default_factory=list)
def main():
    item = Item(3, ["a"])
    again = pickle.loads(pickle.dumps(item))
    print(again == item, copy.deepcopy(item), Item.__module__, sys.modules["__main__"].Item is Item)
if __name__ == "__main__":
    main()
"""
    async with opened(runtime, sandbox) as session:
        assert await session.output(code) == "True Item(value=3, tags=['a']) __main__ True\n"


COMMON = "json re math random itertools collections heapq statistics datetime functools string textwrap bisect copy"


@pytest.mark.parametrize("runtime", CODEACT)
async def test_common_modules_work_at_every_rung(sandbox: Sandbox, runtime: RuntimeName) -> None:
    names = f"{COMMON} operator decimal fractions dataclasses enum typing time abc contextlib io hashlib".split()
    code = f"import {', '.join(names)}\nprint(statistics.mean([1, 3]), json.loads('[1]'), hashlib.sha256(b'').name)"
    async with opened(runtime, sandbox) as session:
        assert await session.output(code) == "2 [1] sha256\n"


@pytest.mark.needs("late_import")
async def test_late_imports_work(sandbox: Sandbox) -> None:
    code = "import mailbox, wave, plistlib\nprint(plistlib.dumps([1])[:5])"
    async with opened(PERSISTENT, sandbox) as session:
        assert await session.output(code) == "b'<?xml'\n"


async def test_imports_from_the_future_hold_as_other_imports_do(sandbox: Sandbox) -> None:
    begin = "from __future__ import annotations\ndef f(x: Missing): ...\nf.__annotations__"
    later = "def g(y: Missing): ...\ng.__annotations__"
    async with opened(PERSISTENT, sandbox) as kept, opened(FORGET, sandbox) as lost:
        assert await kept.output(begin) == await lost.output(begin) == "{'x': 'Missing'}\n"
        assert (await kept.run("from __future__ import nothing")).error_type == "SyntaxError"
        assert await kept.output(later) == "{'y': 'Missing'}\n"
        assert (await lost.run(later)).error_type == "NameError"


MACHINERY = [
    ("debugging of the collector", "import gc\ngc.set_debug(gc.DEBUG_STATS | gc.DEBUG_SAVEALL)",
     "import gc\nx = []\nx.append(x)\ndel x\ngc.collect()\nprint(gc.get_debug(), len(gc.garbage))", "0 0\n"),
    ("callbacks of the collector", "import gc\ngc.callbacks.append(lambda *_: print('called'))",
     "import gc\ngc.collect()\nNone", ""),
    ("tracing", "import sys\nsys.settrace(lambda *_: print('traced'))", "import sys\nprint(sys.gettrace())", "None\n"),
    ("profiling", "import sys\nsys.setprofile(lambda *_: None)", "import sys\nprint(sys.getprofile())", "None\n"),
    ("monitoring", "import sys\nm = getattr(sys, 'monitoring', None)\nif m:\n    m.use_tool_id(2, 'mine')\n"
     "    m.register_callback(2, m.events.PY_START, lambda *_: print('seen'))\n    m.set_events(2, m.events.PY_START)",
     "def f(): pass\nf()\nprint('quiet')", "quiet\n"),
    ("timers", "import signal\nfor which in range(3): signal.setitimer(which, 1000)",
     "import signal\nprint([signal.getitimer(which) for which in range(3)])", f"{[(0.0, 0.0)] * 3}\n"),
    ("descriptor of signals", "import os, signal\nr, w = os.pipe()\nos.set_blocking(w, False)\nsignal.set_wakeup_fd(w)",
     "import signal\nprint(signal.set_wakeup_fd(-1))", "-1\n"),
    ("streams", "import sys\nsys.stdout = sys.stderr = None", "print('shown')", "shown\n"),
]  # fmt: skip
"""What ends with its block in every runtime: it would run between blocks, or speak in the output of later ones."""


@pytest.mark.parametrize(("change", "ask", "answer"), [row[1:] for row in MACHINERY], ids=[row[0] for row in MACHINERY])
async def test_hooks_of_the_machinery_end_with_their_block(
    sandbox: Sandbox, change: str, ask: str, answer: str
) -> None:
    async with opened(PERSISTENT, sandbox) as session:
        await session.run(f"{change}\nNone")
        assert await session.output(ask) == answer
        assert await session.works()


async def test_a_collector_that_speaks_garbles_no_tool_call(sandbox: Sandbox) -> None:
    code = (
        "import gc\ngc.set_debug(gc.DEBUG_STATS)\ngc.set_threshold(1)\nx = [echo([n, [n]]) for n in range(20)]\n"
        "gc.set_threshold(700)\nassert x == [[n, [n]] for n in range(20)]"
    )
    async with opened(PERSISTENT, sandbox) as session:
        assert "gc: collecting" in await session.output(code)
        assert await session.works()


async def test_asyncio_runs_inside_a_block(sandbox: Sandbox) -> None:
    code = "import asyncio\nasync def main():\n    await asyncio.sleep(0)\n    return 7\nprint(asyncio.run(main()))"
    async with opened(PERSISTENT, sandbox) as session:
        assert await session.output(code) == "7\n"
