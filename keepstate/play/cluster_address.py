"""Whether a Ray cluster answers at an address, asked before Ray is, which would try for minutes.

    check_address("10.0.0.1:6379")

One question, as Ray's own clients send it to a cluster's head (gRPC: a method's name and an empty message over HTTP/2),
by a plain socket: `keepstate serve` has no Ray in its own environment. Knows of no token and no version; who passes may
still be refused by Ray itself.
"""

from __future__ import annotations

import os
import re
import socket
import time
from contextlib import suppress
from pathlib import Path

from keepstate.errors import UserError

PATIENCE_SECONDS = 10.0
"""For a connection, and for what is answered through it: a head with a thousand nodes is busy at times."""
ALLOWED = "auto on a machine of the cluster, or HOST:PORT of its head (ray start --head --port PORT); see: ray status"
PLACE = re.compile(r"(?P<host>\[[\da-fA-F:.]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")
PROCESSES = Path("/proc")
SETTINGS = b"\x04"
"""The kind of the first frame of every HTTP/2 server, after three bytes of its length."""
VERDICT, UNKNOWN_METHOD = re.compile(rb"grpc-status(?:\x01.|\x02..)", re.DOTALL), b"grpc-status\x0212"
"""How Ray's servers end an answer; and one that does not know the question."""


def check_address(address: str | None) -> None:
    """Refuse an address at which no head of a Ray cluster answers.

    Args:
        address: `HOST:PORT`; `auto`, which Ray itself finds among this machine's processes if one is its own; or None,
            of a cluster that is yet to be started.

    Raises:
        UserError: It is none, nobody answers there, or something else does.
    """
    named, whose = _automatic() if address == "auto" else (address, "")
    if named is None:
        return
    place = PLACE.fullmatch(named)
    if address == "auto" and not named:
        why = "none runs on this machine"
    elif place is None or not 0 < int(place["port"]) < 2**16:
        why = "that is no HOST:PORT"
    else:
        why = _asked(place["host"].strip("[]"), int(place["port"]))
    if why:
        raise UserError(f"no Ray cluster can be joined by --address {address}{whose}: {why}", f"allowed: {ALLOWED}")


def _automatic() -> tuple[str | None, str]:
    """What Ray takes `auto` for, empty if nothing, and what says so, in words; None where that is not known here."""
    named = os.environ.get("RAY_ADDRESS", "")
    if named not in ("", "auto"):
        return named, f" (RAY_ADDRESS: {named})"
    found = of_nodes_here()
    if found is None:
        return None, ""
    if len(found) == 1:
        return found[0], f" (a node on this machine: {found[0]})"
    parent = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    file = Path(parent) / "ray" / "ray_current_cluster"
    try:
        named = file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return (None if found else ""), ""
    return named, f" ({file}: {named})"


def of_nodes_here() -> list[str] | None:
    """Addresses of the clusters whose nodes run on this machine; None where its processes cannot be looked at."""
    if not PROCESSES.joinpath("self/cmdline").exists():  # no Linux
        return None
    found = set[str]()
    for each in PROCESSES.glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            words = each.read_text(errors="replace").split("\0")
            if Path(words[0]).name == "raylet":
                found |= {word.partition("=")[2] for word in words if word.startswith("--gcs-address=")}
    return sorted(found)


def _asked(host: str, port: int) -> str:
    """Why what listens there is no head of a Ray cluster; empty where it is one, or may be."""
    try:
        with socket.create_connection((host, port), PATIENCE_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return ""
            said = _answer(connection)
    except TimeoutError:
        return f"nobody answers there within {PATIENCE_SECONDS:g} s"
    except (OSError, UnicodeError) as error:  # the latter of a name that is none, whatever the network
        return f"nobody answers there ({getattr(error, 'strerror', None) or error})"
    if not said:
        return f"who listens there says nothing within {PATIENCE_SECONDS:g} s"
    if said[3:4] != SETTINGS:
        return "what answers there is no Ray"
    return "what answers there is no head of a cluster, maybe another port of Ray's" if UNKNOWN_METHOD in said else ""


def _answer(connection: socket.socket) -> bytes:
    """What is said to the question whether a head is alive: to its verdict, its end, or that of the patience."""
    said, until = b"", time.monotonic() + PATIENCE_SECONDS
    connection.sendall(_question())
    with suppress(TimeoutError):
        while not VERDICT.search(said) and (left := until - time.monotonic()) > 0:
            connection.settimeout(left)
            if not (more := connection.recv(4096)):
                break
            said += more
    return said


def _question() -> bytes:
    """A call of gRPC in frames of HTTP/2: settings, headers, and a message without a field."""
    method = b"/ray.rpc.NodeInfoGcsService/CheckAlive"
    named = {b":method": b"POST", b":scheme": b"http", b":path": method, b":authority": b"ray"}
    named |= {b"content-type": b"application/grpc", b"te": b"trailers"}
    headers = b"".join(bytes([0, len(name)]) + name + bytes([len(value)]) + value for name, value in named.items())
    frames = [(4, 0, 0, b""), (1, 4, 1, headers), (0, 1, 1, bytes(5))]  # kind, flags, stream, content
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"".join(
        len(content).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + content
        for kind, flags, stream, content in frames
    )
