"""Attacks on the order of tool calls and their answers: every call returns its own answer or raises.

Most need no malice: a time-out by `signal.alarm`, a full heap, deep recursion, a debugger. All use the tools as any
block does; `BREACH` is printed where an answer was another call's.
"""

from __future__ import annotations

from attacks import Attack

_LATER = """
later = [echo(word) for word in ('one', 'two', 'three')]
print('refused' if later == ['one', 'two', 'three'] else 'BREACH', later)
"""


def ordered(name: str, code: str, shows: str = "refused", seconds: float = 10.0) -> Attack:
    return Attack(name, code + _LATER, shows=shows, seconds=seconds, calls=10**6)


_HANDLER = """
import signal
class Late(Exception): pass
def ring(*_): raise Late
signal.signal(signal.SIGALRM, ring)
rang = 0
for attempt in range(150):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0001 + attempt * 0.000005)
        for n in range(60):
            if echo([attempt, n]) != [attempt, n]:
                print('BREACH', attempt, n)
    except Late:
        rang += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
print('rang' if rang > 50 else 'never', rang)
"""

_NESTED = """
import signal
rang = 0
def ring(*_):
    global rang
    rang += 1
    if echo('inner') != 'inner':
        print('BREACH inner')
signal.signal(signal.SIGALRM, ring)
for n in range(1500):
    # once, not in an interval: where a call takes longer than that, handlers nest in handlers until RecursionError
    signal.setitimer(signal.ITIMER_REAL, 0.00005 + n % 40 * 0.00002)
    if echo(n) != n:
        print('BREACH', n)
signal.setitimer(signal.ITIMER_REAL, 0)
print('rang' if rang else 'never', rang)
"""

_FULL = """
import gc
kept = []
for size in (1 << 20, 1 << 16, {least}):
    try:
        while True: kept.append(bytearray(size))
    except MemoryError: pass
full = 0
for n in range(6):
    try: repeat({count} + n)
    except MemoryError: full += 1
del kept
gc.collect()
print('full' if full else 'never', full)
"""

_GREAT = """
full = 0
kept = [bytearray(1 << 20) for _ in range(220)]
try:
    while True: kept.append(bytearray(1 << 18))
except MemoryError: pass
del kept[-12:]
for n in range(20):
    try:
        if len(repeat(900_000 + n)) != 900_000 + n: print('BREACH', n)
        kept.append(bytearray(1 << 18))
    except MemoryError: full += 1
del kept
print('full' if full else 'never', full)
"""

_RECURSION = """
errors = set()
def deeper(n):
    try:
        if echo(n) != n: print('BREACH', n)
    except (RecursionError, TypeError) as error:
        errors.add(type(error).__name__)
    deeper(n + 1)
try: deeper(0)
except RecursionError: print('deep', errors)
"""

_HOOK = """
import sys
stops = 0
class Stop(Exception): pass
def hook(frame, event, argument):
    global countdown
    countdown -= 1
    if not countdown: raise Stop
    return hook
for wait in range(1, 120):
    countdown = wait
    try:
        sys.set{kind}(hook)
        for n in range(3):
            if echo([wait, n]) != [wait, n]: print('BREACH', wait, n)
    except Stop:
        stops += 1
    finally:
        countdown = -1
        sys.set{kind}(None)
print('stopped' if stops > 10 else 'never', stops)
"""

_DESTRUCTOR = """
import gc
class Caller:
    def __init__(self): self.me = self
    def __del__(self):
        try:
            if echo('last words') != 'last words': print('BREACH last words')
        except RuntimeError: pass
gc.set_threshold(3)
for n in range(300):
    for _ in range(3): Caller()
    if echo([n, {'n': [n]}]) != [n, {'n': [n]}]: print('BREACH', n)
gc.set_threshold(700)
gc.collect()
"""

_PROFILE_TIMER = """
import signal
class Late(Exception): pass
def ring(*_): raise Late
for number, timer in ((signal.SIGPROF, signal.ITIMER_PROF), (signal.SIGVTALRM, signal.ITIMER_VIRTUAL)):
    signal.signal(number, ring)
try:
    for timer in (signal.ITIMER_PROF, signal.ITIMER_VIRTUAL): signal.setitimer(timer, 0.002, 0.002)
    while True: echo('x')
except Late: pass
"""

_TOO_DEEP = """
import sys
sys.setrecursionlimit(20_000)
value = []
for _ in range({depth}): value = [value]
try: echo(value)
except TypeError as error: print(error)
else: print('BREACH')
sys.setrecursionlimit(1000)
"""

