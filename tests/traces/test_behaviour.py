"""How an agent used its runtime: the names of a block, and the figures of an episode, each by its rule."""

import warnings
from collections.abc import Sequence
from typing import Any

import pytest
from acted import acted
from made_traces import make_trace

from keepstate.models.base import TokenUsage
from keepstate.runtimes.base import ToolCallLimit
from keepstate.traces.behaviour import MAX_CLASS_CHARS, MOST_CLASSES, Behaviour, behaviour, behaviour_figures
from keepstate.traces.importing import SOURCE
from keepstate.traces.names import MAX_CODE_CHARS, count_tokens, read_block
from keepstate.traces.record import CAP_HIT, StepEvent, ToolCall, Trace
from keepstate.vocabulary import FormatError, RuntimeName

PERSISTENT, FORGET, REACT = RuntimeName


@pytest.mark.parametrize(
    ("code", "bound", "reads"),
    [
        ("x = a\nprint(x)", "x", "a print"),
        ("t += 1", "t", "t"),
        ("for i, (v, *w) in s:\n    pass\nelse:\n    print(i)", "i v w", "s print"),
        ("a = b = c[k].d = e", "a b", "c k e"),
        ("x: int", "", "int"),
        ("x: int = y", "x", "int y"),
        ("del gone, d[0]", "", "gone d"),
        ("import a.b, c as d\nfrom e import f as g, h\nfrom i import *", "a d g h", ""),
        ("[i + k for i in ids for j in r(i) if j]", "", "ids k r"),
        ("[i for i in i]", "", "i"),
        ("[(w := i) for i in ids]\nw", "w", "ids"),
        ("g = [lambda: i + k for i in x]", "g", "x k"),
        ("if (n := f()) and n:\n    pass", "n", "f"),
        ("if a:\n    x = 1\nelse:\n    y = x\nx", "x y", "a x"),
        ("try:\n    x = f()\nexcept E as e:\n    print(e)\nfinally:\n    x", "x", "f E print"),
        ("try:\n    pass\nexcept* E as e:\n    pass\nprint(e)", "", "E print e"),
        ("def f(a, *b, c=d, **e) -> g:\n    h = a + k\n    return h", "f", "d g k"),
        ("def f():\n    return later\nlater = 1", "f later", ""),
        ("def f():\n    global n\n    n = m\n    import q", "f n", "m"),
        ("def f():\n    n = 1\n    def g():\n        nonlocal n\n        n = o\n    return g", "f", "o"),
        ("f = lambda p, q=r: p + s", "f", "r s"),
        ("class A(B):\n    c = d\n    e = c\n    def f(self):\n        return c", "A", "B d c"),
        ("with o(p) as (q, r.s):\n    q", "q", "o p r"),
        ("match v:\n    case {'k': a, **b} | K(x=a, y=b) if c:\n        a", "a b", "v K c"),
        ("match v:\n    case [1, *z] as all_:\n        z", "z all_", "v"),
        ("async def f():\n    async for x in y:\n        await z", "f", "y z"),
        ("print(f'{x!r:{w}}')", "", "print x w"),
        ("x = 1\ndel x\nx", "", "x"),
    ],
)
def test_names_of_a_block_are_those_of_the_interpreter(code: str, bound: str, reads: str) -> None:
    block = read_block(code)
    assert block is not None
    assert (set(block.bound), set(block.reads)) == (set(bound.split()), set(reads.split()))


