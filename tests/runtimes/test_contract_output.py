"""The contract, part 2: what the agent sees of a block. Output in order, last values, tracebacks, Unicode, cuts."""

import re

import pytest
from playground import CODEACT, PERSISTENT, opened

from keepstate.runtimes import Sandbox
from keepstate.traces.record import Limits
from keepstate.vocabulary import RuntimeName

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.parametrize("runtime", CODEACT),
    pytest.mark.any_rung,
]

INTERLEAVED = """
import sys
print("1 print")
sys.stdout.write("2 write\\n")
print("3 error", file=sys.stderr)
sys.stderr.write("4 error\\n")
sys.stdout.writelines(["5 ", "lines\\n"])
print("6", end="")
print(" end", flush=True)
"""

OUTPUTS = [
    ("stdout and stderr in order", INTERLEAVED, "1 print\n2 write\n3 error\n4 error\n5 lines\n6 end\n"),
    ("last expression", "x = 20\nx + 22", "42\n"),
    ("last expression is a repr", "'a\\nb'", "'a\\nb'\n"),
    ("None is not shown", "None", ""),
    ("a call that returns None", "print('once')", "once\n"),
    ("after output", "print('a')\n5", "a\n5\n"),
    ("not the last statement", "5\nx = 1", ""),
    ("assignment", "x = 5", ""),
    ("inside a block of code", "if True:\n    5", ""),
    ("trailing comment", "5  # five\n# end\n", "5\n"),
    ("trailing semicolon", "3;5", "5\n"),
    ("empty", "", ""),
    ("only a comment", "# nothing", ""),
    ("unicode", "print('é 日本 \\U0001F600')", "é 日本 \U0001f600\n"),
    ("no newline at the end", "print('x', end='')", "x"),
    ("windows line ends", "print(1)\r\nprint(2)\r\n", "1\n2\n"),
    ("bytes", "import sys\nsys.stdout.buffer.write('é'.encode())\nNone", "é"),
    ("redirected", "import contextlib, io\ns = io.StringIO()\nwith contextlib.redirect_stdout(s):\n    print('in')\n"
                   "print(repr(s.getvalue()))", "'in\\n'\n"),
    ("future import", "from __future__ import annotations\nprint(1)", "1\n"),
    ("docstring", "'''text'''\nx = 1", ""),
    ("walrus and match", "match (n := 5):\n    case 5: print('five')", "five\n"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "output"), [row[1:] for row in OUTPUTS], ids=[row[0] for row in OUTPUTS])
async def test_output(sandbox: Sandbox, runtime: RuntimeName, code: str, output: str) -> None:
    async with opened(runtime, sandbox) as session:
        result = await session.run(code)
    assert (result.output, result.error, result.error_type) == (output, None, None)


async def test_a_traceback_shows_the_agents_frames_and_lines_alone(sandbox: Sandbox, runtime: RuntimeName) -> None:
    code = "import json\ndef inner(x):\n    return json.loads(x)\n\ndef outer():\n    return inner('{')\n\nouter()"
    async with opened(runtime, sandbox) as session:
        result = await session.run(code)
    assert result.error is not None
    assert result.error_type == "JSONDecodeError"
    frames = re.findall(r"line (\d+), in (\S+)\n\s+(.*)", result.error)
    assert frames == [
        ("8", "<module>", "outer()"),
        ("6", "outer", "return inner('{')"),
        ("3", "inner", "return json.loads(x)"),
    ]
    assert result.error.splitlines()[-1].startswith("json.decoder.JSONDecodeError: Expecting")
    assert "/json/" not in result.error
    assert "keepstate" not in result.error


async def test_a_frame_of_an_earlier_block_shows_its_own_line(sandbox: Sandbox, runtime: RuntimeName) -> None:
    if runtime is not PERSISTENT:
        pytest.skip("forget has no earlier blocks")
    async with opened(runtime, sandbox) as session:
        await session.output("\n\ndef broken():\n    return 1 / 0  # here")
        error = (await session.run("x = 1\nbroken()")).error
    assert error is not None
    assert "return 1 / 0  # here" in error
    assert "line 4, in broken" in error
    assert "line 2, in <module>" in error


ERRORS = [
    ("name", "print(1)\nmissing", "NameError", "name 'missing' is not defined"),
    ("syntax", "x = = 1", "SyntaxError", "invalid syntax"),
    ("indentation", "if 1:\nx", "IndentationError", "expected an indented block"),
    ("assert", "assert 1 > 2, 'no'", "AssertionError", "no"),
    ("own class", "class Mine(Exception): pass\nraise Mine('text')", "Mine", "Mine: text"),
    ("chained", "try: 1/0\nexcept Exception as e: raise KeyError('k') from e", "KeyError", "ZeroDivisionError"),
    ("import", "import not_there_at_all", "ModuleNotFoundError", "not_there_at_all"),
    ("input", "input('name? ')", "EOFError", "input"),
    ("read stdin", "import sys\nx = sys.stdin.read()\nraise KeyError(x)", "KeyError", "''"),
    ("sys.exit", "import sys\nsys.exit(3)", "SystemExit", "SystemExit: 3"),
    ("exit", "exit()", "SystemExit", "exit"),
    ("keyboard interrupt", "raise KeyboardInterrupt", "KeyboardInterrupt", "KeyboardInterrupt"),
    ("recursion", "def f(): return f()\nf()", "RecursionError", "recursion"),
    ("group", "raise ExceptionGroup('many', [ValueError('one')])", "ExceptionGroup", "one"),
    ("return outside", "return 5", "SyntaxError", "'return' outside function"),
    ("await outside", "await x", "SyntaxError", "await"),
    ("await at top level", "import asyncio\nawait asyncio.sleep(0)", "SyntaxError", "asyncio.run("),
    ("async with at top level", "async with x: pass", "SyntaxError", "asyncio.run("),
    ("async for at top level", "async for y in x: pass", "SyntaxError", "asyncio.run("),
    ("async comprehension", "[y async for y in x]", "SyntaxError", "asyncio.run("),
    ("await in a function", "def f():\n    await x", "SyntaxError", "asyncio.run("),
    ("an end of iteration", "x = next(iter([]))", "StopIteration", "line 1"),
    ("an end of iteration at the end", "x = 1\nnext(iter([]))", "StopIteration", "line 2"),
    ("end in a repr", "class A:\n    def __repr__(self): next(iter([]))\nA()", "StopIteration", "line 2"),
    ("null byte", "x = 1\0", "SyntaxError", "null"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "kind", "words"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS])
