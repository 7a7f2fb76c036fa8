"""A web server for a folder of pages, on this machine alone.

Serves files below its folder to whoever asks it by its own name; lists no folder and logs nothing.
"""

from __future__ import annotations

import errno
import functools
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from keepstate.errors import UserError

HOST = "127.0.0.1"


class PageServer(ThreadingHTTPServer):
    """Serves the files in a folder at `http://127.0.0.1:<port>/`.

    Args:
        folder: What is served.
        port: 0 picks a free one.

    Raises:
        UserError: The port is in use, or may not be had.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int) -> None:
        try:
            super().__init__((HOST, port), functools.partial(_Handler, directory=str(folder)))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise UserError(
                f"port {port}: {error.strerror}", "take another port, or give none: any that is free"
            ) from error

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self.server_address[1]}/"


class _Handler(SimpleHTTPRequestHandler):
    def parse_request(self) -> bool:
        """Refuse who asks by another name: a web site whose name was turned to this address."""
        if not super().parse_request():
            return False
        host = self.headers.get("Host", "").rpartition(":")[0]
        if host in (HOST, "localhost"):
            return True
        self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
        return False

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "no-referrer")
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
