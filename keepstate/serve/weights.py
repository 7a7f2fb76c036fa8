"""Whether an adapter fits a base model, by the shapes in their safetensors headers. Loads no weights.

vLLM copies an adapter's matrices into larger ones without a word where they are smaller than the base's: it would load,
answer, and be wrong.
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

from keepstate.errors import UserError
from keepstate.serve.adapters import ServedAdapter
from keepstate.train.result import WEIGHTS

MAX_HEADER = 100_000_000
"""Bytes; the limit of the safetensors format itself."""

_LORA = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])(?:\.\w+)?\.weight")


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a safetensors file by tensor name.

    Raises:
        UserError: It is none.
        OSError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, MAX_HEADER)))
        return {name: tuple(about["shape"]) for name, about in header.items() if name != "__metadata__"}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no safetensors file: {error!r}", "train or copy it again") from error


def check_fits(adapter: ServedAdapter, base: Path) -> None:
    """Compare every matrix of `adapter` with the layer of the base that it changes.

    Args:
        adapter: An adapter with its weights in one file.
        base: A model folder; where it holds no safetensors nothing is compared.

    Raises:
        UserError: A matrix has no such layer, or another size than it; names the first.
    """
    layers = {name: shape for path in sorted(base.glob("*.safetensors")) for name, shape in read_shapes(path).items()}
    if not layers:
        return
    for name, shape in read_shapes(adapter.folder / WEIGHTS).items():
        found = _LORA.fullmatch(name)
        if found is None:
            continue
        layer = layers.get(f"{found['module']}.weight")
        wanted = layer and ((adapter.rank, layer[1]) if found["side"] == "A" else (layer[0], adapter.rank))
        if shape != wanted:
            there = f"its layer wants {wanted}" if wanted else "the base has no such layer"
            raise UserError(
                f"{adapter.name} does not fit {base}: {name} is {shape}, {there}",
                "serve it on the model that it was trained on: --base-model",
            )
