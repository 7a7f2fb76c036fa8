"""Carrying a study from one machine to another in small files: what is new since it was last packed or unpacked.

Archives of at most 15 MiB, each of whole files (tar.xz), so that one that is lost takes nothing else with it; at most
`MOST` of them and `WHOLE` bytes at a time, episodes and notes first, adapters last: what did not fit is packed the next
time. Not packed: checkpoints and prepared data of trainings.
"""

from __future__ import annotations

import json
import lzma
import tarfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from keepstate.errors import UserError
from keepstate.files import TEMPORARY, atomic_file, parse_json, write_json

NOTE = "packed.json"
"""What was packed or unpacked, with size and time of change, in the study's folder."""
PART, MOST, WHOLE = 15 << 20, 7, 60 << 20
RATIO = 12
"""Text becomes smaller by about 20 (measured on traces); an archive that comes out too large is named."""
LEFT_OUT = ("prepared", "checkpoint-", NOTE)

Listing = dict[str, list[int]]


def pack(folder: Path, out: Path, most: int = MOST) -> list[Path]:
    """Pack what is new in `folder` into at most so many archives; these. Another run may be at work there."""
    before = _noted(folder)
    new = {name: signature for name, signature in _listing(folder).items() if before["files"].get(name) != signature}
    out.mkdir(parents=True, exist_ok=True)
    parts = _parts(new, most)
    paths = [out / f"study-{before['packs']:03}-{number}.tar.xz" for number in range(len(parts))]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_archive, [folder] * len(parts), parts, paths))
    for path in filter(_too_large, paths):
        print(f"{path.name} is larger than {PART >> 20} MiB: RATIO in {Path(__file__).name} promised too much")
    packed = {name: new[name] for part in parts for name in part}
    write_json(folder / NOTE, {"packs": before["packs"] + 1, "files": before["files"] | packed})
    left = len(new) - len(packed)
    print(f"packed {len(packed)} files into {len(paths)} archives, {sum(p.stat().st_size for p in paths) >> 10:,} KiB;"
          f" {left} wait for the next time")  # fmt: skip
    return paths


def _too_large(path: Path) -> bool:
    return path.stat().st_size > PART


def unpack(archives: Path, folder: Path) -> None:
    """Unpack every archive of `archives`, the oldest first, over what lies in `folder`.

    Raises:
        UserError: There is none.
    """
    paths = sorted(archives.glob("study-*.tar.xz"))
    if not paths:
        raise UserError(f"{archives} holds no study-*.tar.xz", "name the folder that --pack wrote")
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")
    packs = 1 + max(int(path.name.split("-")[1]) for path in paths)
    write_json(folder / NOTE, {"packs": packs, "files": _listing(folder)})


def _listing(folder: Path) -> Listing:
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if any(part.startswith(LEFT_OUT) for part in name.split("/")) or name.endswith(TEMPORARY):
            continue
        with suppress(FileNotFoundError):  # another run is at work there
            if path.is_file():
                stat = path.stat()
                found[name] = [stat.st_size, stat.st_mtime_ns]
    return found


def _noted(folder: Path) -> dict[str, Any]:
    note = folder / NOTE
    return parse_json(note.read_bytes()) if note.is_file() else {"packs": 0, "files": {}}


def _parts(new: Listing, most: int) -> list[list[str]]:
    """Names, an archive each: as many as are expected to fit it; adapters last. What is not in them waits."""
    parts: list[list[str]] = []
    room, whole = 0, WHOLE
    for name in sorted(new, key=lambda name: (name.endswith(".safetensors"), name)):
        expected = new[name][0] if name.endswith(".safetensors") else new[name][0] // RATIO
        if not parts or expected > room:
            if len(parts) == most or expected > whole:
                break
            parts.append([])
            room = PART
        parts[-1].append(name)
        room, whole = room - expected, whole - expected
    return parts


def _archive(folder: Path, names: list[str], path: Path) -> None:
    with (
        atomic_file(path) as file,
        lzma.open(file, "wb", preset=2) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name in names:
            with suppress(FileNotFoundError):  # it was in use, and is gone
                tar.add(folder / name, name)


def round_weights(path: Path) -> None:
    """Write the float32 tensors of a safetensors file as bf16, to the nearest, ties to even; others stay.

    A server in bf16 computes with exactly these, and the file is half as large. Once rounded it stays as it is.
    """
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, body = json.loads(raw[8 : 8 + length]), memoryview(raw)[8 + length :]
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if not any(entry["dtype"] == "F32" for entry in tensors.values()):
        return
    data, place = [], 0
    for entry in tensors.values():
        begin, end = entry["data_offsets"]
        stored = body[begin:end]
        if entry["dtype"] == "F32":
            entry["dtype"], stored = "BF16", memoryview(_bf16(np.frombuffer(stored, "<u4")))
        entry["data_offsets"] = [place, place + stored.nbytes]
        place += stored.nbytes
        data.append(bytes(stored))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(data)


def _bf16(bits: np.ndarray) -> bytes:
    nearest = bits + np.uint32(0x7FFF) + (bits >> 16 & 1)
    return (nearest >> 16).astype("<u2").tobytes()
