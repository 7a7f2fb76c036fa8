"""Checking a whole data set against its traces, Axolotl's own tokens, and, if asked, a running server.

Run `keepstate dataset check data/datasets/persistent`. Axolotl runs as its own process in `.venv-train`; the server's
prompts come from its template and tokenizer on disk, or by `--server` from vLLM's `/tokenize`. A good check writes its
certificate into the manifest. Repairs nothing.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from keepstate import machine
from keepstate.dataset.convert import sharegpt_line
from keepstate.dataset.manifest import INDEX, TEMPLATE, Certificate, Manifest, ProvenRows, read_manifest
from keepstate.dataset.parity import PromptIds, RowReport, TrainingRow, compare, local_prompts
from keepstate.dataset.sample import end_of_turn
from keepstate.dataset.server_ids import server_prompts
from keepstate.dataset.templates import load_template
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.dataset.turns import TRAINING_KEY, masked_answers, training_flags
from keepstate.errors import UserError
from keepstate.files import ListHash, scratch_folder
from keepstate.models.base import Message
from keepstate.processes import run_logged
from keepstate.setup import environments, installing
from keepstate.traces.importing import stripped
from keepstate.traces.reader import read_trace
from keepstate.traces.record import ModelCallEvent
from keepstate.vocabulary import RuntimeName

FITTING = "build it for the model that is to be trained: keepstate dataset build --tokenizer FOLDER"
SCRIPT = Path(__file__).parent / "inside" / "axolotl_ids.py"
AXOLOTLS_OWN = "axolotl:"
CHARS_PER_JOB = 200_000
"""Less text than this is not worth another process of Axolotl's."""


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What to compare.

    By default the data set's own template stands on both sides.
    """

    folder: Path
    tokenizer_path: Path | None = None
    """Default: the one it was built with."""
    training_template: str | None = None
    """A Jinja file, `qwen3-stock`, or `axolotl:<name>` for one of Axolotl's own."""
    serving_template: str | None = None
    """A Jinja file, or `qwen3-stock`."""
    server: str | None = None
    """URL of a running vLLM, whose prompts are compared instead."""
    model: str | None = None
    """Name of a model on that server; default: its first."""

    @property
    def as_built(self) -> bool:
        """Whether the proof is about the data set as it is to be used: only that earns a certificate."""
        return not (self.tokenizer_path or self.training_template or self.serving_template)


@dataclass(slots=True)
class DatasetCheck:
    """What a check found."""

    rows: int = 0
    bad: list[tuple[str, RowReport]] = field(default_factory=list)
    """Trace and report of every row that is not proven."""
    turns: int = 0
    tokens: int = 0
    trained: int = 0
    unrecorded: int = 0
    """Rows of traces that hold no hashes of what was sent: imported ones."""
    certificate: Certificate | None = None
    by_runtime: dict[RuntimeName, DatasetCheck] = field(default_factory=dict)
    """The same of each runtime, in data of several."""

    def figures(self) -> dict[str, Any]:
        """What was found, for programs; `bad` by trace: turns out of context, with wrong labels, what prevented it."""
        return {
            "proven": not self.bad,
            "rows": self.rows,
            "turns": self.turns,
            "tokens": self.tokens,
            "trained": self.trained,
            "unrecorded": self.unrecorded,
            "bad": {
                trace: {"context_wrong": of.context_wrong, "mask_wrong": of.mask_wrong, "problem": of.problem or None}
                for trace, of in self.bad
            },
            "by_runtime": {str(runtime): of.figures() for runtime, of in self.by_runtime.items()},
        }

    def add(self, trace: str, report: RowReport, *, recorded: bool, runtime: RuntimeName | None = None) -> None:
        """Count one row."""
        if runtime is not None:
            self.by_runtime.setdefault(runtime, DatasetCheck()).add(trace, report, recorded=recorded)
        self.rows += 1
        self.unrecorded += not recorded
        self.turns += report.turns
        self.tokens += report.tokens
        self.trained += report.trained
        if not report.good:
            self.bad.append((trace, report))


def check_dataset(options: CheckOptions) -> DatasetCheck:
    """Prove every turn of a data set as built: it gets its certificate if all are proven, and loses it if not.

    Raises:
        UserError: No data set, changed since it was built, a full disk, or Axolotl or the server could not be asked.
    """
    (report,) = check_datasets([options])
    return report


