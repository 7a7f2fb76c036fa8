"""What a model folder says of itself beside its weights: special tokens, its own chat template, what ends an answer.

Reads the small files that a hub's models have. What is missing or broken counts as not said; loads no weights.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from keepstate.files import parse_json
from keepstate.places import home

SPECIAL_TOKENS = frozenset(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
"""What transformers calls a tokenizer's special tokens; a chat template finds the values under these names."""
GENERATION = "generation_config.json"


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where there is none."""
    try:
        value = parse_json(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def absolute_model(name: str) -> str | Path:
    """A model folder as an absolute path (from here, or from keepstate's home), a hub name as it is."""
    for folder in (Path(name), home() / name):
        if folder.is_dir():
            return folder.resolve()
    return name


def model_folder(name: str) -> Path | None:
    """Where a base model's files are, as a folder or a hub's model that was fetched before; None: not here."""
    found = absolute_model(name)
    return found if isinstance(found, Path) else _snapshot(name)


def _snapshot(name: str) -> Path | None:
    """The folder of a hub's model that was fetched before: its newest; None where it was not."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    found = (hub / f"models--{name.replace('/', '--')}" / "snapshots").glob("*/config.json")
    return max((path.parent for path in found), key=lambda path: path.stat().st_mtime, default=None)


def special_tokens(folder: Path) -> dict[str, str]:
    """The tokenizer's special tokens by the names that transformers gives them (`bos_token`: `<s>`)."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):  # the second wins, as in transformers
        for key, token in read_object(folder / name).items():
            text = token.get("content") if isinstance(token, dict) else token
            if key in SPECIAL_TOKENS and isinstance(text, str):
                found[key] = text
    return found


def own_template(folder: Path) -> str | None:
    """The Jinja source of the chat template that a model came with; the one called default where it has several."""
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        told = read_object(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(told, list):
        named = {each.get("name"): each.get("template") for each in told if isinstance(each, dict)}
        told = named.get("default")
    return told if isinstance(told, str) else None


def ends_of_answers(folder: Path) -> frozenset[int]:
    """Ids of the tokens at which a server stops: of `generation_config.json`, else of `config.json`."""
    for name in (GENERATION, "config.json"):
        told = read_object(folder / name).get("eos_token_id")
        ids = told if isinstance(told, list) else [told]
        if numbers := frozenset(each for each in ids if isinstance(each, int)):
            return numbers
    return frozenset()
