"""What an adapter's `adapter_config.json` says in PEFT's words: ranks, scales, layers, and what vLLM does not do.

vLLM reads few of PEFT's keys. What others ask for it refuses after a minute of starting, or leaves out without a word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from keepstate.errors import UserError
from keepstate.files import parse_json

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's `--max-lora-rank` takes."""
PLAIN = (
    "train it as a plain LoRA; or, where PEFT can (merge_and_unload, then save_pretrained), merge it into its base and"
    " serve that: --base-model FOLDER"
)
"""What to do with an adapter that is more than the matrices of a LoRA."""
REFUSED: dict[str, Callable[[Any], object]] = {
    "peft_type": lambda value: value not in (None, "LORA"),
    "modules_to_save": bool,
    "use_dora": bool,
    "bias": lambda value: value != "none",
    "lora_bias": bool,
    "trainable_token_indices": bool,
    "target_parameters": bool,
    "layer_replication": bool,
    "alora_invocation_tokens": bool,
    "arrow_config": bool,
    "use_bdlora": bool,
    "use_qalora": bool,
    "monteclora_config": bool,
    # those that only choose the first values, or change the base during training alone, load as any LoRA does
    "init_lora_weights": lambda value: (
        isinstance(value, str) and value.lower() not in ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
    ),
}
"""By key: whether its value asks for more than the matrices of a LoRA, which is all that vLLM 0.24 and 0.32 apply."""
HARMLESS = frozenset(
    """
    r lora_alpha use_rslora rank_pattern alpha_pattern target_modules exclude_modules layers_to_transform layers_pattern
    auto_mapping base_model_name_or_path corda_config ensure_weight_tying eva_config fan_in_fan_out inference_mode
    loftq_config lora_dropout lora_ga_config megatron_config megatron_core merge_weights peft_version qalora_group_size
    revision runtime_config task_type unsloth_fixed velora_config
    """.split()  # noqa: SIM905  (quotes around each would hide the names)
)
"""The other keys of PEFT up to 0.20: read here, or of training alone."""
ALL_LINEAR = "all-linear"
NOT_LINEAR = ("embed_tokens", "lm_head")
"""What `all-linear` leaves out."""

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """The part of a LoRA's configuration that decides how its matrices are applied."""

    rank: int
    alpha: float
    rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    targets: str | tuple[str, ...] | None = None
    """A regular expression, or ends of names; None where it does not say."""
    excluded: str | tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    """The only blocks that it changes; all where empty."""
    layers_pattern: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    """Keys that are set and known neither here nor, perhaps, to vLLM."""

    def rank_of(self, module: str) -> int:
        """The rank of the matrices of a layer, by its whole name."""
        return _matching(self.rank_pattern, module, self.rank)

    def scale_of(self, module: str) -> float:
        """By what PEFT multiplies the product of a layer's matrices."""
        rank = self.rank_of(module)
        return _matching(self.alpha_pattern, module, self.alpha) / (math.sqrt(rank) if self.rslora else rank)

    @property
    def common_scale(self) -> float:
        """That of layers which no pattern names."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @property
    def largest_rank(self) -> int:
        """Of all layers, those that a pattern names included."""
        return max(self.rank, *self.rank_pattern.values(), 0)

    def leaving_out(self, module: str) -> str | None:
        """The key by which PEFT does not apply matrices of that layer; None where it applies them."""
        if self.excluded and _named(self.excluded, module):
            return "exclude_modules"
        if self.targets == ALL_LINEAR:
            return "target_modules" if module.rpartition(".")[2] in NOT_LINEAR else None
        if self.targets is not None and not _named(self.targets, module):
            return "target_modules"
        if self.layers and not isinstance(self.targets, str):
            patterns = self.layers_pattern or ("[^.]*",)
            found = next((m for p in patterns if (m := re.match(rf".*?\.{p}\.(\d+)\.", module))), None)
            if found is None or int(found[1]) not in self.layers:
                return "layers_to_transform"
        return None


def read_lora_config(path: Path) -> LoraConfig:
    """Read an `adapter_config.json`.

    Raises:
        UserError: It is none of a LoRA, or asks for what vLLM does not do; names the key.
    """
    try:
        told = parse_json(path.read_bytes().decode())  # as vLLM reads it: no UTF-16, no byte order mark
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is no LoRA configuration: {error!r}", "name the folder that the training wrote"
        ) from error
    if not isinstance(told, dict):
        raise UserError(f"{path} is no LoRA configuration: no JSON object", "name the folder that the training wrote")
    if "target_modules" not in told:
        raise _wrong(path, "target_modules", None, "there, which vLLM requires")
    for key, asks in REFUSED.items():
        if key in told and asks(told[key]):
            raise UserError(f"{path}: {key} is {_short(told[key])}: vLLM serves LoRA matrices alone", PLAIN)
    return LoraConfig(
        rank=_rank(path, "r", told.get("r")),
        alpha=_number(path, "lora_alpha", told.get("lora_alpha")),
        rslora=bool(told.get("use_rslora")),
        rank_pattern={key: _rank(path, "rank_pattern", value) for key, value in _pattern(path, "rank_pattern", told)},
        alpha_pattern={
            key: _number(path, "alpha_pattern", value) for key, value in _pattern(path, "alpha_pattern", told)
        },
        targets=_names(path, "target_modules", told),
        excluded=_names(path, "exclude_modules", told) or (),
        layers=_layers(path, told.get("layers_to_transform")),
        layers_pattern=_tuple(_names(path, "layers_pattern", told) or ()),
        unknown=tuple(key for key in sorted(told) if told[key] and key not in HARMLESS | REFUSED.keys()),
    )


def _wrong(path: Path, key: str, value: object, wanted: str) -> UserError:
    return UserError(f"{path}: {key} is {_short(value)}; it must be {wanted}", "copy the file again, or train it again")


def _short(value: object) -> str:
    words = repr(value)
    return words if len(words) <= 80 else f"{words[:77]}..."


def _rank(path: Path, key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= RANKS[-1]:
        raise UserError(
            f"{path}: rank {key}={_short(value)}; vLLM serves 1 to {RANKS[-1]}", "train it with another lora_r"
        )
    return value


def _number(path: Path, key: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise _wrong(path, key, value, "a number")
    return value


def _pattern(path: Path, key: str, told: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The items of a pattern, whose keys are regular expressions."""
    value = told.get(key) or {}
    if not isinstance(value, dict):
        raise _wrong(path, key, value, "an object")
    for expression in value:
        _compiled(path, key, expression)
    return list(value.items())


def _names(path: Path, key: str, told: Mapping[str, Any]) -> str | tuple[str, ...] | None:
    """Names of layers: a regular expression or a list; None where there is nothing."""
    value = told.get(key)
    if isinstance(value, str):
        _compiled(path, key, value)
        return value
    if value is None or (isinstance(value, list) and all(isinstance(each, str) for each in value)):
        return None if value is None else tuple(value)
    raise _wrong(path, key, value, "a list of layers' names, or a regular expression")


def _layers(path: Path, value: object) -> tuple[int, ...]:
    layers = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(each, int) for each in layers):
        raise _wrong(path, "layers_to_transform", value, "a list of whole numbers")
    return tuple(layers)


def _compiled(path: Path, key: str, expression: str) -> None:
    try:
        re.compile(expression)
    except re.error as error:
        raise _wrong(path, key, expression, f"a regular expression ({error})") from error


def _tuple(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _named(names: str | tuple[str, ...], module: str) -> bool:
    """Whether a layer is meant: by the whole expression, or by the end of its name."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _matching(pattern: Mapping[str, Value], module: str, otherwise: Value) -> Value:
    """The first value whose expression matches the end of a layer's name, from a dot on."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", module)), otherwise)
