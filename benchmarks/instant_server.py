"""A server that answers at once: chat completions from a script, by the number of turns that the request holds.

    python benchmarks/instant_server.py ANSWERS.json     # prints its base URL

ANSWERS.json is {"<model>": [answer to turn 0, answer to turn 1, ...]}. Speaks just enough HTTP and OpenAI for
`benchmarks/harness.py`; one request at a time on each connection. Costs about 0.05 ms a request.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any


def http(body: bytes) -> bytes:
    """A whole response."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def completion(model: str, text: str) -> bytes:
    """A chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 500, "completion_tokens": 50, "total_tokens": 550}
    value = {"id": "1", "object": "chat.completion", "created": 0, "model": model, "choices": [choice], "usage": usage}
    return http(json.dumps(value).encode())


class Connection(asyncio.Protocol):
    """Answers requests as they come, each after so many seconds."""

    def __init__(self, answers: dict[str, list[bytes]], models: bytes, seconds: float = 0) -> None:
        self._answers, self._models, self._seconds, self._data = answers, models, seconds, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where to write."""
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        """Answer every whole request."""
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            place = head.find(b"content-length:")
            length = int(head[place + 15 :].split(b"\r\n")[0]) if place >= 0 else 0
            if len(self._data) < end + 4 + length:
                return
            body, self._data = self._data[end + 4 : end + 4 + length], self._data[end + 4 + length :]
            if not length:
                self._transport.write(self._models)
            elif not self._seconds:
                self._transport.write(self._answer(body))
            else:
                asyncio.get_running_loop().call_later(
                    self._seconds, lambda body=body: self._transport.write(self._answer(body))
                )

    def _answer(self, body: bytes) -> bytes:
        request = json.loads(body)
        turn = sum(message["role"] == "assistant" for message in request["messages"])
        return self._answers[request["model"]][turn]


async def main(scripts: dict[str, list[str]]) -> None:
    """Serve until killed."""
    answers = {model: [completion(model, text) for text in texts] for model, texts in scripts.items()}
    cards = [{"id": model, "object": "model", "created": 0} for model in scripts]
    models = http(json.dumps({"object": "list", "data": cards}).encode())
    server = await asyncio.get_running_loop().create_server(lambda: Connection(answers, models), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))
