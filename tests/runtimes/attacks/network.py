"""Attacks through sockets and other ways to talk to someone outside."""

from __future__ import annotations

from attacks import Attack

_CONNECT = """
import socket
tried("tcp", lambda: socket.create_connection(("127.0.0.1", HOST["tcp"]), 1))
tried("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", HOST["udp"])))
tried("tcp6", lambda: socket.socket(socket.AF_INET6).connect(("::1", HOST["tcp"])))
"""

_PAIR = """
import socket
try:
    one, two = socket.socketpair()
except OSError as error:
    print("refused pair", error.errno)
    raise SystemExit
tried("connect a pair", lambda: one.connect("\\0" + HOST["abstract"]))
dgram = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0]
tried("send to a name", lambda: dgram.sendto(b"BREACH", "\\0" + HOST["abstract_dgram"]))
tried("sendmsg to a name", lambda: dgram.sendmsg([b"BREACH"], [], 0, "\\0" + HOST["abstract_dgram"]))
tried("bind", lambda: dgram.bind("\\0mine"))
tried("inet pair", lambda: socket.socketpair(socket.AF_INET))
"""

ATTACKS = (
    Attack("connect to the host", _CONNECT),
    Attack(
        "connect over ctypes",
        """
denied('socket', 2, 1, 0)
denied('socket', 1, 1, 0)
denied('connect', 3, 0, 0)
""",
    ),
    Attack(
        "listen",
        """
import socket
tried('listen', lambda: socket.create_server(('127.0.0.1', 0)))
denied('bind', 3, 0, 0)
denied('listen', 3, 1)
denied('accept', 3, 0, 0)
denied('accept4', 3, 0, 0, 0)
""",
    ),
    Attack(
        "unix sockets",
        r"""
import socket
tried('abstract', lambda: socket.socket(socket.AF_UNIX).connect('\0' + HOST['abstract']))
tried('path', lambda: socket.socket(socket.AF_UNIX).connect('/run/docker.sock'))
""",
    ),
    Attack("a socket pair that leads elsewhere", _PAIR),
    Attack(
        "netlink and packets",
        """
import socket
tried('netlink', lambda: socket.socket(16, 3, 0))
tried('packet', lambda: socket.socket(17, 3, 0))
tried('raw', lambda: socket.socket(2, 3, 1))
tried('vsock', lambda: socket.socket(40, 1, 0))
tried('alg', lambda: socket.socket(38, 5, 0))
tried('interfaces', lambda: socket.if_nameindex() if socket.if_nameindex() != [(1, 'lo')] else 1 / 0)
""",
    ),
    Attack(
        "names",
        """
import socket
tried('dns', lambda: socket.getaddrinfo('localhost', 80))
tried('dns', lambda: socket.gethostbyname('example.org'))
""",
        seconds=8,
    ),
    Attack(
        "http",
        """
url = f"http://127.0.0.1:{HOST['tcp']}/"
tried('http', lambda: __import__('urllib.request').request.urlopen(url, timeout=1))
""",
    ),
    Attack(
        "shared memory segments",
        """
denied('shmget', 0x4b53, 4096, 0o1666)
denied('msgget', 0x4b53, 0o1666)
denied('semget', 0x4b53, 1, 0o1666)
denied('mq_open', b'/x', 66, 0o666, 0)
""",
    ),
    Attack(
        "named shared memory",
        """
import importlib
shared = lambda: importlib.import_module('multiprocessing.shared_memory')
tried('shm', lambda: shared().SharedMemory('ks', create=True, size=4096))
""",
    ),
)
