"""The interpreter of one worker: runs blocks of model code one after the other in one `__main__`.

Everything here shares a process with hostile code and is trusted by nobody: the host checks every frame, keeps the
record of tool calls and decides what counts. What is defended here is that honest mistakes (patched builtins, closed
streams, a full heap, `sys.exit()`) do not break the next block.
"""

from __future__ import annotations

import builtins
import importlib
import sys
from _signal import (  # type: ignore[import-not-found]  # `signal` without its enums: 6 of 40 us a block
    ITIMER_PROF,
    ITIMER_REAL,
    ITIMER_VIRTUAL,
    SIG_BLOCK,
    SIG_SETMASK,
    SIGUSR1,
    pthread_sigmask,
    setitimer,
    signal,
    sigtimedwait,
)
from ast import Expr, Expression, Module, PyCF_ONLY_AST
from contextlib import suppress
from gc import callbacks
from io import StringIO
from operator import is_
from sys import modules, setprofile, settrace
from time import monotonic
from types import FrameType, ModuleType
from typing import Any

from . import wire
from .output import Capture, CutText
from .tools import EpisodeFinished, Reserve, TimeLimit, ToolCallLimit, ToolError, encode_call, make_tools
from .tracebacks import format_error

globals()["__builtins__"] = dict(vars(builtins))  # functions below keep working when model code patches `builtins`
# For the same reason what they use of other modules is imported by name.

SOFT_LIMIT_SIGNAL = SIGUSR1
"""Sent by the host when the time of a block is used up."""
MAX_ERROR_CHARS = 20_000
MAX_NAMES = 200
MAX_NAME_CHARS = 100
OUTPUT_SECONDS = 0.1
"""At most so often lines are sent before a block ends; the first one at once."""
WARM_UP = "import json\ndef f(n):\n    return {str(n): [n + 1.5]}\nx = [f(i) for i in range(3)]\nNone"
"""A block that does a little of everything and prints nothing."""


def _leave(code: object = None) -> None:
    raise SystemExit(code)


def _help(*arguments: object) -> None:
    importlib.import_module("pydoc").help(*arguments)


