"""The token ids a running vLLM makes of a conversation, by its `/tokenize` endpoint."""

from __future__ import annotations

from collections.abc import Sequence

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

    from keepstate.models.endpoint import ServerFault, connection, served_models

    root = url.rstrip("/").removesuffix("/v1")

    def silent(path: str, error: Exception) -> UserError:
        return UserError(f"the server at {root} did not answer {path}: {error}", "start it: keepstate serve")

    try:
        served = list(served_models(f"{root}/v1", seconds=SECONDS))
    except ServerFault as fault:
        raise silent("/v1/models", fault) from fault
    if model is not None and model not in served:
        raise UserError(f"the server at {root} has no model {model!r}", f"choose with --model: {', '.join(served)}")
    name = model or next(iter(served), "")
    client = httpx2.Client(base_url=root, timeout=SECONDS, **connection(url))

    def prompt_ids(messages: Sequence[Message]) -> list[int]:
        body = {
            "model": name,
            "messages": list(messages),
            "add_generation_prompt": True,
            "chat_template_kwargs": {"enable_thinking": False},
        }
        try:
            response = client.post("/tokenize", json=body)
            response.raise_for_status()
            return list(response.json()["tokens"])
        except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
            raise silent("/tokenize", error) from error

    return prompt_ids
