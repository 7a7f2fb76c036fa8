"""The contract, part 5: what an agent prints of its stack, of modules and of Python is the same wherever we lie."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from playground import FORGET, PERSISTENT, opened, shown

from keepstate.runtimes import Sandbox
from keepstate.runtimes.sandbox import guest

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROJECT = Path(__file__).parents[2]
HOST = (sys.base_prefix, sys.prefix, str(PROJECT), str(Path.home()), "keepstate")
OWN_FILES = r"guest/|(?<!\w)(interpreter|zygote|tools|output|confine|tracebacks|wire)\.py"

# fmt: off
CODES = {
    "stack printed": "import traceback\ntraceback.print_stack()",
    "stack inspected": "import inspect\nprint([(f.filename, f.function) for f in inspect.stack()])",
    "frames walked": "import sys\nf = sys._getframe()\nwhile f:\n    print(f.f_code, sorted(f.f_globals))\n"
    "    f = f.f_back",
    "trace of a tool's error": "import traceback\ntry:\n    refuse('x')\nexcept ToolError:\n    traceback.print_exc()",
    "trace of a wrong call": "import traceback\ntry:\n    echo(object())\nexcept TypeError:\n    traceback.print_exc()",
    "trace through the library": "import json, traceback\ntry:\n    json.loads('{')\nexcept ValueError:\n"
    "    traceback.print_exc()",
    "trace through a stream": "import sys, traceback\ntry:\n    sys.stdout.write(5)\nexcept TypeError:\n"
    "    traceback.print_exc()",
    "stack while a value is shown": "class A:\n    def __repr__(self):\n        import traceback\n"
    "        traceback.print_stack()\n        return 'A'\nA()",
    "stack while an error is told": "class E(Exception):\n    def __str__(self):\n        import traceback\n"
    "        return ''.join(traceback.format_stack())\nraise E",
    "exception in a destructor": "class A:\n    def __del__(self):\n        1 / 0\na = A()\ndel a",
    "last value that dies": "class A:\n    def __del__(self):\n        1 / 0\nA()",
    "coroutine as last value": "async def g():\n    pass\ng()",
    "coroutine in a traceback": "async def g():\n    pass\nlen(g())",
    "coroutine of another loop": "import asyncio, gc\nasync def g():\n    await asyncio.sleep(9)\n"
    "loop = asyncio.new_event_loop()\nloop.create_task(g())\nloop.close()\ndel loop\ngc.collect()",
    "task that failed": "import asyncio\nasync def bad():\n    raise KeyError(1)\nasync def main():\n"
    "    asyncio.create_task(bad())\n    await asyncio.sleep(0.01)\nasyncio.run(main())",
    "warnings": "import warnings\nfor level in range(1, 9):\n    warnings.warn(f'level {level}', stacklevel=level)",
    "warning of the library": "import re\nre.compile('[[a]')\nre.template('a') if hasattr(re, 'template') else None",
    "python itself": "import sys\nprint(sys.path, sys.prefix, sys.exec_prefix, sys.base_prefix, sys.executable,"
    " sys.argv,"
    " sys.orig_argv, sys._stdlib_dir, sys.flags, list(sys.path_importer_cache))",
    "modules": "import sys\nfor name, module in sorted(sys.modules.items()):\n"
    "    print(name, module, getattr(module, '__spec__', None), getattr(module, '__path__', ''), getattr(module,"
    " '__cached__', ''))",
    "imported late": "import colorsys, inspect, os\nprint(colorsys, os.__file__, inspect.getfile(colorsys),"
    " colorsys.rgb_to_hsv.__code__)",
    "functions": "import gc, types\nprint({f.__code__.co_filename for f in gc.get_objects() if type(f) is"
    " types.FunctionType})",
    "profile": "import cProfile, json\ncProfile.run('json.dumps([1] * 3, indent=1)')",
    "log of an error": "import logging\ntry:\n    echo()\nexcept TypeError:\n    logging.exception('failed')",
    "interpreter's own dump": "import faulthandler, tempfile\nwith tempfile.TemporaryFile() as f:\n"
    "    faulthandler.dump_traceback(f)\n    f.seek(0)\n    print(f.read().decode())",
    "places of the installation": "import sysconfig\nprint(sysconfig.get_paths())",
    "help": "import json\nhelp(json.loads)\nhelp(json)",
    "tracing": "import sys\ndef trace(frame, *_):\n    print(frame.f_code.co_filename)\nsys.settrace(trace)\n"
    "def f():\n    return 1\nf()",
    "garbage that is told": "import gc\ngc.set_debug(gc.DEBUG_STATS)\ngc.collect()\nNone",
    "file that is not there": "open('/nowhere/at/all')",
    "deep recursion": "def f():\n    return f()\nf()",
}
# fmt: on


async def _said(sandbox: Sandbox) -> dict[str, str]:
    """What the agent sees of each, without addresses and times."""
    said = {}
    for name, code in CODES.items():
        async with opened(PERSISTENT, sandbox) as session:
            text = shown(await session.run(code)) + shown(await session.run("None"))
        said[name] = re.sub(r"0x[0-9a-f]+|\d+\.\d+(s| seconds)?|\(\d+, \d+\)", "N", text)
    return said


async def test_no_path_of_the_host_is_shown(sandbox: Sandbox) -> None:
    for name, text in (await _said(sandbox)).items():
        assert text.strip(), name
        found = [path for path in HOST if path in text]
        assert not found, f"{name}: {found} in {text[:3000]}"
        assert not re.search(OWN_FILES, text), f"{name}: {text[:3000]}"


async def test_another_folder_of_ours_changes_no_word(
    real_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(Path(guest.__file__).parent, tmp_path / "elsewhere" / "guest")
    for path in copy.glob("*.py"):
        if path.name != "__init__.py":
            path.write_text(path.read_text().replace("\n\n\n", "\n\n# a line more\n\n\n", 3))
    here = await _said(real_sandbox)
    monkeypatch.setattr(guest, "__file__", str(copy / "__init__.py"))
    async with Sandbox(isolation=real_sandbox.rung) as other:
        there = await _said(other)
    for name in CODES.keys() - {"garbage that is told", "modules", "functions", "profile"}:
        assert here[name] == there[name], name


async def test_the_stack_holds_the_agents_frames_and_one_of_ours(sandbox: Sandbox) -> None:
    code = "import traceback\ndef f():\n    return [(s.filename, s.name) for s in traceback.extract_stack()]\nf()"
    async with opened(FORGET, sandbox) as session:
        assert eval(await session.output(code)) == [
            ("<sandbox>", "<module>"),
            ("<block 1>", "<module>"),
            ("<block 1>", "f"),
        ]


@pytest.mark.needs("late_import")
async def test_source_of_the_library_can_be_read_under_its_name(sandbox: Sandbox) -> None:
    code = "import inspect, json, colorsys\nprint(*(inspect.getsource(m).count('def ') > 2 for m in (json, colorsys)))"
    async with opened(PERSISTENT, sandbox) as session:
        assert await session.output(code) == "True True\n"


async def test_installed_packages_are_not_there(real_sandbox: Sandbox) -> None:
    """Below the standard library lie packages of the host's Python: pip at the least."""
    code = (
        "import os, sys\nfolder = os.path.dirname(os.__file__)\n"
        "places = [f'{folder}/site-packages', HOST, HOST + '/pip', HOST + '/pip/__init__.py']\n"
        "for place in places:\n    for look in (os.listdir, open):\n        try:\n            print(look(place))\n"
        "        except OSError as error:\n            print(type(error).__name__)\n"
        "sys.path += places\n"
        "import pip"
    )
    host = f"{Path(shutil.__file__).parent}/site-packages"
    async with opened(PERSISTENT, real_sandbox) as session:
        result = await session.run(f"HOST = {host!r}\n{code}")
    assert result.error_type in ("ModuleNotFoundError", "PermissionError")
    assert set(result.output.split()) <= {
        "FileNotFoundError",
        "PermissionError",
        "IsADirectoryError",
        "NotADirectoryError",
        "[]",
    }, result.output
