"""Traces whose every text is an attack on the page that shows it, written as files."""

import re
from pathlib import Path

from acted import acted
from made_traces import make_trace

from keepstate.traces import Trace, write_trace
from keepstate.traces.record import ActionResult, StepEvent, ToolCall
from keepstate.vocabulary import RuntimeName

ATTACKS = (
    "<script>document.title='ran'</script>",
    "<img src=x onerror=\"document.title='ran'\">",
    "\"><svg onload=document.title='ran'><a href=\"javascript:document.title='ran'\">go</a>",
    "'><iframe srcdoc='<script>parent.document.title=1</script>'></iframe><base href=http://example.invalid/>",
    "</pre></main></title></style></script><script>alert(1)</script><!-- <![CDATA[ {{ 7*7 }} {% x %} &lt;b&gt;",
    "\x01 onmouseover=alert(1) x=\x07",
    "\x1b[2J\x1b]0;title\x07 \u202eevil\u2066\u061c\ufeff\u200b \x00 \r\r \ud800 \x9b31m",
)
ATTACK = "\n".join(ATTACKS)
CODE = 'import json\nfor item in list_items():  # \'\'\' """\n    print(f\'{item}\', """<b>""", 0x1F)\n'


def with_results(trace: Trace, results: list[ActionResult]) -> Trace:
    """`trace`, whose steps did this."""
    left = iter(results)
    events = [
        event.model_copy(update={"interpreter_result": next(left), "code": _code(event.assistant_text)})
        if isinstance(event, StepEvent)
        else event
        for event in trace.events
    ]
    errors: dict[str, int] = {}
    for result in results:
        if result.error_type:
            errors[result.error_type] = errors.get(result.error_type, 0) + 1
    summary = trace.summary.model_copy(update={"errors": errors})
    return trace.model_copy(update={"events": tuple(events), "summary": summary})


def _code(answer: str) -> str | None:
    found = re.search(r"```python\n(.*?)\n```", answer, re.DOTALL)
    return found[1] if found else None


def hostile_trace(runtime: RuntimeName = RuntimeName.PERSISTENT) -> Trace:
    """Two turns of attacks in every text that a model, its code or a tool can choose."""
    answer = f"{ATTACK}\n```python\n{CODE}{ATTACK}\n```\n{ATTACK}"
    trace = make_trace(
        answers=[answer, answer], observation=ATTACK, goal=ATTACK, system=ATTACK, runtime=runtime, score=0.5
    )
    call = ToolCall(ATTACK, {ATTACK: ATTACK}, output={ATTACK: [ATTACK]}, error=ATTACK)
    result = acted(ATTACK, error=ATTACK, error_type=ATTACK, globals=(ATTACK,), results=(call, ToolCall("t", {}, "x")))
    hostile = with_results(trace, [result, result])
    return hostile.model_copy(update={"model": ATTACK, "versions": {"keepstate": ATTACK}})


def forgetful_trace(runtime: RuntimeName, number: int = 0) -> Trace:
    """Three turns; where nothing is kept the second misses what the first had made."""
    keeps = runtime is RuntimeName.PERSISTENT
    code = ("x = 1", "print(x)", "y = 2\nfinish()")
    answers = [f"Step {step}.\n```python\n{text}\n```" for step, text in enumerate(code)]
    missing = acted(error="NameError: name 'x' is not defined", error_type="NameError", globals=())
    results = [
        acted(globals=("x",) if keeps else ()),
        acted("1\n", globals=("x",)) if keeps else missing,
        acted(globals=("x", "y") if keeps else ()),
    ]
    return with_results(make_trace(number, answers=answers, runtime=runtime, score=float(keeps)), results)


def write_runs(root: Path, tasks: int = 1) -> Path:
    """`root/persistent` and `root/forget` with so many tasks each."""
    for runtime in (RuntimeName.PERSISTENT, RuntimeName.FORGET):
        for number in range(tasks):
            write_trace(root / runtime, forgetful_trace(runtime, number))
    return root
