"""Chat templates: the Jinja files that turn a conversation into the text a model sees.

The same file goes to Axolotl (`chat_template: jinja`, `chat_template_jinja: <path>`) and to vLLM (`--chat-template`);
both render text with it by transformers' `apply_chat_template`, then tokenise the text. Here it is rendered with the
same environment, filters, tags and functions; a test compares the bytes. What transformers takes from the tokenizer in
use (`bos_token`) is written into a template when it is read together with a model, so that the file says it wherever
it goes. Refused by name is what cannot be proven: such tokens without a model, and today's date (`strftime_now`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keepstate.errors import UserError
from keepstate.model_files import SPECIAL_TOKENS, own_template, special_tokens
from keepstate.models.base import Message

if TYPE_CHECKING:
    import jinja2

FOLDER = Path(__file__).with_name("chat_templates")
BUILT_IN = ("qwen3_nothink", "chatml", "llama3", "mistral", "mistral_v7", "gemma")
"""`qwen3_nothink` for Qwen3 with thinking off, `chatml` for Qwen2.5, SmolLM2 and others without thinking; `mistral_v7`
where a system prompt has tokens of its own."""
OWN = "own"
"""The model's own template, as `--chat-template`."""

QWEN3_STOCK = "qwen3-stock"
"""For comparison only: it is not append-only."""


class TemplateRefusal(UserError):
    """The template itself refuses a conversation, by its `raise_exception`."""


@dataclass(frozen=True)
class ChatTemplate:
    """One template.

    `name` is a built-in name or the path it was read from, `text` its Jinja source.
    """

    name: str
    text: str

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the source."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def __reduce__(self) -> tuple[type[ChatTemplate], tuple[str, str]]:
        """For other processes: what is compiled cannot be sent, and is compiled there."""
        return ChatTemplate, (self.name, self.text)

    @cached_property
    def _compiled(self) -> jinja2.Template:
        import jinja2.meta

        environment = _environment()
        try:
            variables = jinja2.meta.find_undeclared_variables(environment.parse(self.text))
            compiled = environment.from_string(self.text)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(
                f"chat template {self.name}, line {error.lineno}: {error.message}",
                f"mend it, or use one of: {', '.join(BUILT_IN)}",
            ) from error
        if special := sorted(variables & SPECIAL_TOKENS):
            raise UserError(
                f"chat template {self.name} uses {', '.join(special)}, which no tokenizer_config.json at hand tells",
                f"write the token itself into it, as '<|im_end|>', or use one of: {', '.join(BUILT_IN)}",
            )
        return compiled

    def render(self, messages: Sequence[Message], *, generation_prompt: bool = False) -> str:
        """The text of `messages`; with `generation_prompt` what a server is to continue.

        `enable_thinking=False` is passed, as the server is told; the built-in templates need no such switch.

        Raises:
            TemplateRefusal: It refuses these messages.
            UserError: It is no Jinja template, fails on them, or uses what cannot be proven.
        """
        import jinja2

        try:
            return self._compiled.render(
                messages=messages,
                add_generation_prompt=generation_prompt,
                enable_thinking=False,
                tools=None,
                documents=None,
            )
        except UserError:
            raise
        except Exception as error:  # whatever its expressions raise, of Jinja's or of Python's, is the template's
            reason = error.message if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: {error}"
            raise UserError(
                f"chat template {self.name}: {reason}", f"mend it, or use one of: {', '.join(BUILT_IN)}"
            ) from error


@cache
def _environment() -> jinja2.Environment:
    """What transformers' `apply_chat_template` compiles a template with."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`: marks what the model writes, and changes nothing in the text."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja's own extensions have it

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_as_is"), [], [], body).set_lineno(line)

        def _as_is(self, caller: Callable[[], str]) -> str:
            return caller()

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    return environment


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON without Jinja's escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateRefusal(message, "leave such conversations out, or choose another template: --template chatml")


def _strftime_now(_format: str) -> None:
    raise UserError(
        "the chat template writes today's date (strftime_now): a server would send another prompt tomorrow",
        f"write a date into it, or use one of: {', '.join(BUILT_IN)}",
    )


def load_template(name: str | Path, model: Path | None = None) -> ChatTemplate:
    """The template called `name`.

    Args:
        name: A built-in one, a Jinja file, `own` (the model's), or `qwen3-stock`, the one that Qwen3 ships with.
        model: The folder of the model that it is for. Its special tokens are written into a file that asks for them.

    Raises:
        UserError: There is none of that name.
    """
    if name == QWEN3_STOCK:
        from keepstate.setup.qwen3 import qwen3_template

        return ChatTemplate(QWEN3_STOCK, qwen3_template())
    if name == OWN:
        text = own_template(model) if model else None
        if model is None or text is None:
            raise UserError(f"{model or 'no model'} has no chat template of its own", f"choose: {', '.join(BUILT_IN)}")
        return ChatTemplate(OWN, _with_tokens(text, model))
    path = FOLDER / f"{name}.jinja" if str(name) in BUILT_IN else Path(name)
    try:
        text = path.read_text(encoding="utf-8")
        return ChatTemplate(str(name), _with_tokens(text, model) if model else text)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"no chat template {str(name)!r}: {error}", f"name a Jinja file, or one of: {', '.join(BUILT_IN)}"
        ) from error


def template_by_name(model: str) -> str | None:
    """The built-in template of a hub's model that is not here, by its name; None where the name does not tell."""
    name = model.lower()
    if "qwen3" in name:
        return "chatml" if "instruct-2507" in name or "coder" in name else "qwen3_nothink"
    known = {"chatml": ("qwen2", "smollm"), "llama3": ("llama-3", "llama3"), "gemma": ("gemma-2", "gemma-3")}
    return next((template for template, words in known.items() if any(word in name for word in words)), None)


def _with_tokens(text: str, model: Path) -> str:
    """`text` with the values of the special tokens that it asks for set at its beginning, as far as the model tells."""
    import jinja2.meta

    try:
        asked = jinja2.meta.find_undeclared_variables(_environment().parse(text))
    except jinja2.TemplateSyntaxError:
        return text  # said, with its line, when it is rendered
    tokens = special_tokens(model)
    return "".join(f"{{% set {name} = {tokens[name]!r} %}}\n" for name in sorted(asked & tokens.keys())) + text
