"""Data sets: from traces to training conversations that are, token for token, what the server sees.

Run `keepstate dataset build`, then `keepstate dataset check`. `docs/data.md` tells how the proof works.
"""

from keepstate.dataset.build import build_datasets, build_mixed
from keepstate.dataset.manifest import Balance, BuildOptions, Length, Manifest, read_manifest
from keepstate.dataset.templates import ChatTemplate, load_template

__all__ = [
    "Balance",
    "BuildOptions",
    "ChatTemplate",
    "Length",
    "Manifest",
    "build_datasets",
    "build_mixed",
    "load_template",
    "read_manifest",
]