@pytest.mark.parametrize(
    "code",
    [
        "x = (",
        "x = 1\0",
        "x = '\ud800'",
        "x = " + "9" * 5_000,
        "(" * 50_000,
        "-" * 50_000 + "1",
        "a" + ".b" * 25_000,
        "1 if 1 else " * 4_000 + "1",
        "x = 1\n" * (MAX_CODE_CHARS // 6 + 1),
    ],
    ids=["syntax", "null", "surrogate", "digits", "brackets", "minus", "attributes", "branches", "long"],
)
def test_code_that_nobody_can_read_is_unknown(code: str) -> None:
    assert read_block(code) is None
    trace = played([code, "print(1)"])
    assert (told := behaviour(trace)).actions == 2
    assert (told.state_use, told.imports, told.life, told.redundancy) == (None,) * 4


def test_reading_code_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_block("x = '\\d'") is not None


def played(
    codes: Sequence[str | None],
    results: Sequence[dict[str, Any]] = (),
    *,
    runtime: RuntimeName = PERSISTENT,
    texts: Sequence[str] = (),
    usages: Sequence[TokenUsage] = (),
) -> Trace:
    """A trace of these actions; the runtime tells what it holds unless `results` say otherwise."""
    trace = make_trace(answers=texts or [""] * len(codes), runtime=runtime)
    held: set[str] = set()
    events: list[Any] = []
    steps = iter(range(len(codes)))
    for event in trace.events:
        if not isinstance(event, StepEvent):
            events.append(event)
            continue
        turn = next(steps)
        block = read_block(codes[turn] or "")
        if block and runtime is PERSISTENT:
            held = (held | block.bound) - block.deleted
        told: dict[str, Any] = {"globals": tuple(sorted(held))} | (results[turn] if turn < len(results) else {})
        result = acted().model_copy(update={"seconds": 0.0} | told)
        changes = {"code": codes[turn], "interpreter_result": result}
        events.append(event.model_copy(update=changes | ({"token_usage": usages[turn]} if usages else {})))
    return trace.model_copy(update={"events": tuple(events)})


def told_of(*arguments: Any, **options: Any) -> Behaviour:
    return behaviour(played(*arguments, **options))


def test_state_use_counts_names_of_earlier_actions_in_every_runtime() -> None:
    codes = ["a = 1\nb = 2", "print(a, a, b, c)", "b = 3\nprint(b)", "print(a)"]
    assert told_of(codes).state_use == 3 / 4
    assert told_of(codes, runtime=FORGET).state_use == 3 / 4  # it relies on them, whether they are there or not
    assert told_of(['[{"tool": "f"}]'], runtime=REACT).state_use is None
    assert told_of(["a = 1", "del a", "a = 2", "a"]).state_use == 2 / 4


def test_a_life_reaches_from_a_definition_to_its_last_use() -> None:
    # a: 0 to 3; b: 0, never used; then b anew at 2, to 3; t: 1 to 3, as an update goes on with it
    codes = ["a = 1\nb = 2", "t = 0", "t += 1\nb = 3", "print(a, b, t)"]
    assert told_of(codes).life == (3 + 0 + 1 + 2) / 4
    assert told_of(["print(1)"]).life is None


def test_what_a_failed_block_defined_is_what_the_runtime_tells() -> None:
    failed = {"error": "trouble", "error_type": "KeyError"}
    codes = ["a = 1\nd[0]\nb = 2", "print(a, b)"]
    assert told_of(codes, [failed | {"globals": ("a",)}]).state_use == 1 / 2
    assert told_of(codes, [failed | {"globals": ()}], runtime=FORGET).state_use == 2 / 2
    assert told_of(["exec('z = 1')", "print(z)"], [{"globals": ("z",)}]).state_use == 1 / 2


def test_redundancy_is_code_that_defines_again_what_is_held() -> None:
    again = "import json\nseen = {'a': 1}\nkept = seen"
    helper = "def f(x):\n    return x"
    first = f"{again}\n{helper}\n"
    repeated = told_of([first, first])
    assert repeated.redundancy == 1 / 2
    assert repeated.imports == 1
    assert told_of([first, first], runtime=FORGET).redundancy == 0  # nothing is held there
    for new in ("seen['b'] = 2", "seen = seen | {}", "seen = load()", "def f(x):\n    return x + 1", "other = 1"):
        assert told_of([first, new]).redundancy == 0, new
    assert told_of([first, "print(1)\nseen = {'a': 1, 'b': 2}"]).redundancy == 15 / (15 + 4 + count_tokens(first))


def test_without_the_runtimes_word_persistent_keeps_what_was_bound() -> None:
    unknown = [{"globals": None}] * 2
    trace = played(["x = 1", "x = 1"], unknown)
    assert behaviour(trace).redundancy == 1 / 2
    assert behaviour(trace.model_copy(update={"versions": {SOURCE: "somewhere"}})).redundancy == 1 / 2


def test_what_lives_on_unannounced_is_held() -> None:
    cut = [{"error": "e", "error_type": CAP_HIT, "globals": ()}] * 2
    silent = RuntimeName("carry-after-cap")
    assert told_of(["x = 1", "x = 1"], cut, runtime=silent).redundancy == 1 / 2
    assert told_of(["x = 1", "x = 1"], runtime=silent).redundancy == 0


def test_errors_are_told_apart() -> None:
    assert ToolCallLimit.__name__ == CAP_HIT
    kinds = [None, CAP_HIT, "NameError", "UnboundLocalError", "E" * 500, "a\n|\ud800", "SyntaxError", "AnswerFormat"]
    results = [{"error": "e", "error_type": kind} if kind else {} for kind in kinds]
    codes = [*["x = 1"] * 7, None]
    told = told_of(codes, results, texts=[*[""] * 7, "No block."])
    assert (told.actions, told.cap_hits, told.missing_variables) == (6, 1, 2)
    assert told.other_errors == {"E" * MAX_CLASS_CHARS + "…": 1, r"a\n|\ud800": 1, "SyntaxError": 1}
    assert told.format_errors == {FormatError.NO_ACTION: 1}


@pytest.mark.parametrize(
    ("runtime", "text", "kind"),
    [
        (FORGET, "```python\n1\n```\n```python\n2\n```", FormatError.SEVERAL),
        (FORGET, "```python\n1", FormatError.UNCLOSED),
        (REACT, "Action: {}", FormatError.NO_CALLS),
        (REACT, "Action: [1", FormatError.NO_CALLS),
        (REACT, "Action: []\nAction: []", FormatError.SEVERAL),
        (REACT, "Action: [] then", FormatError.TEXT_AFTER),
        (REACT, "Thought: none", FormatError.NO_ACTION),
        (REACT, "Action: []", "unknown"),
    ],
)
def test_format_errors_have_kinds(runtime: RuntimeName, text: str, kind: str) -> None:
    assert told_of([None], [{"error_type": "AnswerFormat"}], runtime=runtime, texts=[text]).format_errors == {kind: 1}


def test_calls_are_repeated_where_tool_and_arguments_are_the_same() -> None:
    calls = [
        ToolCall("f", {"a": 1, "b": 2}),
        ToolCall("f", {"b": 2, "a": 1}),
        ToolCall("f", {"a": 2}, error="refused"),
        ToolCall("f", {"a": 2}),
    ]
    assert told_of(["f()", "f()"], [{"results": tuple(calls)}]).repeated_calls == 1 / 3
    assert told_of(["f()"]).repeated_calls is None


def test_tokens_are_billed_again_where_no_cache_held_them() -> None:
    def usage(prompt: int | None, written: int, cached: int | None) -> TokenUsage:
        return TokenUsage(prompt_tokens=prompt, completion_tokens=written, cached_tokens=cached)

    def billed(*usages: TokenUsage) -> int | None:
        return told_of(["1"] * len(usages), usages=usages).billed_again

    # 110 of the second prompt were held before, of which 96 from the cache; vLLM leaves a count of 0 out
    assert billed(usage(100, 10, 64), usage(130, 10, 96), usage(150, 10, None)) == 14 + 140
    assert billed(usage(100, 10, None), usage(130, 10, None)) is None
    assert billed(usage(None, 10, 5), usage(130, 10, 96)) is None
    assert billed(usage(100, 10, 0)) == 0


def test_seconds_are_those_of_model_sandbox_and_the_rest() -> None:
    trace = played(["1", "2"], [{"seconds": 0.5}, {"seconds": 0.25}])
    trace = trace.model_copy(
        update={"started_at": "2026-11-29T10:00:00+00:00", "finished_at": "2026-11-29T10:00:02+00:00"}
    )
    told = behaviour(trace)
    assert (told.model_seconds, told.sandbox_seconds, told.other_seconds) == pytest.approx((0.2, 0.75, 1.05))
    elsewhere = behaviour(trace.model_copy(update={"versions": {SOURCE: "somewhere"}}))
    assert (elsewhere.model_seconds, elsewhere.sandbox_seconds, elsewhere.other_seconds) == (None, None, None)


def test_an_episode_without_a_step_has_no_state() -> None:
    told = told_of([])
    assert (told.actions, told.state_use, told.repeated_calls) == (0, None, None)


def test_figures_are_means_over_tasks_of_what_is_known() -> None:
    uses = told_of(["a = 1", "print(a)"])
    unread, none = told_of(["(" * 300]), told_of([])
    figures = behaviour_figures([[uses, uses, uses], [unread], [none, told_of(["a = 1"])]])
    assert (figures.unknown, figures.state_use) == (1, (0.5 + 0) / 2)
    assert figures.prompt_tokens is None
    assert figures.cap_hits == 0
    assert behaviour_figures([]).actions is None


def test_only_the_most_frequent_errors_are_named() -> None:
    kinds = [f"E{number}" for number in range(MOST_CLASSES + 3)]
    many = told_of(["1"] * len(kinds), [{"error": "e", "error_type": kind} for kind in kinds])
    counts = behaviour_figures([[many]]).other_errors
    assert (len(counts), counts["..."], counts["E0"]) == (MOST_CLASSES + 1, 3, 1)