async def test_errors(sandbox: Sandbox, runtime: RuntimeName, code: str, kind: str, words: str) -> None:
    async with opened(runtime, sandbox) as session:
        result = await session.run(code)
        assert (result.error_type, result.state_lost) == (kind, False)
        assert result.error is not None
        assert words in result.error
        assert await session.works()


async def test_a_coroutine_that_is_not_run_is_told_how(sandbox: Sandbox, runtime: RuntimeName) -> None:
    """In one line, at the place of the agent's code, in the block itself."""
    start = "async def g():\n    return 5\n"
    line = "RuntimeWarning: coroutine 'g' was never awaited: run it by asyncio.run(g(...)), in async code await it\n"
    async with opened(runtime, sandbox) as session:
        assert re.sub("0x[0-9a-f]+", "N", await session.output(f"{start}g()")) == (
            f"<coroutine object g at N>\n<block 1>:3: {line}"
        )
        number = 2 if runtime is PERSISTENT else 1
        assert await session.output(f"{start}g()\nprint('on')") == f"<block {number}>:3: {line}on\n"
        assert "careful" in await session.output("import warnings\n\nwarnings.warn('careful')")
        assert "careful" in await session.output("import warnings\n\nwarnings.warn('careful')"), (
            "another block's line 3"
        )
        failed = await session.run(f"{start}len(g())")
        assert failed.error_type == "TypeError"
        assert failed.output.endswith(f": {line}")
        assert failed.output.count("\n") == 1
        assert await session.output(f"{start}import asyncio\nasyncio.run(g())") == "5\n"


async def test_output_before_an_error_is_kept(sandbox: Sandbox, runtime: RuntimeName) -> None:
    async with opened(runtime, sandbox) as session:
        result = await session.run("print('before')\n1/0")
    assert result.output == "before\n"
    assert result.error_type == "ZeroDivisionError"


async def test_a_syntax_error_runs_nothing(sandbox: Sandbox, runtime: RuntimeName) -> None:
    async with opened(runtime, sandbox) as session:
        result = await session.run("echo('first')\nx = (")
        assert session.environment.log == []
    assert result.output == ""


BIG = [
    "print('A' * 1000 + 'm' * 400_000 + 'Z' * 1000)",
    "for c, n in (('A', 1000), ('m' * 200, 2000), ('Z', 1000)):\n    for _ in range(n): print(c)",
    "import sys\nsys.stderr.write('A' * 1000 + 'm' * 400_000 + 'Z' * 1000)\nNone",
]


@pytest.mark.parametrize("how", BIG)
async def test_big_output_is_cut_with_head_tail_and_count(sandbox: Sandbox, runtime: RuntimeName, how: str) -> None:
    limits = Limits(output_chars=600, action_seconds=10)
    async with opened(runtime, sandbox, limits) as session:
        result = await session.run(how)
        assert await session.works()
    assert result.error is None
    assert result.output.startswith("A")
    assert result.output.rstrip("\n").endswith("Z")
    assert 600 <= len(result.output) <= 800
    counts = [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]+", result.output)]
    assert any(count > 400_000 for count in counts), "says how much there was"


async def test_output_at_the_limit_is_whole(sandbox: Sandbox, runtime: RuntimeName) -> None:
    async with opened(runtime, sandbox, Limits(output_chars=600, action_seconds=10)) as session:
        assert await session.output("print('x' * 599)") == "x" * 599 + "\n"


async def test_lone_surrogates_arrive_as_valid_unicode_or_as_themselves(sandbox: Sandbox, runtime: RuntimeName) -> None:
    async with opened(runtime, sandbox) as session:
        output = await session.output(r"print('\ud800 x')")
        assert "x" in output
        result = await session.run(r"raise KeyError('\udfff')")
        assert result.error_type == "KeyError"
        assert await session.output(r"print(echo('\ud800') == '\ud800')") == "True\n"


async def test_source_with_odd_characters(sandbox: Sandbox, runtime: RuntimeName) -> None:
    async with opened(runtime, sandbox) as session:
        assert await session.output("größe = 3\nprint(größe, '日')") == "3 日\n"
        assert (await session.run("x = '\ud800'\nprint(len(x))")).error_type in (
            None,
            "SyntaxError",
            "UnicodeEncodeError",
        )
        assert await session.works()
