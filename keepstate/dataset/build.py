"""Building data sets: traces in, ShareGPT JSONL with a manifest out, one folder an arm.

Run `keepstate dataset build`. Every row was proven (`keepstate.dataset.sample`); `keepstate dataset check` proves the
written files once more, with Axolotl's own tokens. Starts no training.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import IO, Any

from keepstate import __version__
from keepstate.dataset.convert import TOO_LONG, LeftOut
from keepstate.dataset.manifest import INDEX, LEFT_OUT, MANIFEST, TEMPLATE, Manifest, Source, SplitCount
from keepstate.dataset.options import Balance, BuildOptions, Length
from keepstate.dataset.sample import REMEDIES
from keepstate.dataset.scan import Arm, Entry, Progress, scan
from keepstate.dataset.select import Choice, choose
from keepstate.dataset.templates import ChatTemplate, load_template
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.errors import UserError
from keepstate.files import atomic_file, scratch_folder, write_atomic
from keepstate.vocabulary import RuntimeName


def build_dataset(
    trace_root: Path,
    runtime: RuntimeName,
    out: Path,
    *,
    template: str | Path | None = None,
    tokenizer_path: Path,
    pair_with: Mapping[RuntimeName, Path] | None = None,
    jobs: int | None = None,
    **chosen: Any,
) -> Manifest:
    """Build the data set of one runtime.

    Args:
        trace_root: Folder of its traces.
        runtime: The runtime they were recorded in.
        out: Folder to write `train.jsonl`, `val.jsonl`, `manifest.json` and `chat_template.jinja` into.
        template: A built-in chat template's name or a Jinja file; None chooses the built-in one for the tokenizer.
        tokenizer_path: A model folder or `tokenizer.json`.
        pair_with: Other arms and their trace folders, read for pairing and balance, not written.
        jobs: Processes; by default one a core.
        chosen: Which traces become rows: the fields of `BuildOptions`, such as `max_tokens=16384, length="cut"`.

    Returns:
        What was written.

    Raises:
        UserError: Nothing to read, nothing left to train on, a conversation too long under `length="raise"`.
    """
    arms = {runtime: trace_root} | dict(pair_with or {})
    return build_datasets(
        arms,
        {runtime: out},
        template=template,
        tokenizer_path=tokenizer_path,
        options=BuildOptions.model_validate(chosen),
        jobs=jobs,
    )[runtime]


def build_datasets(
    arms: Mapping[RuntimeName, Path],
    out: Mapping[RuntimeName, Path],
    *,
    template: str | Path | None,
    tokenizer_path: Path,
    options: BuildOptions,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> dict[RuntimeName, Manifest]:
    """Build several arms that are chosen together; those in `out` are written. See `build_dataset`."""
    if len(arms) < 2 and (options.paired or options.balance is not Balance.NONE):
        raise UserError(
            f"pairing and balance compare two arms or more; here is only {', '.join(arms)}",
            "name more: --runtime persistent --runtime forget, or leave --paired and --balance out",
        )
    tokenizer = TextTokenizer(tokenizer_path)
    chat_template = load_template(template or fitting_template(tokenizer))
    sources = {
        "template": Source(name=chat_template.name, sha256=chat_template.sha256),
        "tokenizer": Source(name=str(tokenizer_path), sha256=tokenizer.sha256),
    }
    with scratch_folder(next(iter(out.values())), ".build.") as work:
        read: dict[RuntimeName, Arm] = {}
        for runtime, root in arms.items():
            read[runtime] = scan(
                root,
                runtime,
                work / runtime,
                template=chat_template,
                tokenizer_path=tokenizer_path,
                options=options,
                jobs=jobs,
                progress=progress,
            )
            if options.length is Length.RAISE:
                _refuse_long(read[runtime], options)
        choices = choose({runtime: arm.entries for runtime, arm in read.items()}, options)
        for runtime, folder in out.items():
            _require_rows(folder, runtime, read[runtime], choices[runtime])
        return {
            runtime: _write(folder, runtime, read[runtime], choices[runtime], chat_template, sources, options)
            for runtime, folder in out.items()
        }


def fitting_template(tokenizer: TextTokenizer) -> str:
    """The built-in template for a model: `qwen3_nothink` where it has think tokens, else `chatml`."""
    return "qwen3_nothink" if "<think>" in tokenizer.specials else "chatml"


def _refuse_long(arm: Arm, options: BuildOptions) -> None:
    for left_out in arm.left_out:
        if left_out.reason == TOO_LONG:
            raise UserError(
                f"{left_out.path}: {left_out.detail}", "choose --length drop or cut, or a larger --max-tokens"
            )


def _require_rows(folder: Path, runtime: RuntimeName, arm: Arm, choice: Choice) -> None:
    """Refuse to write an arm without rows, before a data set that lies there is touched."""
    if choice.train:
        return
    with arm.spool.open("rb") as spool:
        left_out = _write_left_out(folder, arm, choice, spool)
    raise UserError(
        f"{runtime}: none of {arm.read} traces is left to train on: {_counts(left_out)}",
        _way_out(arm, left_out, folder),
    )


def _write(
    folder: Path,
    runtime: RuntimeName,
    arm: Arm,
    choice: Choice,
    template: ChatTemplate,
    sources: Mapping[str, Source],
    options: BuildOptions,
) -> Manifest:
    """Write one arm; its manifest comes last."""
    (folder / MANIFEST).unlink(missing_ok=True)  # a half-written data set has none
    shortened: Counter[str] = Counter()
    with arm.spool.open("rb") as spool, atomic_file(folder / INDEX) as index:
        left_out = _write_left_out(folder, arm, choice, spool)
        splits = {
            name: _write_split(folder, name, entries, arm, (spool, index, shortened))
            for name, entries in (("train", choice.train), ("val", choice.val))
        }
    write_atomic(folder / TEMPLATE, template.text)
    manifest = Manifest(
        keepstate=__version__,
        runtime=runtime,
        template=sources["template"],
        tokenizer=sources["tokenizer"],
        options=options.model_dump(mode="json"),
        read=arm.read,
        splits=splits,
        left_out=dict(sorted(left_out.items())),
        shortened=dict(sorted(shortened.items())),
    )
    manifest.write(folder)
    return manifest


def _write_left_out(folder: Path, arm: Arm, choice: Choice, spool: IO[bytes]) -> Counter[str]:
    """Name every trace that is in no split."""
    counts: Counter[str] = Counter()
    with atomic_file(folder / LEFT_OUT) as file:
        chosen_out = ((arm.row(spool, entry)[0], reason) for entry, reason in choice.left_out)
        told = (LeftOut(about["path"], reason, "", about.get("source", "")) for about, reason in chosen_out)
        for out in chain(arm.left_out, told):
            counts[out.reason] += 1
            file.write(json.dumps(asdict(out)).encode() + b"\n")
    return counts


def _write_split(
    folder: Path,
    name: str,
    entries: Sequence[Entry],
    arm: Arm,
    files: tuple[IO[bytes], IO[bytes], Counter[str]],
) -> SplitCount:
    """Write `<name>.jsonl` and its lines of the index."""
    spool, index, shortened = files
    digest = hashlib.sha256()
    with atomic_file(folder / f"{name}.jsonl") as file:
        for place, entry in enumerate(entries):
            about, line = arm.row(spool, entry)
            file.write(line)
            digest.update(line)
            shortened.update(about["shortened"])
            line_of_index = {"split": name, "row": place, **about, "content_hash": entry.content.hex()}
            line_of_index |= {"turns": entry.turns, "tokens": entry.tokens, "trained_tokens": entry.trained}
            index.write(json.dumps(line_of_index).encode() + b"\n")
    return SplitCount(
        rows=len(entries),
        tasks=len({entry.task for entry in entries}),
        turns=sum(entry.turns for entry in entries),
        tokens=sum(entry.tokens for entry in entries),
        trained_tokens=sum(entry.trained for entry in entries),
        longest=max((entry.tokens for entry in entries), default=0),
        sha256=digest.hexdigest(),
    )


def _way_out(arm: Arm, left_out: Counter[str], folder: Path) -> str:
    """What to do where nothing is left: the remedy of the commonest reason, and where it was met first."""
    reason = left_out.most_common(1)[0][0]
    if reason not in REMEDIES:
        return f"see {folder / LEFT_OUT}, or choose other options: keepstate dataset build --help"
    first = next(out for out in arm.left_out if out.reason == reason)
    return f"{REMEDIES[reason]}\nfirst: {first.source or first.path}: {first.detail}; {folder / LEFT_OUT} names all"


def _counts(left_out: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in left_out.most_common()) or "no trace was found"
