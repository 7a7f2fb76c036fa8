"""The matrices of an adapter's safetensors file: whose they are, how large, and whether they change anything at all.

vLLM refuses a tensor that it does not know after a minute of starting, serves a pair of zeros as the base without a
word, and copies a matrix that is too small into a larger one: it would load, answer, and be wrong.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from keepstate.errors import UserError
from keepstate.serve.lora_config import PLAIN, LoraConfig

MAX_HEADER = 100_000_000
"""Bytes; the limit of the safetensors format itself."""
AGAIN = "train or copy it again"
FLOATS = {"F64": ("u8", 0x7FF << 52), "F32": ("u4", 0xFF << 23), "F16": ("u2", 0x1F << 10), "BF16": ("u2", 0xFF << 7)}
"""By safetensors' name of a type: its bits as whole numbers, and those of the exponent, all set in infinity and NaN."""
FOREIGN = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "boft_": "BOFT",
    "lora_E": "AdaLoRA",
    "lora_magnitude_vector": "DoRA",
    "monteclora": "MonteCLoRA",
    "lora_embedding_": "a LoRA of the embedding",
    "trainable_tokens": "trainable tokens (trainable_token_indices)",
    "ia3_": "IA3",
    "prompt_embeddings": "prompt tuning",
    "vera_": "VeRA",
}
"""Parts of the names of tensors that are no LoRA matrices, and what they belong to."""

_LORA = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_ALMOST = re.compile(r".+\.lora_[AB](?:\.\w+)*")


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a file."""

    kind: str
    shape: tuple[int, ...]
    start: int
    """Byte of the file."""
    end: int


@dataclass(frozen=True, slots=True)
class Pair:
    """The two matrices of one layer; their product, scaled, is added to its weights."""

    a: Stored
    """(rank, inputs)."""
    b: Stored
    """(outputs, rank)."""


def read_header(path: Path) -> dict[str, Stored]:
    """What a safetensors file holds, by name.

    Raises:
        UserError: It is none, or is cut off.
        OSError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, MAX_HEADER)))
        found = {
            name: Stored(about["dtype"], tuple(about["shape"]), *(8 + length + int(k) for k in about["data_offsets"]))
            for name, about in header.items()
            if name != "__metadata__"
        }
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no safetensors file: {error!r}", AGAIN) from error
    size, needed = path.stat().st_size, max((each.end for each in found.values()), default=0)
    if size < needed:
        raise UserError(f"{path} is cut off: {size:,} bytes of {needed:,}", AGAIN)
    return found


def read_pairs(path: Path, config: LoraConfig) -> dict[str, Pair]:
    """The matrices in an adapter's file, by layer, checked against its configuration.

    Raises:
        UserError: There are none, one is of another kind or size than a LoRA's, or alone, or of a layer that the
            configuration leaves out.
    """
    sides: dict[str, dict[str, Stored]] = {}
    for name, stored in read_header(path).items():
        found = _LORA.fullmatch(name)
        if found is None:
            raise _unknown(path, name)
        sides.setdefault(found["module"], {})[found["side"]] = stored
    if not sides:
        raise UserError(f"{path} holds no tensors: the adapter changes nothing", AGAIN)
    pairs: dict[str, Pair] = {}
    for module, both in sides.items():
        if len(both) < 2:
            there, missing = ("lora_A", "lora_B") if "A" in both else ("lora_B", "lora_A")
            raise UserError(f"{path} has {there} of {module}, but no {missing}", AGAIN)
        pairs[module] = Pair(both["A"], both["B"])
        _check_size(path, module, pairs[module], config.rank_of(module))
        if key := config.leaving_out(module):
            raise UserError(
                f"{path} has matrices of {module}, which {key} in its adapter_config.json leaves out: PEFT does not"
                " apply them, vLLM does",
                f"correct {key} if they were trained, else take them out of the file",
            )
    return pairs


def check_values(path: Path, pairs: Mapping[str, Pair], config: LoraConfig) -> None:
    """Look at the numbers themselves: a second for a GB.

    Raises:
        UserError: One is no number, or the adapter changes nothing.
    """
    file = np.memmap(path, dtype=np.uint8, mode="r")
    changes, scaled = False, False
    for module, pair in pairs.items():
        products = [_is_nonzero(path, file, f"{module}.lora_{side}", getattr(pair, side.lower())) for side in "AB"]
        scaled = scaled or config.scale_of(module) != 0
        changes = changes or (all(products) and config.scale_of(module) != 0)
    if not scaled:
        raise UserError(f"{path.parent}: lora_alpha is 0: this adapter changes nothing", "train it with a lora_alpha")
    if not changes:
        raise UserError(
            f"{path}: in every layer lora_A or lora_B is all zeros: this adapter changes nothing",
            "it was saved before its first step, or its training learned nothing: train it again, or leave it out",
        )


def _is_nonzero(path: Path, file: npt.NDArray[np.uint8], name: str, stored: Stored) -> bool:
    """Whether one value is not zero; infinity and NaN are refused."""
    if stored.kind not in FLOATS:
        raise UserError(f"{path}: {name} is stored as {stored.kind}; LoRA matrices are {', '.join(FLOATS)}", AGAIN)
    unsigned, exponent = FLOATS[stored.kind]
    raw = file[stored.start : stored.end]
    if raw.nbytes != np.dtype(unsigned).itemsize * int(np.prod(stored.shape)):
        raise UserError(f"{path}: {name} has {raw.nbytes:,} bytes for {stored.shape} of {stored.kind}", AGAIN)
    bits = np.frombuffer(raw.tobytes(), dtype=f"<{unsigned}")
    mask = bits.dtype.type(exponent)
    if ((bits & mask) == mask).any():
        raise UserError(f"{path}: {name} holds NaN or infinity", "train it again with a lower learning rate")
    return bool((bits << bits.dtype.type(1)).any())  # without the sign: -0.0 is zero


def _check_size(path: Path, module: str, pair: Pair, rank: int) -> None:
    a, b = pair.a.shape, pair.b.shape
    if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
        raise UserError(
            f"{path}: the matrices of {module} are {a} and {b}, but its adapter_config.json says rank {rank} there",
            "both files must come from one training: copy them again",
        )


def _unknown(path: Path, name: str) -> UserError:
    """What to tell of a tensor that vLLM does not read."""
    kind = next((kind for part, kind in FOREIGN.items() if part in name), None)
    if kind:
        return UserError(f"{path}: {name} belongs to {kind}; vLLM serves LoRA matrices alone", PLAIN)
    if _ALMOST.fullmatch(name):
        return UserError(
            f"{path}: vLLM does not read the name {name}; it reads ...lora_A.weight and ...lora_B.weight",
            "save it with PEFT's save_pretrained, which names them so",
        )
    key = "bias" if name.endswith(".bias") else "modules_to_save"
    return UserError(f"{path}: {name} is no LoRA matrix (as of {key}); vLLM serves those alone", PLAIN)
