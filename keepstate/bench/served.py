"""What a running server says of itself: the models it serves, their context, and how many tokens its cache holds.

Asks `/v1/models` and `/metrics` of an OpenAI-compatible server; what it does not tell stays unknown. Starts no server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from keepstate.bench.benchmark_config import BenchmarkConfig
from keepstate.bench.cells import TOLD_BY_SERVER
from keepstate.errors import UserError
from keepstate.models.base import ServerGone
from keepstate.models.endpoint import SECONDS, Endpoint, ServerFault, context_of
from keepstate.play.admission import Pools
from keepstate.serve.loaded import AdapterContent, Loaded, loaded_base, loaded_by, servers_at
from keepstate.train.trained_for import TrainedFor, by_name
from keepstate.vocabulary import BASE, MIXED, RuntimeName

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
    lying: dict[tuple[str, str], Any] = field(default_factory=dict)
    """What was read of folders so far."""

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
        context = context_of(self.models, config.served_name)
        if context is not None and context < config.context:
            raise UserError(
                f"{self.base_url} serves {config.served_name!r} with a context of {context:,} tokens,"
                f" {config.name} asks for {config.context:,}",
                f"restart it with a longer context, or ask for less: context: {context} (bench matrix: --context)",
            )
        return {"root": card.get("root"), "max_model_len": context} | self.contents(config.served_name)

    def contents(self, name: str) -> dict[str, Any]:
        """What decides the answers: what the server loaded, where that is known, else what lies in its folders now."""
        card = self.models[name]
        base = self.models.get(str(card.get("parent")), card)
        loaded, content = self._content(name)
        remarks = []
        if loaded and content and (lying := self._lying(_adapter, content.folder)) != content:
            what = "changed" if lying.weights else "was removed"
            remarks.append(f"{content.folder} {what} after the server loaded it; what it loaded is what plays")
        return {
            "weights": content.weights if content else None,
            "adapter_config": content.config if content else None,
            "base": loaded.base if loaded else self._lying(loaded_base, base.get("root")),
            "template": loaded.template if loaded else None,
            "kv_cache": loaded.kv_cache if loaded else None,
            "trained_for": self.trained_for(name),
            "vllm_arguments": list(loaded.vllm_arguments) if loaded else None,
            "hashed": "when the server loaded it" if loaded else "as it lay in its folder when the benchmark started",
            "remarks": remarks,
        }

    def trained_for(self, name: str) -> TrainedFor | None:
        """What a model that it serves was trained for; None where neither card nor name tells.

        The base is `base`, or whatever another model here is an adapter of.
        """
        if any(card.get("parent") == name for card in self.models.values()):
            return by_name(BASE)
        _, content = self._content(name)
        return (content.trained_for if content else None) or by_name(name)

    def _content(self, name: str) -> tuple[Loaded | None, AdapterContent | None]:
        """The note of what the server loaded, where there is one, and what is known of an adapter."""
        loaded = self.loaded if self.loaded and (name == BASE or name in self.loaded.adapters) else None
        return loaded, loaded.adapters.get(name) if loaded else self._lying(_adapter, self.models[name].get("root"))

    def _lying(self, read: Callable[[Any], Any], place: object) -> Any:
        """What `read` says of a place, once for all cells: hashing a base model of 16 GiB takes ten seconds."""
        key = read.__name__, str(place)
        if key not in self.lying:
            self.lying[key] = read(place)
        return self.lying[key]


def _adapter(root: object) -> AdapterContent | None:
    """What lies in the folder that a server names."""
    return AdapterContent.read(Path(str(root))) if root else None


async def ask_who_answers(servers: Sequence[str]) -> list[ServerInfo]:
    """`ask_server` of those that answer."""
    found = []
    for url in servers:
        with suppress(UserError):
            found.append(await ask_server(url))
    return found


def contents_of(servers: Sequence[ServerInfo], name: str) -> dict[str, Any]:
    """What decides the answers of a model beside its name: the keys of `TOLD_BY_SERVER`, None where not known.

    Of no server, or none of keepstate's, little or nothing is.

    Raises:
        UserError: Of several servers one answers otherwise than the others.
    """
    told = [(server.base_url, server.contents(name) if name in server.models else {}) for server in servers]
    _check_alike(told, name)
    return {key: told[0][1].get(key) if told else None for key in TOLD_BY_SERVER}


def pools_of(servers: Sequence[ServerInfo], name: str) -> Pools:
    """What their caches hold, and how long a conversation with a model may be."""
    contexts = [context for server in servers if (context := context_of(server.models, name))]
    return Pools({server.base_url: server.pool_tokens for server in servers}, min(contexts, default=0))


def told_alike(servers: Sequence[ServerInfo], config: BenchmarkConfig) -> dict[str, Any]:
    """What servers say of the model of `config`, and which they are where there are several.

    Raises:
        UserError: One does not serve it as the config asks, or otherwise than the others.
    """
    told = [(server.base_url, server.served(config)) for server in servers]
    _check_alike(told, config.served_name)
    return told[0][1] | ({"replicas": [url for url, _ in told]} if len(told) > 1 else {})


def _check_alike(told: Sequence[tuple[str, Mapping[str, Any]]], name: str) -> None:
    """Refuse servers that give different answers under one name, as far as they tell."""
    for url, other in told[1:]:
        first, says = told[0]
        if differ := _differences(says, other):
            raise UserError(
                f"{first} and {url} do not answer alike as {name!r}: {', '.join(differ)} differ",
                "start them together (keepstate serve --replicas N), or ask one of them: --base-url",
            )


class Watch:
    """Whether answers still come from what a server loaded at first: `ServerModel.believe`, .2 ms an answer.

    Of a server that noted nothing at first, see `Loaded`, all are believed.

    Args:
        served: What it said at first, the keys of `TOLD_BY_SERVER`.
        url: Of the server.
        name: Of the model there.
    """

    def __init__(self, served: Mapping[str, Any], url: str, name: str) -> None:
        self._served, self._url, self._name = served, url, name
        self._notes = loaded_by(url) is not None

    def __call__(self) -> None:
        """Look at the note again.

        Raises:
            ServerGone: The server was ended; what answers there may be another that has not noted yet what it loaded.
            UserError: It loaded something else.
        """
        if not self._notes:
            return
        again = "repeat the command: finished episodes are kept"
        loaded = loaded_by(self._url)
        if loaded is None:
            raise ServerGone(f"the server at {self._url} was ended", f"start it again and {again}", self._is_back)
        content = loaded.adapters.get(self._name)
        now = {
            "weights": content and content.weights,
            "adapter_config": content and content.config,
            "base": loaded.base,
            "template": loaded.template,
            "kv_cache": loaded.kv_cache,
        }
        if differ := _differences(self._served, now):
            raise UserError(
                f"{self._url} was started again and answers otherwise as {self._name!r}: {', '.join(differ)} differ",
                f"serve what it served before and {again}",
            )

    async def _is_back(self) -> bool:
        return loaded_by(self._url) is not None


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What of what decides the answers differs, in words, where both are known."""
    known = {key: words for key, words in TOLD_BY_SERVER.items() if None not in (one.get(key), other.get(key))}
    return [words for key, words in known.items() if one[key] != other[key]]


