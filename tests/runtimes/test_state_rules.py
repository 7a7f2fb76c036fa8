"""The runtimes between persistent and forget: what of the state is there in the next block, and what is told of it."""

import pickle

import pytest
from playground import FORGET, LIMITS, PERSISTENT, opened

from keepstate.runtimes import Sandbox
from keepstate.state import StateRule
from keepstate.traces.record import Limits
from keepstate.vocabulary import RuntimeName

pytestmark = pytest.mark.asyncio(loop_scope="module")

SILENT, ANNOUNCED = RuntimeName("carry-after-cap"), RuntimeName("carry-after-cap-announced")
VARIABLES_ONLY, LIFETIME_3 = RuntimeName("variables-only"), RuntimeName("lifetime-3")
TWO_CALLS = LIMITS.model_copy(update={"tool_calls": 2})
BEYOND = "for n in range(9): echo('a')"
KILLED_BEYOND = "import time\nwhile True:\n    try: echo('a')\n    except BaseException: pass"


async def test_names_are_closed_and_each_is_one_object() -> None:
    assert RuntimeName("lifetime-3") is LIFETIME_3
    assert pickle.loads(pickle.dumps(LIFETIME_3)) is LIFETIME_3
    assert (str(LIFETIME_3), LIFETIME_3.agent) == ("lifetime-3", "codeact")
    assert list(RuntimeName) == ["persistent", "forget", "react"], "all runtimes are those of the specification"
    for word in ("lifetime-1", "lifetime-0", "lifetime-1000", "lifetime-03", "lifetime", "carry", "Forget", ""):
        with pytest.raises(ValueError, match=r"lifetime-N .* variables-only"):
            RuntimeName(word)
    assert sorted([LIFETIME_3, *reversed(RuntimeName)], key=lambda name: name.place) == [*RuntimeName, LIFETIME_3]
    assert [StateRule.of(name).keeps(1, cut=True) for name in (PERSISTENT, FORGET)] == [True, False]


@pytest.mark.parametrize(("runtime", "shown"), [(SILENT, ()), (ANNOUNCED, ("n", "x"))])
async def test_state_is_carried_over_after_the_cap_alone(
    sandbox: Sandbox, runtime: RuntimeName, shown: tuple[str, ...]
) -> None:
    async with opened(runtime, sandbox, TWO_CALLS) as session:
        assert (await session.run("x = 1; echo('a'); echo('b')")).globals == (), "at the cap is not beyond it"
        assert (await session.run("x")).error_type == "NameError"
        cut = await session.run(f"x = 2\n{BEYOND}")
        assert (cut.error_type, cut.globals, cut.state_lost) == ("ToolCallLimit", shown, False)
        carried = await session.run("print(x, n)")
        assert (carried.output, carried.globals) == ("2 2\n", ())
        assert (await session.run("x")).error_type == "NameError", "that block was not cut, so nothing is left of it"
        assert (await session.run(f"x = 3\n{BEYOND}")).error_type == "ToolCallLimit"
        assert (await session.run(f"x += 1\n{BEYOND}")).error_type == "ToolCallLimit"
        assert await session.output("print(x)") == "4\n", "two that were cut in a row"


async def test_a_block_is_cut_once_a_call_was_refused_whatever_it_does_then(sandbox: Sandbox) -> None:
    hides = f"x = 5\ntry:\n    {BEYOND}\nexcept BaseException: pass\nprint('hid it')"
    fails = f"x = 6\ntry:\n    {BEYOND}\nexcept BaseException: 1 / 0"
    async with opened(ANNOUNCED, sandbox, TWO_CALLS) as session:
        for block, x in ((hides, 5), (fails, 6)):
            cut = await session.run(block)
            assert (cut.error_type, "x" in (cut.globals or ())) == ("ToolCallLimit", True)
            assert await session.output("print(x)") == f"{x}\n"


async def test_a_lost_interpreter_carries_nothing_over_and_says_so(sandbox: Sandbox) -> None:
    async with opened(ANNOUNCED, sandbox, TWO_CALLS) as session:
        lost = await session.run(KILLED_BEYOND)
        assert (lost.error_type, lost.globals, lost.state_lost) == ("ToolCallLimit", (), True)
        assert "All variables are gone" in (lost.error or "")
        exits = await session.run("import os; os._exit(1)")
        assert (exits.state_lost, "variables are gone" in (exits.error or "")) == (False, False)


async def test_a_lifetime_counts_every_block_that_was_executed(sandbox: Sandbox) -> None:
    async with opened(LIFETIME_3, sandbox) as session:
        results = [await session.run(block) for block in ("x = 1", "1 / 0", "x +", "x", "x = 2", "x", "x")]
        assert [r.error_type for r in results] == [
            None, "ZeroDivisionError", "SyntaxError", "NameError", None, None, "NameError",
        ]  # fmt: skip
        assert [r.globals for r in results] == [("x",), ("x",), (), (), ("x",), (), ()]
        assert not any(r.state_lost for r in results)


async def test_a_lifetime_starts_anew_where_the_interpreter_was_lost(sandbox: Sandbox) -> None:
    async with opened(LIFETIME_3, sandbox) as session:
        assert (await session.run("import os; os._exit(1)")).state_lost
        await session.output("x = 1")
        await session.output("pass")
        gone = await session.run("x; import os; os._exit(1)")
        assert not gone.state_lost, "its time was over"


