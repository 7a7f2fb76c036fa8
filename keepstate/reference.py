"""The reference pages of files and configs, made from the classes that read them: `docs/reference/`.

Run `python -m keepstate.reference` after a change of such a class: it writes every page of `PAGES` anew; a test
compares them. Types, bounds and defaults are those of pydantic's JSON schema, meanings the docstrings below the fields.
Those are read here from the source: `use_attribute_docstrings` would cost 15 ms at every import of the traces alone.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from keepstate.places import IN_CHECKOUT

DOCS = Path(__file__).parents[1] / "docs" / "reference"
MADE = "This page is made by `python -m keepstate.reference`."
INDEX = "README.md"
INTRODUCTION = """\
What a user writes and what keepstate writes: the type, bounds and default of every key, and what it means. A key
without a default must be given. Files that earlier versions wrote are still read."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of `PAGES`."""

    title: str
    file: str
    """Which file it is about: where it lies, or what names it."""
    kinds: tuple[str, ...]
    """The classes that it is made from, as `module:name`: that of the whole file first."""
    about: str = ""
    """What the tables cannot say."""

    def text(self) -> str:
        """The whole page, in Markdown."""
        return page("\n\n".join(filter(None, (f"# {self.title}", self.file, self.about))), self.schemas())

    def schemas(self) -> dict[str, dict[str, Any]]:
        """Those of all its classes, by name."""
        return schemas(*(resolve_name(f"keepstate.{kind}") for kind in self.kinds))


PAGES = {
    "task-set.md": Page(
        "Task set",
        "A JSON file that `keepstate tasks generate --config` reads: `train/assets/task_configs/*.json`.",
        ("tasks.task_set:TaskSetConfig",),
        "Every key may be left out. Unknown keys are refused.",
    ),
    "task.md": Page(
        "Task",
        "`<family>-<task_id>.json`, written by `keepstate tasks generate`: one problem.",
        ("tasks.base:Task",),
        """\
Files of the research code (`pythonformer.task.v1`) are read too. Unknown keys are refused. `docs/tasks.md` tells what
stands in `public`, `private` and `reference`.""",
    ),
    "trace.md": Page(
        "Trace",
        "`<family>-<task_id>.trace.json`, written by `keepstate traces collect` and `bench run`: one episode.",
        ("traces.record:Trace", "traces.schema:VerdictFile"),
        """\
UTF-8 JSON, one key a line, and one message or event a line. `<family>-<task_id>.json` beside it is its verdict
([VerdictFile](#verdictfile)), written last. Unknown keys are refused.""",
    ),
    "summary.md": Page(
        "Summary of traces",
        "`summary_<agent>-<family>.json` in the folder of a cell, written by `keepstate bench run`.",
        ("traces.summary:EpisodeFigures",),
        "`keepstate traces stats --json` prints a list of the same, each with its `runtime`, `tasks` and `model`.",
    ),
    "dataset.md": Page(
        "Data set",
        "`manifest.json` in the folder of a data set, written by `keepstate dataset build`.",
        (
            "dataset.manifest:Manifest",
            "dataset.manifest:BuildOptions",
            "dataset.manifest:IndexLine",
            "dataset.convert:LeftOut",
        ),
        """\
`options` in it are [BuildOptions](#buildoptions). `index.jsonl` holds an [IndexLine](#indexline) for each row,
`left_out.jsonl` a [LeftOut](#leftout) for each trace that became none.""",
    ),
    "training.md": Page(
        "Training config",
        "A YAML file that `keepstate train --config` reads: `train/configs/*.yaml`.",
        ("train.axolotl_config:KeysRead",),
        """\
It is Axolotl's own format: these are the keys that keepstate itself reads, checks or replaces. Every other key goes to
Axolotl as it is; one that its version does not know is refused, as it would be dropped without a word.""",
    ),
    "adapter.md": Page(
        "Adapter",
        "`keepstate-adapter.json` in the folder of an adapter, written last by `keepstate train`.",
        ("train.result:TrainedAdapter",),
        "A folder without it holds no finished adapter.",
    ),
    "record.md": Page(
        "Record of what was made",
        "`collection.json` beside collected traces, `keepstate-run.json` in the folder of an adapter, written first.",
        ("resume:RecordFile",),
        """\
By it a command that is repeated goes on where it stopped, and one with other options is refused. A cell of a benchmark
has the same in its [cell.json](cell.md), as `config`.""",
    ),
    "benchmark.md": Page(
        "Benchmark config",
        "A YAML file that `keepstate bench run` reads: `train/assets/benchmark_configs/*.yaml`.",
        ("bench.benchmark_config:BenchmarkConfig",),
        "One file is one cell. Unknown keys are refused.",
    ),
    "cell.md": Page(
        "Cell",
        "`cell.json` in the folder of a cell, `runs/<run>/<name>/`, written by `keepstate bench run`.",
        ("bench.cells:CellRecord",),
        "The traces and verdicts of the cell lie beside it.",
    ),
    "regraded.md": Page(
        "Replaced verdicts",
        "`regraded.json` beside traces, written by `keepstate bench regrade` before it replaces a verdict.",
        ("bench.regrade:RegradedFile",),
        "The traces themselves hold the new verdicts, and in `versions` the family that gave them.",
    ),
    "report.md": Page(
        "Report",
        "`report.json` in the folder of a report, `runs/<run>/report/`, written by `keepstate report`.",
        ("report.entries:ReportFile",),
        """\
Every figure of a report, for other programs. `keepstate compare --json` prints a list of
[ComparisonEntry](#comparisonentry), each with the `notes` on its two cells.""",
    ),
}
"""By name, in the order of the pipeline."""
BOUNDS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "minLength": "length ≥",
    "maxLength": "length ≤",
    "minItems": "items ≥",
    "maxItems": "items ≤",
    "pattern": "matching",
}


