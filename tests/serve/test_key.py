"""The key is asked on every path, within vLLM's own web server."""

import asyncio
import importlib.util
from collections.abc import MutableMapping
from typing import Any

import pytest

from keepstate.serve.command import GUARD, INSIDE


async def answer(scope: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a request meets: the app, 401, or a closed socket."""
    monkeypatch.setenv("VLLM_API_KEY", "sesame")
    module, _, name = GUARD.partition(".")
    spec = importlib.util.spec_from_file_location(module, INSIDE / f"{module}.py")
    assert spec
    assert spec.loader
    guard = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(guard)
    met: list[Any] = []

    async def app(*_: object) -> None:
        met.append("app")

    async def send(message: MutableMapping[str, Any]) -> None:
        met.append(message.get("status", message["type"]))

    await getattr(guard, name)(app)(scope, lambda: asyncio.sleep(0), send)
    return met[0]


@pytest.mark.parametrize(
    ("kind", "path", "brought", "met"),
    [
        ("http", "/v1/models", b"Bearer sesame", "app"),
        ("http", "/metrics", b"bearer sesame", "app"),
        ("http", "/health", None, "app"),
        ("http", "/v1/models", None, 401),
        ("http", "/invocations", b"Bearer open", 401),
        ("http", "/tokenize", b"Basic sesame", 401),
        ("http", "/health/../metrics", None, 401),
        ("websocket", "/v1/realtime", None, "websocket.close"),
    ],
)
async def test_every_path_asks(
    kind: str, path: str, brought: bytes | None, met: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = [(b"authorization", brought)] if brought else []
    assert await answer({"type": kind, "path": path, "headers": headers}, monkeypatch) == met


async def test_the_server_s_own_start_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await answer({"type": "lifespan"}, monkeypatch) == "app"