def check_datasets(several: Sequence[CheckOptions]) -> Iterator[DatasetCheck]:
    """Prove several data sets, as `check_dataset` does each, in this order; Axolotl starts once for all of them.

    Raises:
        UserError: As there; of what concerns the files of one, before anything is proven.
    """
    with scratch_folder(Path(tempfile.gettempdir()), "keepstate-check.") as work:
        sides = [_both_sides(options, Path(work) / str(number)) for number, options in enumerate(several)]
        _run_axolotl(sides, Path(work))
        for each in sides:
            report = _report(each)
            if each.options.as_built:
                each.manifest.model_copy(update={"certificate": report.certificate}).write(each.options.folder)
            yield report


@dataclass(frozen=True, slots=True)
class _Sides:
    """What is compared of one data set: prompts as they are served, and where Axolotl's ids will lie."""

    options: CheckOptions
    manifest: Manifest
    tokenizer: TextTokenizer
    end: str
    """The token that ends an answer."""
    prompts: PromptIds
    ids: Path


def _both_sides(options: CheckOptions, scratch: Path) -> _Sides:
    manifest = read_manifest(options.folder)
    _require_unchanged(options.folder, manifest)
    _require_traces(options.folder)
    tokenizer_path = options.tokenizer_path or Path(manifest.tokenizer.name)
    tokenizer = TextTokenizer(tokenizer_path)
    if options.tokenizer_path is None and tokenizer.sha256 != manifest.tokenizer.sha256:
        raise UserError(f"{tokenizer.path} is not the tokenizer the data was built with", "build again, or --tokenizer")
    end = _end_of_turn(options.folder, tokenizer)
    prompts: PromptIds
    if options.server:
        prompts = server_prompts(options.server, options.model)
    else:
        prompts = local_prompts(load_template(options.serving_template or options.folder / TEMPLATE), tokenizer)
    scratch.mkdir()
    return _Sides(options, manifest, tokenizer, end, prompts, scratch / "ids.jsonl")


def _report(sides: _Sides) -> DatasetCheck:
    """Every row as Axolotl made it beside its trace."""
    options, manifest, tokenizer = sides.options, sides.manifest, sides.tokenizer
    report = DatasetCheck()
    with sides.ids.open() as lines:
        versions = json.loads(next(lines))
        for (about, held), line in zip(_conversations(options.folder, manifest), lines, strict=True):
            found = _compare(held, line, sides.prompts, tokenizer, tokenizer.specials[sides.end])
            report.add(about["path"], found, recorded=held.recorded, runtime=about.get("runtime"))
    if options.as_built and not report.bad:
        report.certificate = _certificate(options, manifest, report, versions["axolotl"])
    return report


@dataclass(frozen=True, slots=True)
class HeldConversation:
    """What a trace holds of a row."""

    messages: Sequence[Message] | str
    """The conversation; instead of one, why there is none."""
    trained: Sequence[bool] | None = None
    """Whether each answer is to be trained; None: all."""
    recorded: bool = True
    """Whether the hash of a prompt, taken when it was sent, was found in the trace and compared."""


def _compare(held: HeldConversation, line: str, prompts: PromptIds, tokenizer: TextTokenizer, end: int) -> RowReport:
    row = json.loads(line)
    if isinstance(held.messages, str):
        return RowReport(tokens=len(row["input_ids"]), problem=held.messages)
    made = TrainingRow(row["input_ids"], row["labels"])
    return compare(held.messages, made, prompts, tokenizer, end, held.trained)


def _conversations(folder: Path, manifest: Manifest) -> Iterator[tuple[dict[str, Any], HeldConversation]]:
    """Line of the index and conversation of every row, in order."""
    with (folder / INDEX).open() as index:
        for name in manifest.splits:
            with (folder / f"{name}.jsonl").open(encoding="utf-8") as rows:
                for row in rows:
                    about = json.loads(next(index))
                    yield about, _held(about, row, manifest)