def page(heading: str, classes: Mapping[str, dict[str, Any]]) -> str:
    """The page in Markdown: one table for each class, the choices last.

    Args:
        heading: Title and introduction.
        classes: Their `schemas`, by name.
    """
    tables = {name: schema for name, schema in classes.items() if "properties" in schema}
    choices = {name: schema for name, schema in classes.items() if "enum" in schema}
    sections = [section for each in (tables, choices) for name in each for section in _section(name, each[name])]
    return "\n".join([f"{heading}\n\n{MADE}\n", *sections])


def schemas(*kinds: type) -> dict[str, dict[str, Any]]:
    """JSON schemas of classes that pydantic can read and of those within them, by name, with what docstrings say."""
    found: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        whole = TypeAdapter(kind).json_schema(schema_generator=_Documented, ref_template="{model}")
        found |= {kind.__name__: whole, **whole.pop("$defs", {})}
    return found


class _Documented(GenerateJsonSchema):
    """JSON schema, in the order of the source, with the docstrings below fields and below the members of an enum."""

    def sort(self, value: Any, parent_key: str | None = None) -> Any:
        return value

    def model_schema(self, schema: Any) -> dict[str, Any]:
        made = super().model_schema(schema)
        fields = schema["cls"].model_fields
        names = {name: field.validation_alias or field.alias or name for name, field in fields.items()}
        return self._explained(made, schema["cls"], names)

    def dataclass_schema(self, schema: Any) -> dict[str, Any]:
        return self._explained(super().dataclass_schema(schema), schema["cls"])

    def typed_dict_schema(self, schema: Any) -> dict[str, Any]:
        return self._explained(super().typed_dict_schema(schema), schema["cls"])

    def enum_schema(self, schema: Any) -> dict[str, Any]:
        meanings = attribute_docstrings(schema["cls"])
        return super().enum_schema(schema) | {
            "meanings": {member.value: meanings.get(name, "") for name, member in schema["cls"].__members__.items()}
        }

    def _explained(self, made: dict[str, Any], cls: type, names: Mapping[str, Any] | None = None) -> dict[str, Any]:
        properties = self.resolve_ref_schema(made).get("properties", {})
        for name, meaning in attribute_docstrings(cls).items():
            if (key := (names or {}).get(name, name)) in properties:
                properties[key]["description"] = meaning
        return {"description": inspect.getdoc(cls) or "", **made}


def attribute_docstrings(cls: type) -> dict[str, str]:
    """What stands below each attribute of a class, those of its bases included, on one line."""
    found: dict[str, str] = {}
    package = cls.__module__.partition(".")[0]
    lineage = [*getattr(cls, "__orig_bases__", ()), *reversed(cls.__mro__)]  # a TypedDict tells its bases in the first
    for owner in [base for base in lineage if base.__module__.partition(".")[0] == package]:
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, after in pairwise(body.body):
            target = field.targets[0] if isinstance(field, ast.Assign) else getattr(field, "target", None)
            if isinstance(target, ast.Name) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found[target.id] = " ".join(str(after.value.value).split())
    return found


def _section(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {name}\n\n{schema.get('description', '')}\n"
    if "enum" in schema:
        yield from (f"- `{value}`{': ' if told else ''}{told}" for value, told in schema["meanings"].items())
        yield ""
        return
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    required = schema.get("required", ())
    for key, field in schema["properties"].items():
        default = "" if key in required or "default" not in field else f"`{json.dumps(field['default'])}`"
        if "$ref" in field and default.startswith("`{"):
            default = "its own"
        yield f"| `{key}` | {_cell(_type(field))} | {_cell(default)} | {_cell(field.get('description', ''))} |"
    yield ""


def _type(schema: Mapping[str, Any]) -> str:
    """The type of a field in words, with its bounds."""
    if name := schema.get("$ref"):
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(map(_type, options))
    text: str = schema.get("format", schema.get("type", "anything"))
    if places := schema.get("prefixItems"):
        return f"list: {', '.join(map(_type, places))}"
    if text == "array":
        text = f"list of {_type(schema.get('items', {}))}"
    if text == "object":
        inner: Any = schema.get("additionalProperties") or next(iter(schema.get("patternProperties", {}).values()), {})
        text = f"object of {_type(inner) if isinstance(inner, dict) else 'anything'}"
        text += f" by {_type(keys)}" if "$ref" in (keys := schema.get("propertyNames", {})) else ""
    bounds = [f"{sign} {schema[key]}" for key, sign in BOUNDS.items() if key in schema]
    return text + (f" ({', '.join(bounds)})" if bounds else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def index() -> str:
    """The page that lists the pages."""
    rows = [f"| [{each.title}]({name}) | {_cell(each.file)} |" for name, each in PAGES.items()]
    return "\n".join(
        [f"# Every file, key by key\n\n{INTRODUCTION}\n\n{MADE}\n", "| page | file |\n|---|---|", *rows, ""]
    )


def pages() -> Iterator[tuple[Path, str]]:
    """Where each page lies, and what it should hold."""
    yield DOCS / INDEX, index()
    for name, each in PAGES.items():
        yield DOCS / name, each.text()


if __name__ == "__main__":
    if not IN_CHECKOUT:
        sys.exit("the pages lie in a checkout of keepstate: run this in one")
    for path, text in pages():
        path.write_text(text, encoding="utf-8")
