"""Attacks on the time limit: what never stops, what swallows the signal, what acts when the step is over."""

from __future__ import annotations

from attacks import Attack

SHORT = 0.15
TIME = ("TimeLimit",)


def _loop(name: str, code: str, lost: bool | None = None, shows: str = "ran longer") -> Attack:
    return Attack(name, code, shows=shows, ends=TIME, lost=lost, seconds=SHORT)


_STORM = """
import signal
count = 0
def handler(*_):
    global count
    count += 1
    if count % 7 == 0:
        raise KeyError("from a signal")
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
while True:
    try:
        while True: pass
    except KeyError:
        pass
"""

_LATE = """
import signal
def handler(*_):
    print("late")
    echo("late")
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
print("refused")
"""

_IGNORES = """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True: pass
"""

_NAMES = """
class Slow(str):
    def __lt__(self, other):
        while True: pass
    __gt__ = __lt__
    def __hash__(self):
        return 1
    def __eq__(self, other):
        while True: pass
    def startswith(self, *_):
        while True: pass
dict.__setitem__(globals(), Slow("one"), 1)
"""

_SHOWN = """
class Slow:
    def __repr__(self):
        while True: pass
Slow()
"""

_TOLD = """
class Slow(Exception):
    def __str__(self):
        while True: pass
raise Slow()
"""

ATTACKS = (
    _loop("loop", "while True: pass"),
    _loop(
        "sleep",
        """
import time
time.sleep(10**6)
""",
    ),
    _loop(
        "regular expression",
        """
import re
re.match('(a+)+$', 'a' * 40 + 'b')
""",
    ),
    _loop("loop in C", "sum(range(10**13))"),
    _loop(
        "swallows everything",
        """
while True:
    try:
        while True: pass
    except BaseException: pass
""",
    ),
    _loop(
        "hides in finally",
        """
try:
    while True: pass
finally:
    while True: pass
""",
    ),
    _loop("ignores and blocks signals", _IGNORES),
    Attack(
        "storm of signals",
        _STORM,
        shows="ran longer|KeyError",
        ends=("TimeLimit", "KeyError"),
        lost=None,
        seconds=SHORT,
    ),
    _loop(
        "stops itself",
        """
import signal
os.kill(os.getpid(), signal.SIGSTOP)
while True: pass
""",
    ),
    _loop(
        "waits for a signal",
        """
import signal
while True:
    try:
        signal.pause()
    except BaseException: pass
""",
    ),
    _loop(
        "waits for a lock",
        """
import threading
lock = threading.Lock()
lock.acquire()
lock.acquire()
""",
    ),
    _loop(
        "waits for a descriptor",
        """
import select
while True: select.select([], [], [], 1000)
""",
    ),
    _loop(
        "tracing",
        """
import sys
def trace(*_):
    while True: pass
sys.settrace(trace)
def f(): pass
f()
""",
    ),
    _loop(
        "profiling",
        """
import sys
def trace(*_):
    while True: pass
sys.setprofile(trace)
len([])
""",
    ),
    Attack("a name that compares for ever", _NAMES, shows="", ends=(None, "TimeLimit"), lost=None, seconds=SHORT),
    _loop("a value that is shown for ever", _SHOWN),
    _loop("an error that is told for ever", _TOLD),
    _loop(
        "clocks that stand still",
        """
import time
time.monotonic = time.perf_counter = time.time = lambda: 0
while True: pass
""",
    ),
    Attack(
        "collected for ever",
        """
class Slow:
    def __del__(self):
        while True: pass
x = Slow()
del x
""",
        shows="",
        ends=(None, "TimeLimit"),
        lost=None,
        seconds=SHORT,
    ),
    Attack(
        "garbage collector that never returns",
        """
import gc
def callback(*_):
    while True: pass
gc.callbacks.append(callback)
x = [[] for _ in range(9999)]
""",
        shows="",
        ends=(None, "TimeLimit"),
        lost=None,
        seconds=SHORT,
    ),
    Attack(
        "exit handlers",
        """
import atexit
atexit.register(lambda: [0 for _ in iter(int, 1)])
raise SystemExit
""",
        shows="exit",
        ends=("SystemExit",),
        seconds=SHORT,
    ),
    Attack(
        "a signal that comes after the step",
        _LATE,
        ends=(None, "InterpreterExit"),
        lost=None,
        shows="refused|interpreter",
    ),
    _loop("gives way all the time", "while True: os.sched_yield()"),
    _loop("sleeps in slices", "import time\nwhile True: time.sleep(0.0005)"),
    Attack(
        "raises the signal of the limit itself",
        """
import signal
for number in (10, 12, 14, 24, 26, 27):
    try:
        os.kill(os.getpid(), number)
    except BaseException as error:
        print('caught', type(error).__name__)
print('refused')
""",
        ends=(None, "TimeLimit", "InterpreterExit"),
        shows="refused|ran longer|interpreter",
        lost=None,
    ),
    Attack(
        "calls a tool without end",
        "while True: nothing()",
        shows="ran longer",
        ends=TIME,
        calls=10**6,
        lost=None,
        seconds=SHORT,
    ),
)