VARIABLES = """
import math, json as js
from math import pi, floor
from functools import cache, partial
def f(n): return n + base
class Point:
    def __init__(self, x): self.x = x
base = 40
g = lambda n: n
cached, part, bound = cache(f), partial(f, 1), [].append
def make():
    hidden = 7
    return lambda: hidden
table = {"f": f, "closure": make(), "module": math}
point, squares, gen = Point(3), [i * i for i in range(3)], (i for i in range(3))
_private, _helper = 1, f
"""


async def test_variables_only(sandbox: Sandbox) -> None:
    async with opened(VARIABLES_ONLY, sandbox) as session:
        first = await session.run(VARIABLES)
        assert first.globals == ("base", "gen", "pi", "point", "squares", "table")
        gone = "math js floor cache partial f Point make g cached part bound _helper".split()  # noqa: SIM905
        ask = f"print([n for n in {[*gone, '_helper']!r} if n in globals()])"
        assert await session.output(ask) == "[]\n"
        # what a variable holds stays whole: an instance and its class, functions and modules in a container
        assert await session.output("print(point.x, type(point).__name__, table['f'](2), table['closure']())") == (
            "3 Point 42 7\n"
        )
        assert await session.output("print(squares, next(gen), _private, table['module'].pi == pi)") == (
            "[0, 1, 4] 0 1 True\n"
        )
        assert (await session.run("math.floor(1.5)")).error_type == "NameError"
        assert await session.works(), "tools are there all the same"


async def test_variables_only_leaves_nothing_on_a_tool(sandbox: Sandbox) -> None:
    hang = "echo.helper = lambda: 1\nadd.__code__ = (lambda: 1).__code__\necho.__doc__ = 'mine'\nprint(add())"
    for runtime, kept in ((VARIABLES_ONLY, "[] False"), (RuntimeName.PERSISTENT, "['helper'] True")):
        async with opened(runtime, sandbox) as session:
            assert await session.output(hang) == "1\n"
            look = "print([*vars(echo)], echo.__doc__ == 'mine')"
            assert await session.output(look) == f"{kept}\n"
            assert (await session.works()) is (runtime is VARIABLES_ONLY), "a tool is a name like any other"


async def test_variables_only_drops_imports_from_future_and_after_errors(sandbox: Sandbox) -> None:
    async with opened(VARIABLES_ONLY, sandbox) as session:
        failed = await session.run("from __future__ import annotations\nimport math\nx = 1\n1 / 0")
        assert failed.globals == ("annotations", "x"), "its value is one like any other, its effect is over"
        assert (await session.run("def f(a: missing): pass")).error_type == "NameError", "annotations are evaluated"
        await session.output("globals()[5] = print; __doc__ = 'd'")
        assert await session.output("print(x, __name__, __doc__)") == "1 __main__ d\n"


async def test_a_destructor_of_what_is_taken_away_is_within_the_time_limit(sandbox: Sandbox) -> None:
    block = "class D:\n    def __del__(self):\n        while True: pass\ndef f(a=D()): pass\ndel D\nx = 1"
    async with opened(VARIABLES_ONLY, sandbox, Limits(action_seconds=0.3)) as session:
        assert (await session.run(block)).globals == ("x",)
        assert await session.output("print(x)") == "1\n"


HIDES = {
    "a name that is no plain str": "class S(str): pass\nglobals()[S('f')] = lambda: 1",
    "a name like the interpreter's own": "__f__ = lambda: 1\nglobals()['f'] = 1\ndel f\n__loader__ = print",
    "a class of the module's own": (
        "import __main__, types\nshown = {'decoy': 1}\n"
        "class M(types.ModuleType):\n    __dict__ = property(lambda self: shown)\n"
        "__main__.__class__ = M\ndef f(): pass"
    ),
}


@pytest.mark.parametrize("code", HIDES.values(), ids=HIDES)
async def test_variables_only_goes_by_no_name_or_class_that_code_makes_up(sandbox: Sandbox, code: str) -> None:
    async with opened(VARIABLES_ONLY, sandbox) as session:
        shown = (await session.run(code)).globals or ()
        assert "decoy" not in shown
        assert await session.output("print([n for n in globals() if callable(globals()[n])])") == (
            "['echo', 'add', 'refuse', 'repeat', 'nothing', 'finish']\n"
        )


async def test_what_cannot_be_taken_away_costs_the_interpreter(sandbox: Sandbox) -> None:
    raises = (
        "class S(str):\n    armed = False\n    def __hash__(self):\n"
        "        if S.armed: raise KeyError\n        return str.__hash__(self)\n"
        "globals()[S('f')] = print\ndef g(): pass\nS.armed = True\nx = 1"
    )
    async with opened(VARIABLES_ONLY, sandbox) as session:
        lost = await session.run(raises)
        assert (lost.error_type, lost.state_lost, lost.globals) == ("InterpreterExit", True, ())
        assert (await session.run("g()")).error_type == "NameError"


async def test_persistent_takes_nothing_away(sandbox: Sandbox) -> None:
    async with opened(PERSISTENT, sandbox) as session:
        assert "f" in ((await session.run(VARIABLES)).globals or ())
