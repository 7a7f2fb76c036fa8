"""Data sets as `keepstate dataset build` writes them, without traces."""

import json
from collections.abc import Sequence
from pathlib import Path

from keepstate.dataset import load_template
from keepstate.dataset.manifest import TEMPLATE, Manifest, Source, SplitCount
from keepstate.files import file_hash
from keepstate.vocabulary import RuntimeName

Row = Sequence[tuple[str, str]]
"""Texts of a user and of the model, in turn."""


def write_dataset(folder: Path, rows: Sequence[Row], *, longest: int = 9, template: str = "chatml") -> Path:
    """Write `rows` as the training split of a data set with an empty validation split."""
    folder.mkdir(parents=True)
    source = load_template(template)
    (folder / TEMPLATE).write_text(source.text)
    splits = {}
    for name, chosen in (("train", rows), ("val", ())):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"conversations": _turns(row)}) + "\n" for row in chosen))
        count = len(chosen)
        splits[name] = SplitCount(
            rows=count, tasks=count, turns=count, tokens=9 * count, trained_tokens=count, longest=longest,
            sha256=file_hash(path),
        )  # fmt: skip
    Manifest(
        keepstate="0",
        runtime=RuntimeName.PERSISTENT,
        template=Source(name=template, sha256=source.sha256),
        tokenizer=Source(name="none", sha256="0"),
        options={},
        read=len(rows),
        splits=splits,
        left_out={},
        shortened={},
    ).write(folder)
    return folder


def _turns(row: Row) -> list[dict[str, str]]:
    return [{"from": name, "value": text} for user, model in row for name, text in (("human", user), ("gpt", model))]
