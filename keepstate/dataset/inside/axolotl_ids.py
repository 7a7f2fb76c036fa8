"""What Axolotl itself makes of a data set: its token ids and labels, one JSON line a row.

    .venv-train/bin/python -I axolotl_ids.py --tokenizer DIR --template FILE --out IDS train.jsonl

Uses Axolotl's own tokenizer loader and `chat_template` strategy, set up as `keepstate train` sets them up. The first
line names the versions. Rows come in order. Trains nothing, loads no weights, and knows nothing of keepstate.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
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


def rows(files: list[Path]) -> Iterator[str]:
    """The lines of the files, in order."""
    for path in files:
        with path.open(encoding="utf-8") as file:
            yield from file


def main() -> None:
    """Write versions, then every row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--template", required=True, help="A Jinja file, or the name of a template of Axolotl's own.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dataset", default=json.dumps(DATASET), help="Axolotl's dataset entry, as JSON.")
    parser.add_argument("--end-of-turn", help="The token that ends an answer; else the tokenizer's end of text.")
    parser.add_argument("--training-key", help="Of a message: whether it is trained.")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("files", nargs="+", type=Path)
    args = parser.parse_args()

    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # before Axolotl is imported
    masking = {"message_field_training": args.training_key} if args.training_key else {}
    load_strategy(args.tokenizer, args.template, json.loads(args.dataset) | masking, args.end_of_turn)
    from importlib.metadata import version

    with args.out.open("w", encoding="utf-8") as out:
        print(json.dumps({name: version(name) for name in ("axolotl", "transformers", "tokenizers")}), file=out)
        if args.jobs == 1:
            out.writelines(map(tokenise, rows(args.files)))
            return
        with multiprocessing.get_context("fork").Pool(args.jobs) as pool:
            out.writelines(pool.imap(tokenise, rows(args.files), CHUNK))


if __name__ == "__main__":
    main()
