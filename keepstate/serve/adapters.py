"""The adapters to serve: each a folder under a name of its own. Reads their JSON files; loads no weights.

An adapter trained by keepstate brings its name (its runtime), its base model and the hash of its chat template in
`keepstate-adapter.json`. Any other LoRA folder can be served too, as NAME=FOLDER.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from keepstate.errors import UserError
from keepstate.train.result import DONE, WEIGHTS, read_done

BASE = "base"
"""What the base model is called on the server."""
CONFIG = "adapter_config.json"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's `--max-lora-rank` takes."""

_NAMED = re.compile(r"([a-z0-9][a-z0-9_-]*)=(.+)")


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """One adapter."""

    name: str
    """Its model name on the server."""
    folder: Path
    rank: int
    modules: tuple[str, ...] = ()
    """The layers it changes; empty where its configuration does not list them."""
    base_model: str | None = None
    """What it was trained on, as far as the folder tells."""
    template_sha256: str | None = None


def read_adapters(given: Iterable[str | Path]) -> tuple[ServedAdapter, ...]:
    """Read several adapters for one server.

    Args:
        given: Each a folder, or `NAME=FOLDER`.

    Raises:
        UserError: One is not servable, two have one name, or they were trained with different chat templates.
    """
    adapters = tuple(map(read_adapter, given))
    by_name: dict[str, ServedAdapter] = {}
    for adapter in adapters:
        if adapter.name == BASE:
            raise UserError(f"{adapter.folder}: the name {BASE!r} is the base model's", "name it: --lora NAME=FOLDER")
        if (other := by_name.setdefault(adapter.name, adapter)) is not adapter:
            raise UserError(
                f"two adapters are named {adapter.name!r}: {other.folder} and {adapter.folder}",
                f"name one of them yourself: --lora NAME={adapter.folder}",
            )
    _one_template(adapters)
    return adapters


def read_adapter(given: str | Path) -> ServedAdapter:
    """Read one adapter.

    Raises:
        UserError: There is no finished adapter in the folder, or it has a rank that vLLM does not serve.
    """
    named = None if Path(given).is_dir() else _NAMED.fullmatch(str(given))
    folder = Path(named[2] if named else given).expanduser().resolve()
    if not folder.is_dir():
        raise UserError(f"no such adapter folder: {folder}", "train it: keepstate train persistent|forget|react")
    done = read_done(folder)
    if done is None and (named is None or not (folder / WEIGHTS).is_file()):
        unfinished = "its training did not finish" if list(folder.glob("checkpoint-*")) else f"it has no {DONE}"
        raise UserError(
            f"no finished adapter in {folder}: {unfinished}",
            "finish the training (the command that began it goes on), or serve a LoRA of another origin: "
            "--lora NAME=FOLDER",
        )
    rank, modules = _read_config(folder / CONFIG)
    return ServedAdapter(
        name=named[1] if named else str(done.runtime) if done else folder.name,
        folder=folder,
        rank=rank,
        modules=modules,
        base_model=done.base_model if done else None,
        template_sha256=done.template_sha256 if done else None,
    )


def max_rank(adapters: Iterable[ServedAdapter]) -> int:
    """The least rank that vLLM can be started with to hold all of them."""
    largest = max(adapter.rank for adapter in adapters)
    return next(rank for rank in RANKS if rank >= largest)


def target_modules(adapters: Sequence[ServedAdapter]) -> tuple[str, ...]:
    """Every layer that one of them changes; empty where one does not list its own."""
    if not all(adapter.modules for adapter in adapters):
        return ()
    return tuple(sorted({module for adapter in adapters for module in adapter.modules}))


def _read_config(path: Path) -> tuple[int, tuple[str, ...]]:
    """Rank and layers of PEFT's `adapter_config.json`."""
    try:
        config = json.loads(path.read_bytes())
        rank, modules = config["r"], config.get("target_modules")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is no LoRA configuration: {error!r}", "name the folder that the training wrote"
        ) from error
    if not isinstance(rank, int) or not 1 <= rank <= RANKS[-1]:
        raise UserError(f"{path}: rank r={rank!r}; vLLM serves 1 to {RANKS[-1]}", "train it with another lora_r")
    return rank, tuple(map(str, modules)) if isinstance(modules, list) else ()


def _one_template(adapters: Iterable[ServedAdapter]) -> None:
    """Refuse adapters that one server cannot prompt as all of them were trained."""
    known = [adapter for adapter in adapters if adapter.template_sha256]
    for adapter in known[1:]:
        if adapter.template_sha256 != known[0].template_sha256:
            raise UserError(
                f"{known[0].name} and {adapter.name} were trained with different chat templates: one server has one",
                "serve them one after the other, or train both from data sets built with the same --template",
            )
