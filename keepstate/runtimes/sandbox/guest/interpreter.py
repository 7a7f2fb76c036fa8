"""The interpreter of one worker: runs blocks of model code one after the other in one `__main__`.

Model code is run by the outermost frame of the process, in the loop of `BOOT`; what is here is a generator that gives
it one `Action` after the other and is not on the stack meanwhile. So an agent that prints its stack sees its own
frames, and they are the same whatever is changed here.

Everything here shares a process with hostile code and is trusted by nobody: the host checks every frame, keeps the
record of tool calls and decides what counts. What is defended here is that honest mistakes (patched builtins, closed
streams, a full heap, `sys.exit()`) do not break the next block.
"""

from __future__ import annotations
import __future__

import builtins
import importlib
import sys
import warnings
from _signal import (  # type: ignore[import-not-found]  # `signal` without its enums: 6 of 40 us a block
    ITIMER_PROF,
    ITIMER_REAL,
    ITIMER_VIRTUAL,
    SIGUSR1,
    getitimer,
    set_wakeup_fd,
    setitimer,
    signal,
    sigtimedwait,
)
from ast import Assign, Expr, Module, Name, PyCF_ONLY_AST, Store, copy_location
from collections.abc import Callable, Iterator
from contextlib import suppress
from gc import callbacks, set_debug
from io import StringIO
from operator import is_
from os import _exit
from socket import socketpair
from sys import _getframe, modules
from time import monotonic
from types import CodeType, CoroutineType, FrameType, ModuleType
from typing import Any

from . import wire
from .actions import Action, Doing, stop_monitoring
from .library import OURS
from .output import Capture, CutText
from .tools import Reserve, TimeLimit, ToolCallLimit, ToolError, encode_call, make_tools
from .tracebacks import format_error

globals()["__builtins__"] = dict(vars(builtins))  # functions below keep working when model code patches `builtins`
# For the same reason what they use of other modules is imported by name.

SOFT_LIMIT_SIGNAL = SIGUSR1
"""Sent by the host when the time of a block is used up."""
MAX_ERROR_CHARS = 20_000
MAX_NAMES = 200
LAST_VALUE = "<last value>"
"""A name that no code can use."""
NOT_SET = 0.0, 0.0
MAX_NAME_CHARS = 100
OUTPUT_SECONDS = 0.1
"""At most so often lines are sent before a block ends; the first one at once."""
REHEARSED = "import json\ndef f(n):\n    return {str(n): [n + 1.5]}\nx = [f(i) for i in range(3)]\nprint(x)\nNone"
"""A block that does a little of everything."""
REHEARSALS = 10
"""More than the 8 calls after which Python 3.11 specialises a function."""
FUTURES = sum(
    getattr(__future__, name).compiler_flag for name in __future__.all_feature_names if name != "nested_scopes"
)
"""Flags of `from __future__ import ...`; nested_scopes has that of something else."""


def _leave(code: object = None) -> None:
    raise SystemExit(code)


def _help(*arguments: object) -> None:
    importlib.import_module("pydoc").help(*arguments)