def start_command(configs: Sequence[BenchmarkConfig]) -> str:
    """The command that starts a server for these cells; without any, one for the adapter of each runtime."""
    names = sorted({config.adapter for config in configs} - {BASE}) if configs else list(RuntimeName)
    own = {str(name): f"out/qwen3-8b-{name}-a100" for name in (*RuntimeName, MIXED)}
    loras = "".join(f" --lora {own.get(name, f'{name}=FOLDER')}" for name in names)
    return f"start it with: keepstate serve{loras} (on a laptop: keepstate demo)"


async def ask_server(base_url: str, configs: Sequence[BenchmarkConfig] = ()) -> ServerInfo:
    """Ask a server what it serves.

    Args:
        base_url: Ending in `/v1`.
        configs: The cells that need it, for the hint.

    Raises:
        UserError: No server answers there, or what does is no OpenAI-compatible one.
    """
    endpoint, start = Endpoint(base_url), start_command(configs)
    try:
        said = await endpoint.models()
        if said.status != 200:
            raise UserError(
                f"{base_url}/models answers with HTTP status {said.status}: {said.words}",
                "the URL should end in /v1; check it and the key",
            )
        if said.models is None:
            raise UserError(f"{base_url} is no OpenAI-compatible server: {said.words[:200]}", start)
        return ServerInfo(base_url, said.models, start, await _pool(endpoint), loaded_by(base_url))
    except ServerFault as fault:
        raise UserError(f"no server answers at {base_url} ({fault})", start) from fault
    finally:
        await endpoint.aclose()


async def ask_servers(base_url: str, configs: Sequence[BenchmarkConfig] = ()) -> list[ServerInfo]:
    """`ask_server` of every server that a base URL stands for: see `servers_at`.

    Raises:
        UserError: One does not answer.
    """
    lying: dict[tuple[str, str], Any] = {}
    return [replace(await ask_server(url, configs), lying=lying) for url in servers_at(base_url)]


async def served_adapters(base_url: str, names: Sequence[str] = ()) -> dict[str, TrainedFor | None]:
    """What each model of a server was trained for, in the server's order; None where nothing tells.

    Args:
        base_url: Ending in `/v1`; of several servers, with commas between, the first is asked.
        names: Only these; all where empty.

    Raises:
        UserError: No server answers there, or it does not serve one of `names`.
    """
    server = await ask_server(servers_at(base_url)[0])
    if lacking := [name for name in names if name not in server.models]:
        raise UserError(
            f"{base_url} does not serve {lacking[0]!r}; it serves: {', '.join(sorted(server.models)) or 'nothing'}",
            f"name one of these (--adapter), or {server.start}",
        )
    return {name: server.trained_for(name) for name in names or server.models}


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


async def _pool(endpoint: Endpoint) -> int | None:
    try:
        said = await endpoint.ask("GET", "../metrics", seconds=SECONDS)
    except ServerFault:
        return None
    return pool_tokens(said.text) if said.status == 200 else None


def _integer(text: str | None) -> int:
    return int(text) if text and len(text) < 19 and text.isdecimal() else 0  # Python reads no 5,000 digits
