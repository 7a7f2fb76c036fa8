"""What the research code's conversion trains out of context: python benchmarks/research_conversion.py DATASET ...

For the traces of each data set: what that code's agent would have sent at every turn, against what its converter writes
for the same episode and Axolotl makes of it; each habit alone, then all. Facts from
github.com/mrcabbage972/agents-learn-runtime at 5ba1133, restated here, none of its code: Qwen's own template stands on
both sides; its agent sends three system messages or more, a note on globals before every answer that is not kept, and
the whole result of a block; its converter joins the system messages, knows no note, and keeps of a result the error or
else the output. CodeAct data sets of Qwen3's tokenizer only. Changes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from keepstate.dataset.inside.axolotl_ids import DATASET
from keepstate.dataset.manifest import INDEX, read_manifest
from keepstate.dataset.parity import RowReport, TrainingRow, compare, total
from keepstate.dataset.templates import QWEN3_STOCK, ChatTemplate, load_template
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.models.base import Message
from keepstate.setup import environments, installing
from keepstate.traces import read_trace
from keepstate.traces.record import ActionResult, Trace
from keepstate.vocabulary import RuntimeName

SCRIPT = Path(__file__).parents[1] / "keepstate" / "dataset" / "inside" / "axolotl_ids.py"
SYSTEM_MESSAGES = 3
THINK = "the think block"
SYSTEM = "system messages joined"
RESULT = "observations"
NOTE = "the note on globals"
HABITS = (THINK, SYSTEM, RESULT, NOTE)


def sent(trace: Trace, turn: int, habits: Sequence[str]) -> list[Message]:
    """What the agent sends before turn `turn`: keepstate's conversation, but for these habits."""
    messages = list(trace.messages[: 2 + 2 * turn])
    if RESULT in habits:
        for number, step in enumerate(trace.steps[:turn]):
            messages[3 + 2 * number] = Message(role="user", content=json.dumps(whole(step.interpreter_result)))
    if SYSTEM in habits:
        parts = messages[0]["content"].split("\n\n", SYSTEM_MESSAGES - 1)
        messages[:1] = [Message(role="system", content=part) for part in parts]
    if NOTE in habits and trace.runtime is RuntimeName.PERSISTENT:
        names = list(trace.steps[turn - 1].interpreter_result.globals or ()) if turn else []
        note = f"Python interpreter globals: {json.dumps(names)}"
        messages.append(Message(role="user", content=note))
    return messages


def whole(result: ActionResult) -> dict[str, object]:
    """A block's result as that agent shows it."""
    return {"success": result.error is None, "result": None, "output": result.output, "error": result.error}


def row(trace: Trace, habits: Sequence[str]) -> list[Message]:
    """What the converter writes: a silent block leaves two answers in a row."""
    messages = [*trace.messages[:2]]
    for number, step in enumerate(trace.steps):
        messages.append(Message(role="assistant", content=step.assistant_text))
        if number == len(trace.steps) - 1:
            break
        result = step.interpreter_result
        kept = {"error": result.error} if result.error else {"output": result.output}
        if RESULT not in habits:
            messages.append(trace.messages[3 + 2 * number])
        elif any(kept.values()):
            messages.append(Message(role="user", content=json.dumps(kept)))
    return messages


def axolotl(rows: Sequence[Sequence[Message]], tokenizer: Path, template: ChatTemplate) -> list[TrainingRow]:
    """Axolotl's own ids and labels of these conversations."""
    with tempfile.TemporaryDirectory() as name:
        jsonl, jinja, ids, jobs = (Path(name) / part for part in ("rows.jsonl", "t.jinja", "ids.jsonl", "jobs.json"))
        jsonl.write_text("".join(json.dumps({"messages": list(messages)}) + "\n" for messages in rows))
        jinja.write_text(template.text)
        names = {"field_messages": "messages", "message_property_mappings": {"role": "role", "content": "content"}}
        job = {"tokenizer": tokenizer.resolve(), "template": jinja, "out": ids, "dataset": DATASET | names}
        jobs.write_text(json.dumps([job | {"files": [str(jsonl)]}], default=str))
        command = [installing.ensure("train"), "-I", SCRIPT, jobs]
        env = os.environ | environments.NO_TELEMETRY | {"HF_HUB_OFFLINE": "1"}
        subprocess.run(list(map(str, command)), check=True, capture_output=True, env=env)
        lines = ids.read_text().splitlines()[1:]
    return [TrainingRow(found["input_ids"], found["labels"]) for found in map(json.loads, lines)]


def report(traces: Sequence[Trace], habits: Sequence[str], tokenizer: TextTokenizer) -> RowReport:
    """How many turns and trained tokens these habits put out of context."""
    template = load_template(QWEN3_STOCK if THINK in habits else "qwen3_nothink")
    trained = axolotl([row(trace, habits) for trace in traces], tokenizer.path.parent, template)
    reports = []
    for trace, found in zip(traces, trained, strict=True):

        def prompt_ids(messages: Sequence[Message], trace: Trace = trace) -> list[int]:
            turn = len(messages) // 2 - 1
            return tokenizer.ids(template.render(sent(trace, turn, habits), generation_prompt=True))

        reports.append(compare(trace.messages, found, prompt_ids, tokenizer, tokenizer.specials["<|im_end|>"]))
    return total(reports)


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", type=Path)
    for folder in parser.parse_args().datasets:
        tokenizer = TextTokenizer(Path(read_manifest(folder).tokenizer.name))
        index = map(json.loads, (folder / INDEX).read_text().splitlines())
        traces = [read_trace(Path(about["path"])) for about in index]
        for habits in ((), *((habit,) for habit in HABITS), HABITS):
            found = report(traces, habits, tokenizer)
            name = "all of these" if habits == HABITS else " and ".join(habits) or "keepstate's conversion"
            print(
                f"{folder.name:10}  {name:24} {found.context_wrong:5,} of {found.turns:,} turns out of context, "
                f"{found.trained_wrong:7,} of {found.trained:,} trained tokens in such turns",
                flush=True,
            )


if __name__ == "__main__":
    main()
