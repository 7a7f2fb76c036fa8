"""A real HTTP server that speaks as much of vLLM as a benchmark needs, answering at once from a rule."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from stub_http import JsonHandler, answering_with

Rule = Callable[[dict[str, Any]], str | tuple[int, str]]


def look_then_finish(request: dict[str, Any]) -> str:
    """List the items, then finish: in the format that the system prompt asks for."""
    tool = "list_items" if len(request["messages"]) == 2 else "finish"
    if '"tool"' in request["messages"][0]["content"]:
        return f'Thought: on\nAction: [{{"tool": "{tool}", "args": {{}}}}]'
    return f"On.\n```python\nprint({tool}())\n```"


@dataclass
class StubServer:
    """What it serves, how it answers, and what it was asked."""

    models: tuple[str, ...] = ("base", "persistent", "forget", "react")
    rule: Rule = look_then_finish
    context: int | None = 40_960
    pool: tuple[int, int] | None = None
    """Blocks and their size, told in the metrics."""
    completion_tokens: int = 50
    key: str | None = None
    """What every request has to bring."""
    keys: set[str] = field(default_factory=set)
    """Paths that were asked with it."""
    gone: bool = False
    """Closes every connection without an answer."""
    requests: Counter[str] = field(default_factory=Counter)
    """By model."""
    url: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)

    def card(self, name: str) -> dict[str, Any]:
        """As vLLM's: an adapter names its base and tells no context of its own."""
        about = {"id": name, "object": "model", "created": 0, "root": f"/nowhere/{name}"}
        if name == "base":
            return about | {"parent": None, "max_model_len": self.context}
        return about | {"parent": "base", "max_model_len": None}

    def metrics(self) -> str:
        if self.pool is None:
            return "# HELP nothing\n"
        blocks, size = self.pool
        return f'vllm:cache_config_info{{block_size="{size}",engine="0",num_gpu_blocks="{blocks}"}} 1.0\n'

    def complete(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.requests[request["model"]] += 1
        self.seen.append(request)
        answer = self.rule(request)
        if isinstance(answer, tuple):
            return answer[0], {"error": {"message": answer[1], "type": "Error", "code": answer[0]}}
        prompt = sum(len(message["content"]) for message in request["messages"]) // 4
        usage = {"prompt_tokens": prompt, "completion_tokens": self.completion_tokens}
        usage["total_tokens"] = sum(usage.values())
        message = {"role": "assistant", "content": answer}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": request["model"]}
        return 200, body | {"choices": [choice], "usage": usage}


@contextmanager
def serving(stub: StubServer) -> Iterator[StubServer]:
    """Serve `stub` on a free port of this machine."""

    class Handler(JsonHandler):
        def do_GET(self) -> None:
            if stub.gone:
                self.close_connection = True
            elif not self.keyed():
                self.send(401, {"error": "no key"})
            elif self.path == "/v1/models":
                self.send(200, {"object": "list", "data": [stub.card(name) for name in stub.models]})
            elif self.path == "/metrics":
                self.send(200, stub.metrics())
            else:
                self.send(404, {})

        def do_POST(self) -> None:
            request = self.asked()
            if stub.gone:
                self.close_connection = True
                return
            self.send(*(stub.complete(request) if self.keyed() else (401, {"error": "no key"})))

        def keyed(self) -> bool:
            if stub.key is not None and self.headers["Authorization"] == f"Bearer {stub.key}":
                stub.keys.add(self.path)
            return stub.key is None or self.path in stub.keys

    with answering_with(Handler) as address:
        stub.url = f"{address}/v1"
        yield stub
