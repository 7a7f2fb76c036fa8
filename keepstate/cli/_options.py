"""Options that several commands take, each in one place: the same name, type, words and errors everywhere (`--engine`:
`_engine.py`).

    @click.command()
    @sandbox_options("auto")
    @limits_options()
    def command(isolation: str, allow_unsafe: bool, **options: Any) -> None:
        within = limits_of(options)

Loads nothing that `--help` of a command need not wait for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from keepstate.vocabulary import RuntimeName

if TYPE_CHECKING:
    from keepstate.bench.sweep import Sweep
    from keepstate.models.base import Sampling
    from keepstate.traces.record import Limits

Command = TypeVar("Command", bound=Callable[..., Any])
Option = Callable[[Command], Command]


class PathType(click.Path):
    """A path. An empty one, which Python would take for the current folder, is an unset variable of the shell."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse the empty name."""
        if value == "":
            self.fail("an empty name is no path; the current folder is .", param, ctx)
        return super().convert(value, param, ctx)


PATH = PathType(path_type=Path)


class FiniteRange(click.FloatRange):
    """A bounded number: `nan` and `inf`, which pass every comparison of `FloatRange`, are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Refuse what is no finite number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def choice(words: type[StrEnum], *others: str) -> click.Choice[str]:
    """One of the words of the vocabulary, or of `others`."""
    return click.Choice([*map(str, words), *others])


class RuntimeType(click.ParamType[str]):
    """A runtime, or one of `others`; gives the word itself.

    Args:
        others: Further words that are allowed.
    """

    name = "runtime"

    def __init__(self, *others: str) -> None:
        self._others = others

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what is none."""
        try:
            return str(value if value in self._others else RuntimeName(value))
        except ValueError as error:
            self.fail(f"{error}{''.join(f', {other}' for other in self._others)}", param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """What `--help` shows."""
        return f"[{'|'.join((*RuntimeName, *self._others))}|...]"


RUNTIME = RuntimeType()


class Several(click.ParamType[tuple[Any, ...]]):
    """Values between commas, each once, as a tuple.

    Args:
        of: The type of each.
    """

    def __init__(self, of: click.ParamType[Any]) -> None:
        self._of, self.name = of, of.name

    def __repr__(self) -> str:
        return f"Several({self._of!r})"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Refuse what is none."""
        if isinstance(value, tuple):
            return value
        return tuple(dict.fromkeys(self._of.convert(part.strip(), param, ctx) for part in value.split(",")))

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """What `--help` shows."""
        return f"{self._of.get_metavar(param, ctx) or self.name.upper()},..."


class CapType(click.IntRange):
    """A cap on tool calls, or `none`."""

    name = "cap"

    def __init__(self, least: int = 1) -> None:
        super().__init__(least)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what is neither."""
        if value == "none":
            return value
        if isinstance(value, str) and not value.strip().lstrip("-").isdecimal():
            self.fail(f"{value!r} is neither a number of calls nor none", param, ctx)
        return super().convert(value, param, ctx)


def together(*options: Option[Any]) -> Option[Any]:
    """Several options as one decorator, in their order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


json_option = click.option("--json", "as_json", is_flag=True, help="As JSON, with every figure and detail.")
fresh_option = click.option(
    "--fresh",
    is_flag=True,
    help="Replace what other options made, which is refused otherwise. What the same options made goes on.",
)
"""The one meaning that it has everywhere: see `keepstate.resume`."""
seed_option = click.option(
    "--seed", type=int, default=0, show_default=True, help="Another seed plays the same tasks with other draws."
)
laptop_option = click.option("--laptop", is_flag=True, help="The small model (SmolLM2-135M) instead of Qwen3-8B.")


def sandbox_options(isolation: str | None = None) -> Option[Any]:
    """Where model-written code runs: `isolation` (None where not given and without a default) and `allow_unsafe`."""
    return together(
        click.option(
            "--isolation",
            default=isolation,
            show_default=isolation is not None,
            help="Rung of the sandbox, RUNG+ for at least that one; see: keepstate doctor",
        ),
        click.option("--allow-unsafe", is_flag=True, help="Run model-written code without a sandbox if there is none."),
    )


def concurrency_option(default: int | None = None) -> Option[Any]:
    """How many episodes are played at once; without a default the config's."""
    otherwise = "" if default else "; the config's where not given"
    return click.option(
        "--concurrency",
        type=click.IntRange(1),
        default=default,
        show_default=default is not None,
        help=f"Episodes at once{otherwise}.",
    )


def key_file_option(of: str = "the server asks for", *, expose: bool = False) -> Option[Any]:
    """The key of every server that the command asks or starts: taken before the command runs, in no process list."""

    def take(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
        if path is not None:
            from keepstate.models.endpoint import use_key_file

            use_key_file(path)
        return path

    return click.option(
        "--api-key-file",
        type=PATH,
        callback=take,
        expose_value=expose,
        help=f"File with the key that {of}{'' if expose else '; else KEEPSTATE_API_KEY'}.",
    )


def base_url_option(default: str | None = None, *, otherwise: str = "") -> Option[Any]:
    """The server that answers, and its key."""
    return together(
        click.option(
            "--base-url",
            default=default,
            show_default=default is not None,
            help=f"Of the OpenAI-compatible server, ending in /v1; URL,URL of several alike{otherwise}.",
        ),
        key_file_option(),
    )


def port_option(least: int) -> Option[Any]:
    """Where a server is started; port 0, where it is allowed, picks a free one."""
    free = "" if least else "; 0 picks a free one"
    return click.option(
        "--port",
        type=click.IntRange(least, 65_535),
        default=8000,
        show_default=True,
        help=f"Of the server{free}.",
    )


def tokenizer_option(otherwise: str) -> Option[Any]:
    """What counts tokens."""
    return click.option("--tokenizer", help=f"Model folder, tokenizer.json, or qwen3; else {otherwise}.")


def margin_option(default: float) -> Option[Any]:
    """What counts as equivalent."""
    return click.option(
        "--margin",
        type=FiniteRange(0, 1, min_open=True),
        default=default,
        show_default=True,
        help="Differences of optimality below it count as equivalent.",
    )


def family_option(*, exposed: bool = False) -> Option[Any]:
    """The option `--family`, whose family is loaded before the command runs.

    Args:
        exposed: Give the command its name as `family`; most need only that it is loaded.
    """

    def use(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
        if value is None:
            return None
        from keepstate.tasks import use_family

        return use_family(value).name

    words = "Of the tasks, where it is your own: a file (my_tasks.py) or a module."
    return click.option("--family", callback=use, expose_value=exposed, help=words)


def sweep_options() -> Option[Any]:
    """What may have several values, each a cell of its own; `sweep_of` takes it from what click hands over."""
    return together(
        click.option(
            "--seeds",
            "--seed",
            "seeds",
            type=Several(click.INT),
            default=(),
            help="Draws of the same tasks: 0,1,2 plays each task three times.",
        ),
        click.option(
            "--tool-calls",
            type=Several(CapType()),
            default=(),
            help="Of an action; 25,80,none plays cells of each, none without a cap.",
        ),
        click.option(
            "--temperature",
            type=Several(FiniteRange(0)),
            default=(),
            help="Of the server's draws; 0 draws nothing; 0,0.2 plays cells of either.",
        ),
    )


def sweep_of(options: dict[str, Any]) -> Sweep:
    """Take the options of `sweep_options` out of `options`."""
    from keepstate.bench.sweep import Sweep

    runtimes = tuple(map(RuntimeName, options.pop("runtimes", ())))
    return Sweep(runtimes, **{key: options.pop(key) for key in ("seeds", "tool_calls", "temperature")})


def limits_options(*, least_tool_calls: int | None = 1) -> Option[Any]:
    """What an episode may use up; `limits_of` takes it from what click hands over.

    Args:
        least_tool_calls: None leaves `--tool-calls` to `sweep_options`.
    """
    from keepstate.traces.record import DEFAULT_LIMITS, MOST_TURNS

    tool_calls = click.option(
        "--tool-calls",
        type=CapType(least_tool_calls or 1),
        default=DEFAULT_LIMITS.tool_calls,
        show_default=True,
        help="Of an action; none: no cap.",
    )
    return together(
        click.option(
            "--turns",
            type=click.IntRange(1, MOST_TURNS),
            default=DEFAULT_LIMITS.turns,
            show_default=True,
            help="Of an episode.",
        ),
        click.option("--seconds", type=FiniteRange(0, min_open=True), help="Of an episode; 900, react 600."),
        *([] if least_tool_calls is None else [tool_calls]),
    )


def limits_of(options: dict[str, Any]) -> Limits:
    """Take the options of `limits_options` out of `options`."""
    from keepstate.traces.record import Limits

    given = {key: options.pop(key, None) for key in ("turns", "seconds", "tool_calls")}
    return Limits.model_validate({key: value for key, value in given.items() if value is not None})


def max_tokens_option() -> Option[Any]:
    """How long an answer may be."""
    from keepstate.models.base import Sampling

    return click.option(
        "--max-tokens",
        type=click.IntRange(1),
        default=Sampling().max_tokens,
        show_default=True,
        help="Of an answer.",
    )


def sampling_options() -> Option[Any]:
    """How a server picks tokens; `sampling_of` takes it from what click hands over."""
    from keepstate.models.base import Sampling

    return together(
        max_tokens_option(),
        click.option(
            "--temperature",
            type=FiniteRange(0),
            default=Sampling().temperature,
            show_default=True,
            help="Of the server's draws; 0 draws nothing.",
        ),
    )


def sampling_of(options: dict[str, Any]) -> Sampling:
    """Take the options of `sampling_options` out of `options`."""
    from keepstate.models.base import Sampling

    return Sampling(temperature=options.pop("temperature"), max_tokens=options.pop("max_tokens"))
