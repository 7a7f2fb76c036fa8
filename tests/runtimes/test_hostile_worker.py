"""The host against any frames a worker may send: it goes on or ends the worker, and it is never a failure of ours."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playground import Toolbox

from keepstate.errors import EpisodeFailure
from keepstate.runtimes.base import ToolGate
from keepstate.runtimes.sandbox import frames
from keepstate.runtimes.sandbox.block import BlockResult, WorkerLost
from keepstate.runtimes.sandbox.worker import Worker
from keepstate.traces.record import Limits

LIMITS = Limits(tool_calls=3, action_seconds=20, output_chars=100)
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
CALL = {"step": 1, "kind": "call", "call": 1, "tool": "nothing", "arguments": {}, "output": ["", 0, ""]}
HONEST = (
    CALL,
    {**CALL, "call": 2, "tool": "echo", "arguments": {"value": "x"}},
    {**CALL, "call": 3, "tool": "refuse", "arguments": {"value": "x"}},
    {"step": 1, "kind": "output", "output": ["text", 5, "more"]},
    {"step": 1, "kind": "done", "output": ["text", 0, ""], "globals": ["x"]},
    {"step": 1, "kind": "done", "output": ["", 0, ""], "globals": [], "error": "E: e", "error_type": "E"},
)
TWISTS = st.dictionaries(
    st.sampled_from([*CALL, "globals", "error", "error_type", "finished", "reason"]),
    st.sampled_from(["verdict", "__init__", "failed", "ready", ["a", -1, "b"], ["a", 10**30, "b"], {"a": 1, "b": "2"}])
    | ANYTHING,
    max_size=2,
)
FRAMES = st.builds(lambda honest, twist: {**honest, **twist}, st.sampled_from(HONEST), TWISTS)


class Wire(asyncio.Transport):
    """Keeps what the host writes."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def abort(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


@pytest.fixture
def victim() -> Iterator[int]:
    """A process that may be killed, again and again."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


async def _play(pid: int, stream: bytes) -> tuple[BlockResult | Exception | None, Toolbox, Wire]:
    """The outcome of a block during which the worker sends `stream`; None where it still runs."""
    worker, wire, environment = Worker(os.pidfd_open(pid), lambda: True), Wire(), Toolbox()
    environment.in_memory = True
    worker.connection_made(wire)
    worker.data_received(frames.encode({"step": 0, "kind": "ready"}))
    block = asyncio.create_task(worker.run("pass", ToolGate(environment, LIMITS.tool_calls), LIMITS))
    await asyncio.sleep(0)
    worker.data_received(stream)
    for _ in range(len(stream) // 60 + 5):  # the host handles a few frames a turn
        await asyncio.sleep(0)
    outcome: BlockResult | Exception | None = None
    if block.done():
        outcome = error if isinstance(error := block.exception(), Exception) else block.result()
    else:
        block.cancel()
    worker.close()
    return outcome, environment, wire


@given(st.lists(FRAMES, max_size=6))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_frames_are_survived(victim: int, messages: list[dict[str, Any]]) -> None:
    stream = b"".join(map(frames.encode, messages))
    outcome, environment, wire = asyncio.run(_play(victim, stream))
    assert not isinstance(outcome, EpisodeFailure), "hostile frames are never a failure of ours"
    assert outcome is None or isinstance(outcome, BlockResult | WorkerLost)
    assert len(environment.log) <= LIMITS.tool_calls
    assert not environment.over
    assert len(wire.written) <= 1 + len(messages)
    if isinstance(outcome, BlockResult):
        assert len(outcome.output) < LIMITS.output_chars + 200
        assert all(isinstance(name, str) for name in outcome.globals)


@given(st.binary(max_size=400))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_survived(victim: int, stream: bytes) -> None:
    outcome, environment, _ = asyncio.run(_play(victim, stream))
    assert outcome is None or isinstance(outcome, WorkerLost)
    assert environment.log == []


def test_honest_frames_are_taken(victim: int) -> None:
    stream = b"".join(map(frames.encode, HONEST[:5]))
    outcome, environment, wire = asyncio.run(_play(victim, stream))
    assert isinstance(outcome, BlockResult)
    assert (outcome.error, outcome.globals) == (None, ("x",))
    assert outcome.output.startswith("text")
    assert len(environment.log) == 3
    assert len(wire.written) == 4


def test_calls_after_the_cap_end_the_worker(victim: int) -> None:
    calls = b"".join(frames.encode({**CALL, "call": number}) for number in range(1, 5001))
    outcome, environment, wire = asyncio.run(_play(victim, calls))
    assert isinstance(outcome, WorkerLost)
    assert outcome.kind == "ToolCallLimit"
    assert len(environment.log) == LIMITS.tool_calls
    assert len(wire.written) < 300
