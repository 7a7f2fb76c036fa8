"""What Axolotl itself makes of data sets: its token ids and labels, one JSON line a row.

    .venv-train/bin/python -I axolotl_ids.py JOBS.json

A job, of the list in that file, has the keys of `run`; Axolotl takes 8 to 15 s to start, whatever their number. Uses
Axolotl's own tokenizer loader and `chat_template` strategy, set up as `keepstate train` sets them up. Trains nothing,
loads no weights, and knows nothing of keepstate.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DATASET = {
    "type": "chat_template",
    "field_messages": "conversations",
    "message_property_mappings": {"role": "from", "content": "value"},
    "roles_to_train": ["assistant"],
    "train_on_eos": "turn",
}
"""How a training config reads these files; a test compares it with those in `train/configs`."""
CHUNK = 8

_strategy: Any


def load_strategy(tokenizer: str, template: str, dataset: dict[str, Any], end_of_turn: str | None = None) -> None:
    """Set up Axolotl's tokenising strategy in this process."""
    global _strategy  # noqa: PLW0603  (a process pool's initializer has no other place for its state)
    from axolotl.loaders import load_tokenizer
    from axolotl.prompt_strategies.chat_template import load
    from axolotl.utils.dict import DictDefault

    cfg = DictDefault(
        {
            "base_model": tokenizer,
            "base_model_config": tokenizer,
            "tokenizer_config": tokenizer,
            "tokenizer_use_fast": True,
            "chat_template": "jinja" if os.path.exists(template) else template,
            "chat_template_jinja": template,
            "sequence_len": 10**9,
            "train_on_inputs": False,
        }
    )
    if end_of_turn:
        cfg["eot_tokens"] = [end_of_turn]
    _strategy = load(load_tokenizer(cfg), cfg, ds_cfg=dataset)


def tokenise(line: str) -> str:
    """One row of the data set to one line of output."""
    result = _strategy.tokenize_prompt(json.loads(line))
    return (
        json.dumps({"input_ids": list(result["input_ids"]), "labels": list(result["labels"])}, separators=(",", ":"))
        + "\n"
    )


def rows(files: list[str]) -> Iterator[str]:
    """The lines of the files, in order."""
    for path in files:
        with Path(path).open(encoding="utf-8") as file:
            yield from file


def run(
    tokenizer: str,
    template: str,
    out: str,
    files: list[str],
    dataset: dict[str, Any] = DATASET,
    training_key: str | None = None,
    end_of_turn: str | None = None,
    processes: int = 1,
) -> None:
    """Write one data set: a line that names the versions, then every row in order.

    Args:
        tokenizer: A folder.
        template: A Jinja file, or the name of a template of Axolotl's own.
        out: The file to write.
        files: The splits.
        dataset: Axolotl's dataset entry.
        training_key: Of a message: whether it is trained.
        end_of_turn: The token that ends an answer; else the tokenizer's end of text.
        processes: Among which the rows are divided.
    """
    from importlib.metadata import version

    with Path(out).open("w", encoding="utf-8") as written:
        masking = {"message_field_training": training_key} if training_key else {}
        load_strategy(tokenizer, template, dataset | masking, end_of_turn)
        print(json.dumps({name: version(name) for name in ("axolotl", "transformers", "tokenizers")}), file=written)
        if processes == 1:
            written.writelines(map(tokenise, rows(files)))
            return
        with multiprocessing.get_context("fork").Pool(processes) as pool:
            written.writelines(pool.imap(tokenise, rows(files), CHUNK))


if __name__ == "__main__":
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # before Axolotl is imported
    for job in json.loads(Path(sys.argv[1]).read_text()):
        run(**job)
