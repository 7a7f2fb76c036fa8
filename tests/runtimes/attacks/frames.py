"""Attacks on the channel to the host: forged, replayed, broken, endless and slow frames.

Model code shares a process with the worker's end of the channel, so it can write any bytes there, with the right step
number as well. It may spoil the text of its own step or lose its interpreter; it can never gain a call, a score, a
"failure of ours" that would spare it a bad grade, or the host's time.
"""

from __future__ import annotations

from attacks import Attack

_CHANNEL = """
import json, sys
def is_open(number):
    try:
        os.get_inheritable(number)
        return True
    except OSError:
        return False
fd = next(filter(is_open, range(3, 64)))
def interpreter(found=sys.stdout._sink.__self__):
    assert type(found).__name__ == "Interpreter"
    return found
def step():
    return interpreter()._step
def number():
    interpreter()._calls += 1
    return interpreter()._calls
def frame(message):
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    return len(data).to_bytes(4, "big") + data
def push(*messages):
    data = memoryview(b"".join(map(frame, messages)))
    while data:
        data = data[os.write(fd, data):]
def done(**changes):
    push({"step": step(), "kind": "done", "globals": [], "output": ["forged", 0, ""], **changes})
def output():
    return {"step": step(), "kind": "output", "output": ["", 0, ""]}
def call(tool="nothing", arguments={}, **changes):
    numbered = {"step": step(), "kind": "call", "call": number(), "tool": tool}
    push({**numbered, "arguments": arguments, "output": ["", 0, ""], **changes})
"""

ENDS = (None, "InterpreterExit", "TimeLimit", "ToolCallLimit", "ToolError", "TypeError", "PermissionError")


def forge(name: str, code: str, ends: tuple[str | None, ...] = ENDS, seconds: float = 0.15, calls: int = 25) -> Attack:
    return Attack(name, _CHANNEL + code, shows="", ends=ends, lost=None, seconds=seconds, calls=calls)


def killed(name: str, code: str, calls: int = 25) -> Attack:
    """What no honest worker could have sent: the interpreter is lost, and that is said."""
    return Attack(
        name,
        f"{_CHANNEL}{code}\nwhile True: pass",
        shows="interpreter",
        ends=("InterpreterExit",),
        lost=True,
        seconds=2,
        calls=calls,
    )


ATTACKS = (
    forge("an end that did not come", "done()"),
    forge(
        "an end and then more",
        """
done()
push(*[{'step': step(), 'kind': 'done'}] * 50)
""",
    ),
    forge(
        "an end that claims the episode is over", "done(finished=True, error_type='EpisodeFinished', tool_calls=[1])"
    ),
    forge(
        "a call after a forged end",
        """
done()
call('finish')
call('echo', {'value': 'late'})
""",
    ),
    killed("a failure that would be ours", "push({'step': step(), 'kind': 'failed', 'reason': 'not graded, please'})"),
    killed("ready again", "push({'step': step(), 'kind': 'ready'})"),
    killed("another step's number", "push({'step': 10**9, 'kind': 'done', 'globals': [], 'output': ['x', 0, '']})"),
    killed("a replayed call of an earlier step", "call('echo', {'value': 'replay'}, step=step() - 1)"),
    killed("the end of an earlier step", "done(step=step() - 1)"),
    killed("a step that is no number", "done(step=str(step()))"),
    killed("a step that is true", "done(step=True)"),
    killed("no step", "push({'kind': 'done', 'globals': [], 'output': ['x', 0, '']})"),
    killed("an unknown kind", "push({'step': step(), 'kind': 'exec', 'code': '1'})"),
    killed("a kind that is a list", "push({'step': step(), 'kind': ['done']})"),
    killed("more keys than belong to an output", "push({**output(), 'x': [1.5] * 1000})"),
    killed("numbers without end", "push({**output(), 'output': ['', 0, [1e1] * 90_000]})"),
    killed("lists without end", "push({**output(), 'output': [[[]] * 120_000, 0, '']})"),
    killed("keys without end", "push({**output(), 'output': {str(n): n for n in range(60_000)}})"),
    forge("arguments without end", "while True: call('echo', {'value': [[0]] * 30_000})", calls=10**6),
    forge("arguments of many texts", "while True: call('echo', {'value': ['x'] * 60_000})", calls=10**6),
    killed("arguments beyond all bounds", "call('echo', {'value': [[]] * 150_000})"),
    killed("random bytes", r"os.write(fd, b'\0\0\0\x20' + os.urandom(32))"),
    killed("no JSON", r"push(b'GET / HTTP/1.1\r\n\r\n')"),
    killed("no object", "push([1, 2])"),
    killed("an empty frame", "os.write(fd, bytes(4))"),
    killed(
        "bytes that are no text",
        r"""
push(b'{"step": "\xff\xfe"}')
""",
    ),
    killed("deeply nested", "push(b'[' * 200_000)"),
    killed(
        "deeply nested arguments",
        """
head = b'{"step": %d, "kind": "call", "call": %d, "tool": "echo", ' % (step(), number())
head += b'"output": ["", 0, ""], "arguments": {"value": '
push(head + b'[' * 90_000 + b']' * 90_000 + b'}}')
""",
    ),
    killed(
        "a number of 100,000 digits",
        """
push(b'{"step": ' + b'9' * 100_000 + b'}')
""",
    ),
    killed(
        "a frame of 4 GB",
        r"""
os.write(fd, b'\xff' * 4)
while True: os.write(fd, bytes(10**5))
""",
    ),
    killed(
        "a frame of 5 MB",
        """
push(b'"' + b'x' * 5_000_000 + b'"')
""",
    ),
    killed("output of another shape", "done(output='forged')"),
    killed("a count that is negative", "done(output=['a', -5, 'b'])"),
    killed("a count that is no number", "done(output=['a', '5', 'b'])"),
    killed("names of another shape", "done(globals={'a': 1})"),
    killed("names that are no strings", "done(globals=[1, None])"),
    killed("an error of another shape", "done(error=['x'], error_type=5)"),
    killed("arguments of another shape", "call('echo', ['value'])"),
    killed("a tool that is no name", "call(['echo'])"),
    killed("a call without a number", "call(call=None)"),
    killed("a call whose number is true", "call(call=True)"),
    killed("a call of a number that was", "call()\ncall(call=interpreter()._calls)"),
    killed("a call beyond all numbers", "call(call=10**30)"),
    forge(
        "an error type of ours",
        "done(error='the host failed', error_type='EpisodeFailure')",
        ends=(*ENDS, "EpisodeFailure"),
    ),
    forge("names without end", "done(globals=['n' * 50 + str(n) for n in range(10_000)])"),
    forge("more output than the limit", "done(output=['x' * 200_000, 0, 'y' * 200_000])"),
    forge("a count beyond all numbers", "done(output=['a', 10**300, 'b'])"),
    forge("an error without end", "done(error='e' * 900_000, error_type='E' * 50_000)", ends=(*ENDS, "E" * 100)),
    forge(
        "hidden attributes as tools",
        """
for name in ('verdict', 'secret', '__init__', 'call', '', 'x' * 10**5):
    call(name)
    os.read(fd, 10**5)
print('no')
""",
    ),
    forge(
        "odd arguments",
        """
for a in ({'self': 1}, {'value': {'__class__': 'x'}}, {'a': 1e400, 'b': float('nan')}, {'': 1}):
    call('add', a)
    os.read(fd, 10**5)
""",
    ),
)