class Interpreter:
    """Serves one connection to the host.

    Args:
        descriptor: Our end of it.
    """

    def __init__(self, descriptor: int) -> None:
        self._channel = wire.Channel(descriptor)
        self._step = 0
        self._calls = 0
        self._block = 0
        self._limit_message = ""
        self._tools: dict[str, Any] = {}
        self._sources: dict[str, list[str]] = {}
        self._output = CutText(0)
        self._running = False
        self._next_output = 0.0
        self._main = ModuleType("__main__")
        vars(self._main)["__builtins__"] = builtins
        modules["__main__"] = self._main
        for name in [name for name in modules if name.partition(".")[0] == "guest"]:
            del modules[name]
        vars(builtins).update(exit=_leave, quit=_leave, help=_help, ToolError=ToolError)
        self._builtins = tuple(vars(builtins).items())
        self._builtin_values = tuple(vars(builtins).values())
        self._reserve = Reserve()
        signal(SOFT_LIMIT_SIGNAL, self._on_soft_limit)  # its time may be up before a starved block has begun

    def report_failure(self, reason: str) -> None:
        """Tell the host that this worker could not be confined."""
        self._channel.send(wire.encode({"kind": "failed", "reason": reason}))

    def serve(self) -> None:
        """Run blocks until the host closes the connection."""
        self._warm_up()
        self._send({"kind": "ready"})
        while request := self._request():
            if "tools" in request:
                self._tools = make_tools(request["tools"], self._call)
            self._step = request["step"]
            self._limit_message = request["time_message"]
            self._output = CutText(request["output_chars"])
            result = self._run(request["code"])
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

    def _warm_up(self) -> None:
        """Touch the memory that every block touches: copying these pages takes longer than a short block itself."""
        names = dict(vars(self._main))
        self._run(WARM_UP)
        self._output.add("1\n")
        wire.encode({"output": self._output.take()})
        vars(self._main).clear()
        vars(self._main).update(names)
        self._sources.clear()
        self._block = 0

    def _send(self, message: dict[str, Any]) -> None:
        self._channel.send(wire.encode({"step": self._step, **message}))

    def _run(self, code: str) -> dict[str, Any]:
        self._prepare()
        error: tuple[str, str] | None = None
        try:
            try:
                pthread_sigmask(SIG_SETMASK, ())
                self._running = True
                error = self._outcome(code)
            finally:
                self._running = False
                pthread_sigmask(SIG_BLOCK, wire.SIGNALS)  # between blocks no handler of model code runs
        except BaseException as raised:  # the time limit, while an error was being described
            self._running = False
            said = f": {self._limit_message}" if isinstance(raised, TimeLimit) else ""
            error = type(raised).__name__, f"{type(raised).__name__}{said}"
        self._restore()
        if error is None:
            return {"globals": self._names()}
        return {"error_type": error[0], "error": _cut(error[1]), "globals": self._names()}

    def _prepare(self) -> None:
        """What every block finds, whatever the last one did."""
        self._next_output = 0.0
        self._block += 1
        sys.stdout = Capture(self._write, "<stdout>")
        sys.stderr = Capture(self._write, "<stderr>")
        sys.stdin = StringIO()
        vars(self._main).update(self._tools)
        vars(self._main).update(__name__="__main__", __builtins__=builtins)
        signal(SOFT_LIMIT_SIGNAL, self._on_soft_limit)

    def _restore(self) -> None:
        """Take away what would run in our own code, or break the next block."""
        settrace(None)
        setprofile(None)
        callbacks.clear()
        for timer in (ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF):
            setitimer(timer, 0)
        while sigtimedwait(wire.SIGNALS, 0) is not None:  # signals are blocked: none that came waits for a block
            pass
        now = vars(builtins)
        if len(now) != len(self._builtins) or not all(map(is_, now.values(), self._builtin_values)):
            now.clear()
            now.update(self._builtins)
        modules["__main__"] = self._main
        with suppress(MemoryError):
            self._reserve.hold()

    def _outcome(self, code: str) -> tuple[str, str] | None:
        """Run a block; class and text of its error, or None."""
        try:
            self._execute(code)
        except EpisodeFinished:
            return None
        except SystemExit as leaving:
            status = "" if leaving.code is None else str(leaving.code)
            return "SystemExit", f"SystemExit: {status or 'exit'} (only this block ended, the interpreter goes on)"
        except BaseException as error:
            if isinstance(error, MemoryError):
                self._reserve.release()
            return str(type(error).__name__), format_error(error, self._sources)
        return None

    def _execute(self, code: str) -> None:
        """Run a block as a REPL does: the value of an expression at its end is shown."""
        filename = f"<block {self._block}>"
        self._sources[filename] = code.split("\n")
        tree = compile(code, filename, "exec", PyCF_ONLY_AST, dont_inherit=True)
        assert isinstance(tree, Module)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], Expr) else None
        space = vars(self._main)
        exec(compile(tree, filename, "exec", dont_inherit=True), space)
        if isinstance(last, Expr):
            value = eval(compile(Expression(last.value), filename, "eval", dont_inherit=True), space)
            if value is not None:
                self._write(repr(value) + "\n")

    def _write(self, text: str) -> None:
        """Keep what is printed, and now and then tell the host, which has it should we be killed."""
        self._output.add(text)
        if text[-1:] == "\n" and (now := monotonic()) >= self._next_output and not self._channel.busy:
            self._next_output = now + OUTPUT_SECONDS
            self._channel.quietly(self._send_output)

    def _send_output(self) -> None:
        self._send({"kind": "output", "output": self._output.take()})

    def _call(self, tool: str, arguments: dict[str, Any]) -> Any:
        """Ask the host to run a tool. Time limit and signals wait until its answer is read."""
        answer = self._channel.quietly(self._exchange, tool, arguments)
        if "value" in answer:
            return answer["value"]
        if "error" in answer:
            raise ToolError(answer["error"])
        if "limit" in answer:
            raise ToolCallLimit(answer["limit"])
        raise EpisodeFinished

    def _exchange(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Send the question, which has a number, and wait for the answer that bears it."""
        self._reserve.hold()
        output = self._output.take()
        number = self._calls + 1
        question = {"step": self._step, "kind": "call", "call": number, "tool": tool, "output": output}
        try:
            self._channel.send(encode_call(question, arguments))
            self._calls = number
            output = "", 0, ""
            return self._channel.answer(number)
        except MemoryError:
            self._reserve.release()
            raise
        finally:
            self._output.put(*output)

    def _on_soft_limit(self, _number: int, _frame: FrameType | None) -> None:
        if self._running:
            raise TimeLimit(self._limit_message)

    def _names(self) -> list[str]:
        """What the agent defined: not our tools, nothing that begins with an underscore."""
        names = []
        for name in list(vars(self._main)):
            if type(name) is str and name[:1] != "_" and name not in self._tools:
                names.append(name[:MAX_NAME_CHARS])
        return sorted(names)[:MAX_NAMES]


def _cut(text: str) -> str:
    cut = CutText(MAX_ERROR_CHARS)
    cut.add(text)
    return cut.render()
