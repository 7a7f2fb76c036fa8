"""Chat templates: the Jinja files that turn a conversation into the text a model sees.

The same file goes to Axolotl (`chat_template: jinja`, `chat_template_jinja: <path>`) and to vLLM (`--chat-template`);
both render text with it by transformers' `apply_chat_template`, then tokenise the text. Here it is rendered with the
same environment, filters, tags and functions; a test compares the bytes. Refused by name is what a template cannot be
proven with: the tokenizer's special tokens as variables (`bos_token`), and today's date (`strftime_now`).
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
from keepstate.models.base import Message

if TYPE_CHECKING:
    import jinja2

FOLDER = Path(__file__).with_name("chat_templates")
BUILT_IN = ("qwen3_nothink", "chatml")
"""`qwen3_nothink` for Qwen3 with thinking off, `chatml` for models without thinking."""

QWEN3_STOCK = "qwen3-stock"
"""For comparison only: it is not append-only."""

SPECIAL_TOKENS = frozenset(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
"""Variables that transformers gives the values of the tokenizer in use; a template is rendered here without one."""


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
                f"chat template {self.name} uses {', '.join(special)}, which another tokenizer's files decide",
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


def load_template(name: str | Path) -> ChatTemplate:
    """The built-in template `name`, the one in the file of that path, or `qwen3-stock`, the one Qwen3 ships with.

    Raises:
        UserError: None of these exists.
    """
    if name == QWEN3_STOCK:
        from keepstate.setup.qwen3 import qwen3_template

        return ChatTemplate(QWEN3_STOCK, qwen3_template())
    path = FOLDER / f"{name}.jinja" if str(name) in BUILT_IN else Path(name)
    try:
        return ChatTemplate(str(name), path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"no chat template {str(name)!r}: {error}", f"name a Jinja file, or one of: {', '.join(BUILT_IN)}"
        ) from error
