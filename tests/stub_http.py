"""A real HTTP server for a test: it answers JSON on a free port of this machine from a handler of the test's own."""

import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class JsonHandler(BaseHTTPRequestHandler):
    """Subclass it with `do_GET` and `do_POST`, which call `asked` and `send`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    """Else every answer waits 40 ms until the client has acknowledged its head."""

    def asked(self) -> Any:
        """The JSON that was posted."""
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionAbortedError("the client hung up in the middle of its question")
        return json.loads(body)

    def send(
        self, status: int, value: Any, headers: Mapping[str, str] | None = None, length: int | None = None
    ) -> None:
        """Answer with a text as it is, else with JSON; more headers, and `length` instead of the true one."""
        body = (value if isinstance(value, str) else json.dumps(value)).encode()
        kind = "text/plain" if isinstance(value, str) else "application/json"
        self.send_response(status)
        for name, text in {"Content-Type": kind, **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the test knows what it asked."""


class HttpServer(ThreadingHTTPServer):
    """Room for many clients at once."""

    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def answering_with(handler: type[JsonHandler]) -> Iterator[str]:
    """Serve until the block ends; yields the address, without a path."""
    http = HttpServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
