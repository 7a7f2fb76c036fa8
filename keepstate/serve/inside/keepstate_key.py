"""Asks every request for the server's key: vLLM itself guards `/v1` alone, and answers prompts elsewhere too.

vLLM loads it into its web server (`--middleware`); the key is in `VLLM_API_KEY`. Open stays `/health`, which tells
whether the server is up and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from hmac import compare_digest
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
OPEN = "/health"


class KeyEverywhere:
    """ASGI middleware that refuses what does not bring the key, with 401."""

    def __init__(self, app: App) -> None:
        self._app, self._key = app, os.environ["VLLM_API_KEY"].encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan" or scope["path"] == OPEN or self._is_known(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"error": "Unauthorized"}'})

    def _is_known(self, scope: Scope) -> bool:
        brought = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, key = brought.partition(b" ")
        return scheme.lower() == b"bearer" and compare_digest(key, self._key)
