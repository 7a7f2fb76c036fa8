"""The adapters to serve: each a folder under a name of its own, refused here where vLLM would not take it as it is.

An adapter trained by keepstate brings its name, its base model and the hash of its chat template in
`keepstate-adapter.json`. Any other LoRA folder can be served too, as NAME=FOLDER.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from keepstate.errors import UserError
from keepstate.serve.lora_config import RANKS, LoraConfig, read_lora_config
from keepstate.serve.weights import Pair, check_values, read_pairs
from keepstate.train.result import DONE, WEIGHTS, read_done
from keepstate.vocabulary import BASE

CONFIG = "adapter_config.json"
OTHER_WEIGHTS = ("adapter_model.bin", "adapter_model.pt")

_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)")


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """One adapter."""

    name: str
    """Its model name on the server."""
    folder: Path
    rank: int
    """The largest of its layers'."""
    pairs: Mapping[str, Pair] = field(default_factory=dict, hash=False)
    """Its matrices, by the whole name of the layer that they change."""
    config: LoraConfig | None = field(default=None, hash=False)
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
    """Read one adapter, its weights included.

    Raises:
        UserError: There is no finished adapter in the folder, or one that vLLM would not serve as it is.
    """
    named = None if Path(given).is_dir() else _NAMED.fullmatch(str(given))
    folder = Path(named[2] if named else given).expanduser().resolve()
    if not folder.is_dir():
        raise UserError(f"no such adapter folder: {folder}", "train it: keepstate train persistent|forget|react")
    done = read_done(folder)
    if done is None and (named is None or not (folder / WEIGHTS).is_file()):
        raise _unfinished(folder, named[1] if named else "NAME")
    config = read_lora_config(folder / CONFIG)
    pairs = read_pairs(folder / WEIGHTS, config)
    check_values(folder / WEIGHTS, pairs, config)
    return ServedAdapter(
        name=named[1] if named else done.name if done else folder.name,
        folder=folder,
        rank=max(pair.a.shape[0] for pair in pairs.values()),
        pairs=pairs,
        config=config,
        base_model=done.base_model if done else None,
        template_sha256=done.template_sha256 if done else None,
    )


def _unfinished(folder: Path, name: str) -> UserError:
    """What to tell of a folder that holds no finished adapter."""
    if other := next((other for other in OTHER_WEIGHTS if (folder / other).is_file()), None):
        return UserError(
            f"{folder} has its weights in {other}; only {WEIGHTS} is served",
            f"convert it: load it with PEFT (PeftModel.from_pretrained) and save_pretrained, which writes {WEIGHTS}",
        )
    steps = (path.parent for path in folder.glob(f"checkpoint-*/{WEIGHTS}"))
    if not (folder / WEIGHTS).is_file() and (last := max(steps, key=lambda path: path.stat().st_mtime, default=None)):
        return UserError(
            f"no finished adapter in {folder}: its training did not finish, and its weights are in {last.name}",
            f"finish the training (the command that began it goes on), or serve them as they are: --lora {name}={last}",
        )
    missing = DONE if (folder / WEIGHTS).is_file() else WEIGHTS
    return UserError(
        f"no finished adapter in {folder}: it has no {missing}",
        f"a LoRA of another origin is served under a name: --lora NAME={folder}"
        if missing == DONE
        else "finish the training (the command that began it goes on), or name the folder that holds the weights",
    )


def max_rank(adapters: Iterable[ServedAdapter]) -> int:
    """The least rank that vLLM can be started with to hold all of them."""
    ranks = [max(adapter.rank, adapter.config.largest_rank if adapter.config else 0) for adapter in adapters]
    return next(rank for rank in RANKS if rank >= max(ranks))


def target_modules(adapters: Iterable[ServedAdapter]) -> tuple[str, ...]:
    """The last part of the name of every layer that one of them has matrices for: none may be skipped."""
    return tuple(sorted({module.rpartition(".")[2] for adapter in adapters for module in adapter.pairs}))


def _one_template(adapters: Iterable[ServedAdapter]) -> None:
    """Refuse adapters that one server cannot prompt as all of them were trained."""
    known = [adapter for adapter in adapters if adapter.template_sha256]
    for adapter in known[1:]:
        if adapter.template_sha256 != known[0].template_sha256:
            raise UserError(
                f"{known[0].name} and {adapter.name} were trained with different chat templates: one server has one",
                "serve them one after the other, or train both from data sets built with the same --template",
            )