_TOO_LONG = """
import sys
sys.set_int_max_str_digits(0)
try: add(1, {number})
except TypeError as error: print(error)
else: print('BREACH')
"""

_COLLECTOR = """
import gc
calls = 0
def ring(phase, info):
    global calls
    try:
        if echo(phase) != phase: print('BREACH', phase)
        calls += 1
    except RuntimeError: pass
def endless():
    try:
        while True: yield echo('in')
    finally:
        if echo('closed') != 'closed': print('BREACH closed')
gc.callbacks.append(ring)
gc.set_threshold(5)
kept = []
for n in range(200):
    generator = endless()
    kept.append([n, next(generator)])
    circle = [generator]
    circle.append(circle)
    if echo(n) != n: print('BREACH', n)
gc.set_threshold(700)
gc.callbacks.clear()
print('rang' if calls else 'never', calls)
"""

_EVERYWHERE = """
import asyncio
class Odd:
    made = echo('made')
    asked = property(lambda self: echo('asked'))
    def __lt__(self, other): return echo(True)
    def __eq__(self, other): return echo(True)
    def __hash__(self): return echo(5)
    def __enter__(self): return echo('entered')
    def __exit__(self, *_): return echo(True)
def default(value=echo('default')): return value
with Odd() as entered: raise ValueError
async def one(n):
    await asyncio.sleep(0)
    return echo(n)
async def many(): return await asyncio.gather(*map(one, range(20)))
got = [Odd.made, Odd().asked, Odd() < Odd(), len({Odd(), Odd()}), entered, default(), asyncio.run(many())]
wanted = ['made', 'asked', True, 1, 'entered', 'default', list(range(20))]
print('called' if got == wanted else 'BREACH', got)
"""

_TYPES = """
class Text(str):
    def __len__(self): return 3
    def __hash__(self): raise RuntimeError
    def __eq__(self, other): raise RuntimeError
class Whole(int):
    def __repr__(self): return '[1,2'
class Part(float):
    def __repr__(self): return 'NaN'
class Rows(list):
    def __iter__(self): raise RuntimeError
keyed = {1: 2, None: 3, True: 4}
for value, plain in ((Text('x'), 'x'), (Whole(5), 5), (Part(1.5), 1.5), (Rows([1]), [1]), (keyed, None)):
    try: got = echo(value)
    except (TypeError, RuntimeError) as error: got = plain; print('refused', type(error).__name__)
    if plain is not None and (got != plain or type(got) is not type(plain)): print('BREACH', got)
for value in (2**53 + 1, -0.0, 1e308, 5e-324, 10**400, -(2**63) - 1):
    if repr(echo(value)) != repr(value): print('BREACH', value)
for value in (float('nan'), [float('-inf')], {1}, b'x', range(9), 1j, ..., echo, {'x': echo}, {(1,): 2}, object):
    try: print('BREACH', echo(value))
    except (TypeError, ValueError): print('told')
"""

ATTACKS = (
    ordered("a handler that raises", _HANDLER, shows="rang"),
    ordered("calls from a handler", _NESTED, shows="rang"),
    ordered("a full heap", _FULL.format(least=4096, count=100_000), shows="full"),
    ordered("a heap full of crumbs", _FULL.format(least=512, count=2_000), shows="full"),
    ordered("answers for which there is no room", _GREAT, shows="full"),
    ordered("the limit of recursion", _RECURSION, shows="deep"),
    ordered("a tracer that raises", _HOOK.replace("{kind}", "trace"), shows="stopped"),
    ordered("a profiler that raises", _HOOK.replace("{kind}", "profile"), shows="stopped"),
    ordered("calls from destructors", _DESTRUCTOR),
    ordered("calls from the collector and from generators that it closes", _COLLECTOR, shows="rang"),
    ordered("calls from everywhere", _EVERYWHERE, shows="called"),
    ordered("arguments of odd types", _TYPES, shows="told"),
    Attack("timers that are left running", _PROFILE_TIMER, shows="", calls=10**6, ends=(None, "Late")),
    ordered("arguments nested beyond the host's depth", _TOO_DEEP.format(depth=3000), shows="nested|JSON"),
    ordered("arguments nested a little too deeply", _TOO_DEEP.format(depth=100), shows="nested"),
    ordered("an integer beyond the host's digits", _TOO_LONG.format(number="10**5000"), shows="bits"),
    ordered("a negative integer without end", _TOO_LONG.format(number="[-(10**60_000)]"), shows="bits"),
)
