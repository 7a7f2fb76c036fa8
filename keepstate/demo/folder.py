"""Where a demo keeps what it makes: `tasks/ traces/ datasets/ adapters/ bench/ report/` in one folder.

Files of a demo of another size make way; everything else is left alone. Makes nothing itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from keepstate.dataset import read_manifest
from keepstate.errors import UserError
from keepstate.tasks.base import Task
from keepstate.traces.reader import trace_files
from keepstate.traces.writer import TRACE_SUFFIX


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """The places of one demo."""

    root: Path

    def tasks(self, split: str) -> Path:
        """Tasks of `train` or `eval`."""
        return self.root / "tasks" / split

    @property
    def traces(self) -> Path:
        """Traces, a folder a runtime."""
        return self.root / "traces"

    def trace_files(self) -> list[Path]:
        """Every trace, sorted."""
        return [Path(path) for path in trace_files(self.traces)[0]] if self.traces.is_dir() else []

    def keep_traces_of(self, tasks: Collection[Task]) -> None:
        """Remove traces of other tasks: a smaller demo must not train on what a larger one left."""
        keep_only(self.trace_files(), TRACE_SUFFIX, tasks)

    def dataset(self, arm: str) -> Path:
        """The data set of a runtime, or the mixed one."""
        return self.root / "datasets" / arm

    @property
    def built_from(self) -> Path:
        """Holds the hash of the traces that the data sets were built from."""
        return self.root / "datasets" / "built-from.txt"

    def adapter(self, name: str) -> Path:
        """One adapter."""
        return self.root / "adapters" / name

    @property
    def bench(self) -> Path:
        """Results, a folder a cell."""
        return self.root / "bench"

    @property
    def report(self) -> Path:
        """The report."""
        return self.root / "report"

    @property
    def lock(self) -> Path:
        """Held by the demo that works here."""
        return self.root / ".lock"

    @property
    def server_log(self) -> Path:
        """What vLLM said."""
        return self.root / "serve.log"


def keep_only(paths: Iterable[Path], suffix: str, tasks: Collection[Task]) -> None:
    """Remove those of `paths` that are named after no task of `tasks`."""
    names = {task.name for task in tasks}
    for path in paths:
        if path.name.removesuffix(suffix) not in names:
            path.unlink()


def is_proven(folder: Path) -> bool:
    """Whether a data set lies there with the certificate of its own files."""
    try:
        manifest = read_manifest(folder)
    except UserError:
        return False
    return manifest.certificate is not None and not manifest.changed_files(folder)
