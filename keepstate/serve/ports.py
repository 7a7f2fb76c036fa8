"""The server's place on this machine: an address, 127.0.0.1 unless asked, and a port that nobody else holds."""

from __future__ import annotations

import errno
import ipaddress
import socket

from keepstate.errors import UserError

HOST = "127.0.0.1"


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def own_url(host: str, port: int) -> str:
    """The base URL under which this machine reaches a server that listens on `host`."""
    reached = {"0.0.0.0": HOST, "::": "::1"}.get(host, host)
    return f"http://{f'[{reached}]' if ':' in reached else reached}:{port}/v1"


def is_free(port: int, host: str = HOST) -> bool:
    """Whether a server could listen on `port`, as vLLM would ask for it.

    Raises:
        UserError: Nothing can listen on `host`, whatever the port.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except (OSError, TypeError, ValueError) as error:  # the latter two: the name is none, whatever the network
            reason = error.strerror if isinstance(error, OSError) else "it is no name of a machine"
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                return False
            raise UserError(
                f"no server can listen on {host}, port {port}: {reason}",
                "name an address of this machine (--host 0.0.0.0 is all of them) and a port from 1024 on (--port)",
            ) from error
    return True


def check_port(port: int, host: str = HOST) -> None:
    """Refuse a port that is taken, and say by whom as far as it tells.

    Raises:
        UserError: Something listens there, or nothing can listen on `host`.
    """
    if is_free(port, host):
        return
    names = served_names(port)
    who = f"a server of {', '.join(names)}" if names else "another program"
    raise UserError(
        f"port {port} of {host} is in use by {who}", f"use or stop that one, or choose another: --port {port + 1}"
    )


def served_names(port: int) -> list[str]:
    """The models of an OpenAI-compatible server on `port`; empty where there is none."""
    from keepstate.models.endpoint import ServerFault, served_models  # its client: only where a port is taken

    try:
        return list(served_models(f"http://{HOST}:{port}/v1", seconds=2.0))
    except (ServerFault, UserError):
        return []
