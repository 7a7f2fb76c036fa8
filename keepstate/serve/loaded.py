"""What a server loaded: the contents of its base model and adapters, hashed when it started.

A folder may be trained into again while its server runs on with what it loaded. So `keepstate serve` notes what it
loads in a file of this user and machine, for as long as it runs, and `keepstate bench` asks here. Of a server that
somebody else started nothing is noted: there the folders count, as they lie when the benchmark starts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from keepstate.closed import Closed
from keepstate.errors import UserError
from keepstate.files import file_hash, parse_json, write_json
from keepstate.serve.adapters import CONFIG
from keepstate.serve.serving_plan import ServingPlan
from keepstate.serve.vllm_arguments import kv_cache_of
from keepstate.train.result import WEIGHTS, base_identity, told_by_folder
from keepstate.train.trained_for import TrainedFor

WEIGHT_FILES = (WEIGHTS, "adapter_model.bin")
NOTES = Path("/tmp")
"""Not `TMPDIR`, which may be another one in the shell that benchmarks."""


class AdapterContent(Closed):
    """What decides an adapter's answers, as it lies in a folder at one moment."""

    folder: Path
    weights: str | None
    """SHA-256; None where they cannot be read."""
    config: dict[str, Any] | None
    """All of `adapter_config.json`: rank, alpha, layers."""
    trained_for: TrainedFor | None = None
    """None where it has no card."""

    @classmethod
    def read(cls, folder: Path) -> AdapterContent:
        """What lies in `folder` now."""
        weights = next((path for name in WEIGHT_FILES if (path := folder / name).is_file()), None)
        try:
            config = parse_json((folder / CONFIG).read_bytes())
        except (OSError, ValueError, RecursionError):
            config = None
        try:
            sha256 = file_hash(weights) if weights else None
        except OSError:
            sha256 = None
        return cls(
            folder=folder,
            weights=sha256,
            config=config if isinstance(config, dict) else None,
            trained_for=told_by_folder(folder),
        )


class Loaded(Closed):
    """What one server loaded."""

    pid: int
    started: str
    """When that process started, in the kernel's ticks: a number may belong to another one later."""
    base: dict[str, str | None]
    """See `base_identity`."""
    adapters: dict[str, AdapterContent]
    """By the name that it serves each under."""
    template: str | None = None
    """SHA-256 of the chat template; None where an older version noted it."""
    vllm_arguments: tuple[str, ...] = ()
    """What the user gave vLLM beside what keepstate gives it."""
    kernels: Path | None = None
    """Folder of tuned configurations of LoRA kernels; None: vLLM's own."""
    replicas: tuple[str, ...] = ()
    """Base URLs of all servers that were started together with it; none where it was started alone."""

    @property
    def kv_cache(self) -> str:
        """How it keeps its key-value cache."""
        return kv_cache_of(self.vllm_arguments)


def read_adapter_contents(planned: ServingPlan) -> dict[str, AdapterContent]:
    """What lies in the folders of a plan's adapters now, by name."""
    return {adapter.name: AdapterContent.read(adapter.folder) for adapter in planned.adapters}


@contextmanager
def noted(
    port: int,
    pid: int,
    base: Mapping[str, str | None],
    adapters: Mapping[str, AdapterContent],
    template: str,
    planned: ServingPlan | None = None,
) -> Iterator[None]:
    """Note what the server on `port` loaded until the block ends; where no note can be kept there is none."""
    path = _path(port)
    if path is None or not (started := _started(pid)):
        yield
        return
    for left in path.parent.glob("served-*.json"):
        if _read(left) is None:  # its server was killed together with whoever noted it
            left.unlink(missing_ok=True)
    loaded = Loaded(
        pid=pid,
        started=started,
        base=dict(base),
        adapters=dict(adapters),
        template=template,
        vllm_arguments=planned.vllm_arguments if planned else (),
        kernels=planned.kernels if planned else None,
        replicas=planned.replicas if planned else (),
    )
    with suppress(UserError):  # a full disk ends no server
        write_json(path, loaded.model_dump(mode="json"))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def loaded_by(base_url: str) -> Loaded | None:
    """What the server at `base_url` loaded, if `keepstate serve` started it here and it still runs; else None."""
    port = _local_port(base_url)
    path = _path(port) if port else None
    return _read(path) if path else None


def servers_at(base_url: str) -> tuple[str, ...]:
    """The servers that a base URL stands for: those between its commas.

    That of the first of `keepstate serve --replicas` on this machine stands for all of them that run.
    """
    named = tuple(filter(None, (url.strip() for url in base_url.split(","))))
    port, folder = _local_port(base_url), _folder()
    if len(named) == 1 and port and folder:
        for note in filter(None, map(_read, folder.glob("served-*.json"))):
            if note.replicas and _local_port(note.replicas[0]) == port:
                return tuple(url for url in note.replicas if loaded_by(url))
    return named or (base_url,)


def loaded_base(root: object) -> dict[str, str | None] | None:
    """What tells the base that a server calls `root` from another: contents of a folder, or a hub's name.

    None where it is a folder that cannot be read here.
    """
    if not isinstance(root, str) or not root:
        return None
    if root.startswith(("/", ".", "~")) and not Path(root).is_dir():
        return None
    return base_identity(root)


def _read(path: Path) -> Loaded | None:
    """The note in a file; None where there is none, or its server has ended."""
    try:
        loaded = Loaded.model_validate(parse_json(path.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return None
    return loaded if _started(loaded.pid) == loaded.started else None


def _local_port(base_url: str) -> int | None:
    """Of a server on this machine."""
    from keepstate.models.endpoint import LOOPBACK  # the client, which `keepstate doctor` need not load

    try:
        url = urlsplit(base_url)
        return url.port if url.hostname in LOOPBACK else None
    except ValueError:  # several, or none
        return None


def _path(port: int) -> Path | None:
    """The note of one port; None where none can be."""
    folder = _folder()
    return folder / f"served-{port}.json" if folder else None


def _folder() -> Path | None:
    """Where notes lie: a folder of this user alone, whatever the shell; None where none can be."""
    folder = NOTES / f"keepstate-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        about = folder.lstat()
    except OSError:
        return None
    mine = folder.is_dir() and not folder.is_symlink() and about.st_uid == os.getuid() and not about.st_mode & 0o077
    return folder if mine and os.access(folder, os.W_OK) else None


def _started(pid: int) -> str:
    """When a process started, in ticks since the machine did; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
