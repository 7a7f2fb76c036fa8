"""Chat templates: the Jinja files that turn a conversation into the text a model sees.

The same file goes to Axolotl (`chat_template: jinja`, `chat_template_jinja: <path>`) and to vLLM (`--chat-template`);
both render text with it, then tokenise the text. Here it is rendered as they do. Holds no tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from keepstate.errors import UserError
from keepstate.models.base import Message

if TYPE_CHECKING:
    import jinja2

FOLDER = Path(__file__).with_name("chat_templates")
BUILT_IN = ("qwen3_nothink", "chatml")
"""`qwen3_nothink` for Qwen3 with thinking off, `chatml` for models without thinking."""

QWEN3_STOCK = "qwen3-stock"
"""For comparison only: it is not append-only."""


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
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        # The options of transformers' apply_chat_template, which both Axolotl and vLLM call.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        try:
            return environment.from_string(self.text)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(
                f"chat template {self.name}, line {error.lineno}: {error.message}",
                f"mend it, or use one of: {', '.join(BUILT_IN)}",
            ) from error

    def render(self, messages: Sequence[Message], *, generation_prompt: bool = False) -> str:
        """The text of `messages`; with `generation_prompt` what a server is to continue.

        `enable_thinking=False` is passed, as the server is told; the built-in templates need no such switch.
        """
        return self._compiled.render(
            messages=messages, add_generation_prompt=generation_prompt, enable_thinking=False, tools=None
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
