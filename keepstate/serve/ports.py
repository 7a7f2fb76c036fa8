"""The server's place on this machine: 127.0.0.1 and a port that nobody else holds."""

from __future__ import annotations

import socket

from keepstate.errors import UserError

HOST = "127.0.0.1"


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a server could listen on `port`, as vLLM would ask for it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()
        except OSError:
            return False
    return True


def check_port(port: int) -> None:
    """Refuse a port that is taken, and say by whom as far as it tells.

    Raises:
        UserError: Something listens there.
    """
    if is_free(port):
        return
    names = served_names(port)
    who = f"a server of {', '.join(names)}" if names else "another program"
    raise UserError(
        f"port {port} of {HOST} is in use by {who}", f"use or stop that one, or choose another: --port {port + 1}"
    )


def served_names(port: int) -> list[str]:
    """The models of an OpenAI-compatible server on `port`; empty where there is none."""
    from keepstate.models.endpoint import ServerFault, served_models  # its client: only where a port is taken

    try:
        return list(served_models(f"http://{HOST}:{port}/v1", seconds=2.0))
    except (ServerFault, UserError):
        return []
