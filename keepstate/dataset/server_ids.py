"""The token ids a running vLLM makes of a conversation, by its `/tokenize` endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keepstate.dataset.parity import PromptIds
from keepstate.errors import UserError
from keepstate.models.base import Message

SECONDS = 60.0


def server_prompts(url: str, model: str | None) -> PromptIds:
    """What the server at `url` is to continue, for each conversation, generation prompt included.

    Args:
        url: With or without `/v1`.
        model: A name it serves; by default its first.

    Raises:
        UserError: It does not answer, or has no such model. The returned function raises the same.
    """
    import httpx2  # only with --server

    from keepstate.models.endpoint import connection

    root = url.rstrip("/").removesuffix("/v1")
    client = httpx2.Client(base_url=root, timeout=SECONDS, **connection(url))

    def ask(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            response = client.request(method, path, json=body)
            response.raise_for_status()
            answer: dict[str, Any] = response.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise UserError(
                f"the server at {root} did not answer {path}: {error}", "start it: keepstate serve"
            ) from error
        return answer

    served = [str(card["id"]) for card in ask("GET", "/v1/models")["data"]]
    if model is not None and model not in served:
        raise UserError(f"the server at {root} has no model {model!r}", f"choose with --model: {', '.join(served)}")
    name = model or served[0]

    def prompt_ids(messages: Sequence[Message]) -> list[int]:
        body = {
            "model": name,
            "messages": list(messages),
            "add_generation_prompt": True,
            "chat_template_kwargs": {"enable_thinking": False},
        }
        return list(ask("POST", "/tokenize", body)["tokens"])

    return prompt_ids