def _held(about: dict[str, Any], row: str, manifest: Manifest) -> HeldConversation:
    """The conversation as the trace holds it, as far as the row goes."""
    train_turns = manifest.train_turns
    try:
        trace = read_trace(Path(about["path"]))
    except UserError as error:
        return HeldConversation(error.message)
    if manifest.options.get("strip_empty_think"):
        trace = stripped(trace)
    count = len(json.loads(row)["conversations"])
    messages = trace.messages[:count]
    trained = training_flags(messages, masked_answers(trace, messages, train_turns), train_turns)
    if sharegpt_line(messages, trained) + "\n" != row:
        return HeldConversation("the row is not what the trace says")
    calls = [event for event in trace.events if isinstance(event, ModelCallEvent)]
    conversation = ListHash()
    for event in sorted(calls, key=lambda event: event.num_messages):
        if conversation.of(trace.messages[: event.num_messages]) != event.prompt_hash:
            return HeldConversation(f"turn {event.turn}: what was sent is no prefix of the conversation")
    return HeldConversation(messages, trained, recorded=bool(calls))


def _require_unchanged(folder: Path, manifest: Manifest) -> None:
    if changed := manifest.changed_files(folder):
        raise UserError(
            f"{changed[0]} changed since its manifest was written", "build it again: keepstate dataset build"
        )
    if load_template(folder / TEMPLATE).sha256 != manifest.template.sha256:
        raise UserError(f"{folder / TEMPLATE} changed since the data was built", "build again: keepstate dataset build")


def _require_traces(folder: Path) -> None:
    """Refuse a check that could compare nothing, as from another working folder than the build's."""
    with (folder / INDEX).open() as index:
        paths = (Path(json.loads(line)["path"]) for line in index)
        first = next(paths)
        if not first.exists() and not any(path.exists() for path in paths):
            raise UserError(
                f"none of the traces that {folder} was built from is there (first: {first})",
                "their paths are as the build was given them: run this in the folder where that ran, or build again",
            )


def _end_of_turn(folder: Path, tokenizer: TextTokenizer) -> str:
    """What ends an answer in the data set's template."""
    token = end_of_turn(load_template(folder / TEMPLATE), tokenizer)
    if token is None:
        raise UserError(f"{tokenizer.path} has no token that ends an answer as {folder / TEMPLATE} does", FITTING)
    return token


def _run_axolotl(several: Sequence[_Sides], work: Path) -> None:
    """Let Axolotl tokenise every split of these data sets into their `ids`."""
    python = installing.ensure("train")
    jobs = work / "jobs.json"
    jobs.write_text(json.dumps([_axolotl_job(sides) for sides in several]))
    quiet = environments.NO_TELEMETRY | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    code, said = run_logged([python, "-I", SCRIPT, jobs], work / "axolotl.log", env=os.environ | quiet)
    if code:
        begun = [sides for sides in several if sides.ids.exists()] or several[:1]
        raise UserError(f"Axolotl could not tokenise {begun[-1].options.folder}:\n{said}", "see keepstate doctor")


def _axolotl_job(sides: _Sides) -> dict[str, Any]:
    """What `inside/axolotl_ids.py` is to do."""
    files = [sides.options.folder / f"{name}.jsonl" for name in sides.manifest.splits]
    size = sum(path.stat().st_size for path in files)
    return {
        "tokenizer": str(sides.tokenizer.path.parent.resolve()),
        "template": _axolotl_template(sides.options, sides.ids.with_name(TEMPLATE)),
        "training_key": TRAINING_KEY if sides.manifest.trains_by_turn else None,
        "end_of_turn": sides.end,
        "processes": max(1, min(machine.cores(), size // CHARS_PER_JOB)),
        "files": [str(path.absolute()) for path in files],
        "out": str(sides.ids),
    }


def _axolotl_template(options: CheckOptions, scratch: Path) -> str:
    """What Axolotl is given: a file, or the name of a template of its own."""
    chosen = options.training_template
    if chosen and chosen.startswith(AXOLOTLS_OWN):
        return chosen.removeprefix(AXOLOTLS_OWN)
    if chosen is None:
        return str(options.folder / TEMPLATE)
    scratch.write_text(load_template(chosen).text, encoding="utf-8")
    return str(scratch)


def _certificate(options: CheckOptions, manifest: Manifest, report: DatasetCheck, axolotl: str) -> Certificate:
    return Certificate(
        data_sha256=manifest.data_sha256,
        rows=report.rows,
        turns=report.turns,
        tokens=report.tokens,
        trained_tokens=report.trained,
        unrecorded=report.unrecorded,
        by_runtime={
            runtime: ProvenRows(rows=of.rows, turns=of.turns, tokens=of.tokens, trained_tokens=of.trained)
            for runtime, of in report.by_runtime.items()
        },
        axolotl=axolotl,
        server=options.server,
        checked_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