class Interpreter:
    """Serves one connection to the host. Made and rehearsed in the zygote, connected and used in a worker."""

    def __init__(self) -> None:
        self._channel: wire.Channel
        self._step = 0
        self._calls = 0
        self._block = 0
        self._limit_message = ""
        self._last_line = 1
        self._futures = 0
        self._described: list[dict[str, Any]] = []
        self._tools: dict[str, Any] = {}
        self._sources: dict[str, list[str]] = {}
        self._output = CutText(0)
        self._action = Action(print, ())
        self._next_output = 0.0
        self._main = ModuleType("__main__")
        self._space = vars(self._main)  # once: a class that code gives its module may answer otherwise
        self._space["__builtins__"] = builtins
        modules["__main__"] = self._main
        for name in [name for name in modules if name.partition(".")[0] == "guest"]:
            del modules[name]
        vars(builtins).update(exit=_leave, quit=_leave, help=_help, ToolError=ToolError)
        self._builtins = tuple(vars(builtins).items())
        self._builtin_values = tuple(vars(builtins).values())
        self._reserve = Reserve()
        warnings._warn_unawaited_coroutine = self._warn_unawaited  # type: ignore[attr-defined]
        signal(SOFT_LIMIT_SIGNAL, self._on_soft_limit)  # its time may be up before a starved block has begun

    def connect(self, descriptor: int) -> None:
        """Speak to the host over our end of a connection."""
        self._channel = wire.Channel(descriptor)

    def report_failure(self, reason: str) -> None:
        """Tell the host that this worker could not be confined."""
        self._channel.send(wire.encode({"kind": "failed", "reason": reason}))

    def serve(self) -> Iterator[Action]:
        """Run blocks until the host closes the connection, then end the process."""
        try:
            self._send({"kind": "ready"})
            while request := self._request():
                yield from self._serve(request)
        finally:
            _exit(0)

    def _serve(self, request: dict[str, Any]) -> Doing:
        if "tools" in request:
            self._described = request["tools"]
            self._tools = make_tools(self._described, self._call)
        self._step = request["step"]
        self._limit_message = request["time_message"]
        self._output = CutText(request["output_chars"])
        result = yield from self._run(request["code"], variables_only=request["variables_only"])
        try:
            self._send({"kind": "done", **result, "output": self._output.take()})
        except MemoryError:  # caught by the block, which kept the full heap
            self._reserve.release()
            self._send({"kind": "done", **result, "output": self._output.take()})

    def _request(self) -> dict[str, Any] | None:
        """The next block, or None where there will be no more; answers to calls that were given up are dropped."""
        while True:
            try:
                message = self._channel.receive()
            except EOFError:
                return None
            except MemoryError:  # the last block left the heap full
                if not self._reserve.release():
                    raise
            else:
                if "code" in message:
                    return message

    def rehearse(self) -> None:
        """Serve blocks of ours, in the zygote: what Python makes of code when it first runs, all workers then share.

        Each would make it for itself, on pages that have to be copied for it: 780 pages a worker without, 420 with.
        """
        ours, theirs = socketpair()
        self.connect(theirs.detach())
        names = dict(self._space)
        tool = {"name": "f", "parameters": ["x"], "defaults": {"x": 1}, "doc": ""}
        request = {"step": 0, "code": REHEARSED, "output_chars": 100, "time_message": "", "tools": [tool]}
        request["variables_only"] = False
        with ours:
            for _ in range(REHEARSALS):
                ours.sendall(wire.encode(request))
                for action in self._serve(self._request() or request):
                    action.value = action.function(*action.arguments)
                ours.recv(wire.PIECE)
        self._space.clear()
        self._space.update(names)
        self._sources.clear()
        self._tools = {}
        self._block = 0
        del self._channel

    def _send(self, message: dict[str, Any]) -> None:
        self._channel.send(wire.encode({"step": self._step, **message}))

    def _run(self, code: str, *, variables_only: bool = False) -> Doing:
        self._prepare()
        error = yield from self._outcome(code)
        self._restore()
        if variables_only:
            self._restore_names()
            self._futures = 0
            yield from self._drop_all_but_variables()
            self._restore()
        if error is None:
            return {"globals": self._names()}
        return {"error_type": error[0], "error": _cut(error[1]), "globals": self._names()}

    def _do(self, function: Callable[..., Any], *arguments: Any) -> Doing:
        """Let the outermost frame call `function`; returns the action. The time limit strikes in there alone."""
        action = self._action = Action(function, arguments)
        yield action
        action.is_running = False
        action.arguments = ()  # the action itself lives on until the next
        return action

    def _prepare(self) -> None:
        """What every block finds, whatever the last one did."""
        if self._block:
            self._restore_names()
        self._next_output = 0.0
        self._block += 1
        sys.stdout = Capture(self._write, "<stdout>")
        sys.stderr = Capture(self._write, "<stderr>")
        sys.stdin = StringIO()
        self._space.update(self._tools)
        self._space.update(__name__="__main__", __builtins__=builtins)
        self._space.pop("__warningregistry__", None)  # by line number alone: line 3 of another block is another line
        signal(SOFT_LIMIT_SIGNAL, self._on_soft_limit)

    def _restore(self) -> None:
        """Take away what would run in our own code, speak in the next block's output, or break it."""
        callbacks.clear()
        set_debug(0)
        set_wakeup_fd(-1)
        stop_monitoring()
        for timer in (ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF):
            if getitimer(timer) != NOT_SET:  # setting it takes four times as long
                setitimer(timer, 0)
        while sigtimedwait(wire.SIGNALS, 0) is not None:  # signals are blocked: none that came waits for a block
            pass
        with suppress(MemoryError):
            self._reserve.hold()

    def _restore_names(self) -> None:
        """Put back built-in names and our module: before the next block, as in `forget` there is none.

        To look at them touches them all, and costs a worker 25 pages that have to be copied for it.
        """
        now = vars(builtins)
        if len(now) != len(self._builtins) or not all(map(is_, now.values(), self._builtin_values)):
            now.clear()
            now.update(self._builtins)
        modules["__main__"] = self._main

    def _outcome(self, code: str) -> Doing:
        """Run a block; class and text of its error, or None."""
        done = yield from self._execute(code)
        error = done.error
        if error is None:
            return None
        told = yield from self._do(self._describe, error)
        if told.error is None:
            return told.value
        name = type(told.error).__name__  # the time limit, or what the agent's own `__str__` does
        return name, f"{name}: {self._limit_message}" if issubclass(type(told.error), TimeLimit) else name

    def _execute(self, code: str) -> Doing:
        """Run a block as a REPL does: the value of an expression at its end is shown. Returns the last action.

        What runs the agent's code is a function in C: no frame of ours is on the stack, nor seen by its own tracer.
        """
        done = yield from self._do(self._compile, code)
        if done.error is None:
            done = yield from self._do(eval, done.value, self._space)
        value = self._space.pop(LAST_VALUE, None)
        self._reserve.release_if_full()  # the block may have left the heap full, whether it says so or not
        if done.error is None and value is not None:
            done = yield from self._do("{!r}\n".format, value)
            if done.error is None:
                done = yield from self._do(self._write, done.value)
        return done

    def _compile(self, code: str) -> CodeType:
        """A block, which keeps the value of an expression at its end.

        What it imports from `__future__` holds for the blocks after it too, as in a REPL.
        """
        filename = f"<block {self._block}>"
        self._last_line = 1
        self._sources[filename] = code.split("\n")
        try:
            tree = compile(code, filename, "exec", PyCF_ONLY_AST | self._futures, dont_inherit=True)
            assert isinstance(tree, Module)
            if tree.body and isinstance(last := tree.body[-1], Expr):
                self._last_line = last.lineno
                name = copy_location(Name(LAST_VALUE, Store()), last)
                tree.body[-1] = copy_location(Assign([name], last.value), last)
            body: CodeType = compile(tree, filename, "exec", self._futures, dont_inherit=True)
            self._futures |= body.co_flags & FUTURES
            return body
        except SyntaxError as error:
            if "outside" in str(error.msg) and ("await" in error.msg or "async" in error.msg):
                error.msg += "; put it into an async function and run that by asyncio.run(...)"
            raise

    def _describe(self, error: BaseException) -> tuple[str, str]:
        """Class and text of an error."""
        if issubclass(type(error), SystemExit):
            code = getattr(error, "code", None)
            status = "" if code is None else str(code)
            return "SystemExit", f"SystemExit: {status or 'exit'} (only this block ended, the interpreter goes on)"
        return str(type(error).__name__), format_error(error, self._sources)

    def _warn_unawaited(self, coroutine: CoroutineType[Any, Any, Any]) -> None:
        """Stands for the function of `warnings`, which would name the place of ours at which a last value ends."""
        name = coroutine.__qualname__
        text = f"coroutine {name!r} was never awaited: run it by asyncio.run({name}(...)), in async code await it"
        if _getframe(1).f_code.co_filename == OURS:
            warnings.warn_explicit(text, RuntimeWarning, f"<block {self._block}>", self._last_line)
        else:
            warnings.warn(text, RuntimeWarning, 2)

    def _write(self, text: str) -> None:
        """Keep what is printed, and now and then tell the host, which has it should we be killed."""
        self._output.add(text)
        if text[-1:] == "\n" and (now := monotonic()) >= self._next_output and not self._channel.busy:
            self._next_output = now + OUTPUT_SECONDS
            self._channel.quietly(self._send_output)

    def _send_output(self) -> None:
        self._send({"kind": "output", "output": self._output.take()})

    def _call(self, tool: str, arguments: dict[str, Any]) -> tuple[Any, BaseException | None]:
        """Ask the host to run a tool. Time limit and signals wait until its answer is read."""
        try:
            answer = self._channel.quietly(self._exchange, tool, arguments)
        except (TypeError, ValueError) as error:
            return None, error.with_traceback(None)
        if "value" in answer:
            return answer["value"], None
        if "error" in answer:
            return None, ToolError(answer["error"])
        return None, ToolCallLimit(answer["limit"])

    def _exchange(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Send the question, which has a number, and wait for the answer that bears it."""
        self._reserve.hold()
        output = self._output.take()
        number = self._calls + 1
        question = {"step": self._step, "kind": "call", "call": number, "tool": tool, "output": output}
        try:
            self._channel.send(encode_call(question, arguments))
            self._calls = number
            return self._channel.answer(number)
        except BaseException as error:
            if isinstance(error, MemoryError):
                self._reserve.release()
            if self._calls != number:  # it was not sent
                self._output.put(*output)
            raise

    def _drop_all_but_variables(self) -> Doing:
        """Take away names of modules and of what can be called, all before any of them is destroyed.

        Where that fails twice (a full heap, names that raise), the interpreter ends: it keeps too much or nothing.
        """
        for _ in range(2):  # the time limit strikes once
            done = yield from self._do(self._take_names)
            if done.error is None:
                yield from self._do(done.value.clear)  # destructors run here
                return
            self._reserve.release()
        _exit(0)

    def _take_names(self) -> list[Any]:
        """What they held, and the tools, on which code may have hung anything: new ones take their place.

        A key of a class made from `str` is a name as any other.
        """
        space, hung = self._space, [*self._tools.values()]
        self._tools = make_tools(self._described, self._call)
        names = [name for name, value in list(space.items()) if callable(value) or issubclass(type(value), ModuleType)]
        return hung + [space.pop(name) for name in names if not (type(name) is str and name == "__builtins__")]

    def _on_soft_limit(self, _number: int, _frame: FrameType | None) -> None:
        if self._action.is_running:
            raise TimeLimit(self._limit_message)

    def _names(self) -> list[str]:
        """What the agent defined: not our tools, nothing that begins with an underscore."""
        names = []
        for name in list(self._space):
            if type(name) is str and name[:1] != "_" and name not in self._tools:
                names.append(name[:MAX_NAME_CHARS])
        return sorted(names)[:MAX_NAMES]


def _cut(text: str) -> str:
    cut = CutText(MAX_ERROR_CHARS)
    cut.add(text)
    return cut.render()
