"""A hook of mkdocs: pages of the site that lie elsewhere in the repository, and links between them.

`train/README.md` is read on the site as `training.md`, and so on (`BESIDE`). A link to what is no page there, such as a
source file, keeps its words and loses its target. `reference/commands.md` is made from the commands themselves.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from keepstate.cli import cli

ROOT = Path(__file__).resolve().parents[1]
BESIDE = {
    "train/README.md": "training.md",
    "benchmarks/gpu/results/README.md": "gpu-results.md",
    "results/full-knapsack/README.md": "study-results.md",
    "results/full-navigation/README.md": "study-navigation.md",
    "results/full-navigation/base/README.md": "study-navigation-base.md",
    "results/full-rule_diagnosis/README.md": "study-rule-diagnosis.md",
    "results/full-knapsack-second-round/README.md": "study-second-round.md",
    "results/laptop-knapsack/README.md": "study-laptop.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "README.md": "index.md",
}
"""By where a page lies in the repository: where it is on the site. The README's like there is the site's first page."""
ASKED = re.compile(r'<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)="(?:https?:)?//[^>]*>')
"""What makes a browser ask another machine while it opens a page."""
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie beside."""
    for source, page in BESIDE.items():
        if page != "index.md":
            files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, "reference/commands.md", content=commands_page()))
    return files


def commands_page() -> str:
    """Every command, as its `--help` has it."""
    parts = ["# Commands", "What `--help` says, of every command. Words go to stderr, data to stdout; exit codes:"]
    parts.append(
        "| code | |\n|---|---|\n| 0 | done |\n| 1 | done, but something was left out, not graded, or a check failed |\n"
        "| 2 | not as asked: the message says what, and the next command |\n| 130 | Ctrl-C |"
    )
    for context in contexts(click.Context(cli, info_name="keepstate", max_content_width=100, terminal_width=100)):
        parts.append(f"## {context.command_path}\n\n```text\n{context.get_help()}\n```")
    return "\n\n".join(parts) + "\n"


def contexts(context: click.Context) -> Iterator[click.Context]:
    """One for every command, groups before what is in them."""
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            inner = context.command.get_command(context, name)
            if inner is not None:
                yield from contexts(click.Context(inner, parent=context, info_name=name))


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let links lead to where their pages are on the site."""
    on_site = page.file.src_uri
    at = next((source for source, target in BESIDE.items() if target == on_site != "index.md"), f"docs/{on_site}")

    def there(found: re.Match[str]) -> str:
        words, target, anchor = found[1], found[2], found[3] or ""
        if not target:
            return found[0]
        path = os.path.normpath(os.path.join(os.path.dirname(at), target))
        aim = BESIDE.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if aim is None or files.get_file_from_path(aim) is None:
            return words
        return f"[{words}]({os.path.relpath(aim, os.path.dirname(on_site) or '.')}{anchor})"

    return LINK.sub(there, markdown)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Refuse a page that a browser could not show without another machine."""
    if found := ASKED.search(output):
        raise PluginError(f"{page.file.src_uri} asks another machine: {found[0]}")
    return output
