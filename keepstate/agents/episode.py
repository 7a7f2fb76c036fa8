"""The one loop: play an episode of a task in a runtime and return its trace.

    trace = await run_episode(task, runtime=RuntimeName.FORGET, model=model, sandbox=sandbox)

The three runtimes differ in the object that `open_runtime` returns, in one paragraph of the prompt, and (react) in
the format of an answer. The conversation only grows. What the agent does wrong is an observation, what we do wrong is
a trace without a verdict. Writes no file, retries nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager

from keepstate.agents.prompts import system_prompt
from keepstate.agents.recorder import Recorder
from keepstate.errors import EpisodeFailure, UserError
from keepstate.models.base import PATIENCE, ContextOverflow, Model, Reply
from keepstate.runtimes import Sandbox, open_runtime
from keepstate.runtimes.base import Runtime, ToolGate
from keepstate.tasks.base import Task
from keepstate.traces.observations import render_observation
from keepstate.traces.parsing import Answer, parse_answer
from keepstate.traces.record import DEFAULT_LIMITS, FORMAT_ERROR, NO_PYTHON, ActionResult, Limits, Trace
from keepstate.vocabulary import FinishReason, Origin, RuntimeName

CLOCK_CUT = "EpisodeTimeLimit"
"""The `error_type` of a step that the episode's clock cut. The agent never sees it: nothing follows."""


async def run_episode(
    task: Task,
    *,
    runtime: RuntimeName,
    model: Model,
    sandbox: Sandbox | None = None,
    limits: Limits = DEFAULT_LIMITS,
    seed: int = 0,
) -> Trace:
    """Play one episode.

    Args:
        task: What to solve.
        runtime: What executes the actions.
        model: Who answers.
        sandbox: Where model-written code runs; react needs none.
        limits: Bounds of the episode; the specification's where not given.
        seed: Of the run; each turn's own seed comes from it and the task.

    Returns:
        The trace, graded unless we failed (`trace.failure`).

    Raises:
        UserError: Something the user has to mend (say, an unknown model): the whole run should stop.
    """
    limits = limits.of(runtime)
    recorder = Recorder(task, runtime, model, limits, seed)
    try:
        with attributed(Origin.TASK):
            gate = await ToolGate.open(task, limits.most_calls)
            prompt = system_prompt(runtime, gate.environment.tools, tool_calls=limits.tool_calls)
        with attributed(Origin.RUNTIME):
            interpreter = await open_runtime(runtime, gate, limits, sandbox)
        recorder.rung = interpreter.rung
        recorder.opened(prompt, gate.environment.goal)
        try:
            reason = await _play(gate, interpreter, model, limits, recorder)
        finally:
            with attributed(Origin.RUNTIME):
                await interpreter.close()
        with attributed(Origin.GRADER):
            verdict = await gate.verdict()
    except EpisodeFailure as failure:
        return recorder.failed(failure)
    return recorder.graded(reason, verdict)


@contextmanager
def attributed(origin: Origin) -> Iterator[None]:
    """Turn any unexpected exception raised inside into a failure of `origin`.

    Raises:
        EpisodeFailure: Anything went wrong; an inner `EpisodeFailure` keeps its own origin.
        ContextOverflow: Unchanged: no failure, the episode has ended.
        UserError: Unchanged: the whole run has to stop.
    """
    try:
        yield
    except (EpisodeFailure, ContextOverflow, UserError):
        raise
    except Exception as error:
        raise EpisodeFailure(origin, f"{type(error).__name__}: {error}") from error


async def _play(gate: ToolGate, interpreter: Runtime, model: Model, limits: Limits, recorder: Recorder) -> FinishReason:
    """Ask, act, observe, until something ends it.

    On the clock are the answers that came and the actions: never a server's silence, its refusals, or waiting for it.
    """
    environment, left = gate.environment, limits.seconds
    try:
        for turn in range(limits.turns):
            reply, took = await _ask(model, limits, recorder, turn)
            left -= took
            if left <= 0:
                return FinishReason.TIME_LIMIT
            answer = parse_answer(interpreter.name, reply.text, truncated=reply.truncated)
            started = time.monotonic()
            try:
                async with asyncio.timeout(left):
                    result = await _act(interpreter, answer)
            except TimeoutError:
                await gate.settled()
                recorder.stepped(turn, reply, answer.action, _cut(gate, limits.seconds), None)
                return FinishReason.FINISHED if environment.finished else FinishReason.TIME_LIMIT
            left -= time.monotonic() - started
            over = environment.finished or turn + 1 == limits.turns
            observation = None if over else render_observation(interpreter.name, result)
            recorder.stepped(turn, reply, answer.action, result, observation)
            if environment.finished:
                return FinishReason.FINISHED
        return FinishReason.TURN_LIMIT
    except ContextOverflow:
        return FinishReason.CONTEXT_LIMIT


async def _ask(model: Model, limits: Limits, recorder: Recorder, turn: int) -> tuple[Reply, float]:
    """An answer, and its seconds on the clock. An answer that is under way when the clock strikes is waited for: if it
    comes, the limit holds; if none comes, that is no fault of the model's."""
    seed = turn_seed(recorder.task.content_hash, recorder.seed, turn)
    recorder.asked(turn, seed)
    started = time.monotonic()
    patience = getattr(model, "patience", PATIENCE)
    with attributed(Origin.MODEL):
        try:
            async with asyncio.timeout(None if patience is None else limits.seconds + patience) as bound:
                reply = await model.reply(tuple(recorder.messages), seed=seed, turn=turn)
        except TimeoutError as error:
            if not bound.expired():
                raise
            raise EpisodeFailure(Origin.MODEL, f"no answer within {limits.seconds + patience:g} s") from error
        took = time.monotonic() - started if reply.seconds is None else reply.seconds
        recorder.answered(turn, reply, took)
    return reply, took


async def _act(interpreter: Runtime, answer: Answer) -> ActionResult:
    if answer.action is None:
        return ActionResult(output="", error=answer.problem, error_type=FORMAT_ERROR, globals=None, results=())
    with attributed(Origin.RUNTIME):
        result = await interpreter.execute(answer.action)
    if answer.hint and result.error_type in NO_PYTHON and not result.results:
        return result.model_copy(update={"error": f"{result.error}\n{answer.hint}"})
    return result


def _cut(gate: ToolGate, seconds: float) -> ActionResult:
    """What is known of an action that the episode's clock cut: the calls that it made, by which it is graded."""
    return ActionResult(
        output="",
        error=f"{CLOCK_CUT}: the episode's {seconds:g} s were over, the action was cut after {len(gate.calls)} calls",
        error_type=CLOCK_CUT,
        globals=None,
        results=tuple(gate.calls),
    )


def turn_seed(task_hash: str, seed: int, turn: int) -> int:
    """The sampling seed of one turn, in [0, 2**31): differs by task and turn, equal in every runtime and repetition.

    Args:
        task_hash: Content hash of the task, so that its name and place in a set do not matter.
        seed: Of the run.
        turn: 0 for the first answer.
    """
    digest = hashlib.sha256(f"{task_hash}:{seed}:{turn}".encode()).digest()
    return int.from_bytes(digest[:4]) >> 1
