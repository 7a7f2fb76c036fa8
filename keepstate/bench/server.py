"""What a running server says of itself: the models it serves, their context, and how many tokens its cache holds.

Asks `/v1/models` and `/metrics` of an OpenAI-compatible server; what it does not tell stays unknown. Starts no server.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from keepstate.bench.config import BenchmarkConfig
from keepstate.errors import UserError
from keepstate.models.server import LOOPBACK
from keepstate.serving.adapters import BASE
from keepstate.serving.loaded import AdapterContent, Loaded, loaded_base, loaded_by
from keepstate.vocabulary import Adapter

SECONDS = 10.0

_CACHE_INFO = re.compile(r"^vllm:cache_config_info\{(?P<labels>.*)\} ", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """One server."""

    base_url: str
    models: Mapping[str, Mapping[str, Any]]
    """What `/v1/models` says, by name."""
    start: str
    """How to start one for all cells that need it."""
    pool_tokens: int | None
    """Tokens that its key-value cache holds; None where it does not tell."""
    loaded: Loaded | None = None
    """What it loaded, if `keepstate serve` started it on this machine."""

    def served(self, config: BenchmarkConfig) -> dict[str, Any]:
        """What it says of the model of `config`.

        Raises:
            UserError: It does not serve it, or with a smaller context than the config asks for.
        """
        card = self.models.get(config.served_name)
        if card is None:
            raise UserError(
                f"{self.base_url} does not serve {config.served_name!r} ({config.name} needs it);"
                f" it serves: {', '.join(sorted(self.models)) or 'nothing'}",
                self.start,
            )
        base = self.models.get(str(card.get("parent")), {})
        context = card.get("max_model_len") or base.get("max_model_len")  # vLLM tells it of the base alone
        if context is not None and context < config.context:
            raise UserError(
                f"{self.base_url} serves {config.served_name!r} with a context of {context:,} tokens,"
                f" {config.name} asks for {config.context:,}",
                f"restart it with a longer context, or ask for less: context: {context} (bench matrix: --context)",
            )
        return {"root": card.get("root"), "max_model_len": context} | self._contents(config.served_name, card, base)

    def _contents(self, name: str, card: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
        """What decides the answers: what the server loaded, where that is known, else what lies in its folders now."""
        root = card.get("root")
        now = AdapterContent.read(Path(str(root))) if root else None
        loaded = self.loaded if self.loaded and (name == BASE or name in self.loaded.adapters) else None
        content = loaded.adapters.get(name) if loaded else now
        remarks = []
        if loaded and content and (lying := AdapterContent.read(content.folder)) != content:
            what = "changed" if lying.weights else "was removed"
            remarks.append(f"{content.folder} {what} after the server loaded it; what it loaded is what plays")
        return {
            "weights": content.weights if content else None,
            "adapter_config": content.config if content else None,
            "base": loaded.base if loaded else loaded_base((base or card).get("root")),
            "hashed": "when the server loaded it" if loaded else "as it lay in its folder when the benchmark started",
            "remarks": remarks,
        }


def start_command(configs: Sequence[BenchmarkConfig]) -> str:
    """The command that starts a server for these cells."""
    adapters = sorted({str(config.adapter) for config in configs if config.adapter is not Adapter.BASE})
    loras = "".join(f" --lora out/qwen3-8b-{name}-a100" for name in adapters)
    return f"start it with: keepstate serve{loras} (on a laptop: keepstate demo)"


async def ask_server(base_url: str, configs: Sequence[BenchmarkConfig]) -> ServerInfo:
    """Ask a server what it serves.

    Args:
        base_url: Ending in `/v1`.
        configs: The cells that need it, for the hint.

    Raises:
        UserError: No server answers there, or it is none of ours.
    """
    async with _client(base_url) as client:
        try:
            answer = await client.get(f"{base_url.rstrip('/')}/models")
            cards = answer.raise_for_status().json()["data"]
            models = {str(card["id"]): card for card in cards}
        except httpx2.HTTPStatusError as error:
            code = error.response.status_code
            raise UserError(
                f"{base_url}/models answers with HTTP status {code}", "the URL should end in /v1; check it and the key"
            ) from error
        except httpx2.HTTPError as error:
            raise UserError(
                f"no server answers at {base_url} ({type(error).__name__})", start_command(configs)
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{base_url} is no OpenAI-compatible server", start_command(configs)) from error
        return ServerInfo(base_url, models, start_command(configs), await _pool(client, base_url), loaded_by(base_url))


async def is_alive(base_url: str, *, attempts: int = 3, pause: float = 2.0) -> bool:
    """Whether the server still answers."""
    async with _client(base_url) as client:
        for attempt in range(attempts):
            try:
                await client.get(f"{base_url.rstrip('/')}/models")
            except httpx2.HTTPError:
                if attempt + 1 < attempts:
                    await asyncio.sleep(pause)
            else:
                return True
    return False


def pool_tokens(metrics: str) -> int | None:
    """Tokens that the key-value cache of a vLLM server holds, from its Prometheus metrics.

    vLLM gives one line an engine: `kv_cache_size_tokens` of that engine (newer versions), and `num_gpu_blocks`, already
    summed over engines, times `block_size`.
    """
    lines = [dict(_LABEL.findall(line["labels"])) for line in _CACHE_INFO.finditer(metrics)]
    sizes = [_integer(line.get("kv_cache_size_tokens")) for line in lines]
    if sizes and all(sizes):
        return sum(sizes)
    return (
        max((_integer(line.get("num_gpu_blocks")) * _integer(line.get("block_size")) for line in lines), default=0)
        or None
    )


async def _pool(client: httpx2.AsyncClient, base_url: str) -> int | None:
    try:
        answer = await client.get(f"{base_url.rstrip('/').removesuffix('/v1')}/metrics")
    except httpx2.HTTPError:
        return None
    return pool_tokens(answer.text) if answer.status_code == 200 else None


def _client(base_url: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(timeout=SECONDS, trust_env=urlsplit(base_url).hostname not in LOOPBACK)


def _integer(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0
