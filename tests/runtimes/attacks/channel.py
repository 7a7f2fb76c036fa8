"""Attacks on the channel to the host by number, size and slowness, and by what can be done to a socket."""

from __future__ import annotations

from attacks.frames import forge

ATTACKS = (
    forge(
        "two calls at once",
        """
two = [{'step': step(), 'kind': 'call', 'call': number(), 'tool': 'nothing', 'arguments': {}} for _ in '12']
push(*({**one, 'output': ['', 0, '']} for one in two))
while True: pass
""",
    ),
    forge("calls whose answers are never read", "while True: call('echo', {'value': 'x' * 100})", calls=10**6),
    forge("great answers that are never read", "while True: call('repeat', {'count': 500_000})", calls=10**6),
    forge("calls beyond the cap", "for _ in range(10_000): call('nothing')"),
    forge("ends without end", "while True: done()"),
    forge("answers of another size than asked", "while True: os.write(fd, b'\\0\\0\\0\\2{}')"),
    forge(
        "half a frame, then nothing",
        """
os.write(fd, frame({'step': step(), 'kind': 'done'})[:-3])
while True: pass
""",
    ),
    forge(
        "half a length",
        r"""
os.write(fd, b'\0\0')
while True: pass
""",
    ),
    forge(
        "a frame byte by byte",
        """
import time
for byte in frame({'step': step(), 'kind': 'done'}):
    os.write(fd, bytes([byte]))
    time.sleep(0.01)
""",
    ),
    forge(
        "a flood byte by byte",
        """
data = frame({'step': step() - 1, 'kind': 'call'})[:-1] + b' ' * 100
while True:
    for byte in data: os.write(fd, bytes([byte]))
""",
    ),
    forge(
        "the host's answers taken away",
        """
call('nothing')
while True: os.read(fd, 1)
""",
    ),
    forge(
        "a channel that does not wait",
        """
os.set_blocking(fd, False)
while True:
    try:
        call('nothing')
    except BlockingIOError: pass
""",
    ),
    forge(
        "a channel closed for writing",
        """
import socket
s = socket.socket(fileno=fd)
s.shutdown(socket.SHUT_WR)
""",
    ),
    forge(
        "a channel closed for reading",
        """
import socket
s = socket.socket(fileno=fd)
s.shutdown(socket.SHUT_RD)
""",
    ),
    forge(
        "a channel closed and reopened",
        """
import socket
os.close(fd)
os.dup2(socket.socketpair()[0].detach(), fd)
""",
    ),
    forge(
        "descriptors sent to the host",
        """
import array, socket
s = socket.socket(fileno=os.dup(fd))
rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [fd] * 50))]
tried('sendmsg', lambda: s.sendmsg([b'x'], rights))
""",
    ),
    forge(
        "urgent data",
        """
import socket
s = socket.socket(fileno=os.dup(fd))
for _ in range(99):
    try:
        s.send(b'x', socket.MSG_OOB)
    except OSError as error:
        print(error.errno)
""",
    ),
)
