"""What the sandbox promises beyond single attacks: hidden data, other episodes, death of the host, many at once."""

import asyncio
import os
import secrets
import signal
import sys
import time
from pathlib import Path

import pytest
from attacks import prelude
from attacks.suite import ATTACKS
from hosting import (
    ENVIRONMENT_SECRET,
    GROSS_LAG,
    Host,
    LagMeter,
    alive,
    children,
    descendants,
    descriptors,
    holding,
    until,
    variables_of,
)
from playground import CODEACT, FORGET, LIMITS, PERSISTENT, Session, opened

from keepstate.errors import EpisodeFailure
from keepstate.runtimes import Sandbox
from keepstate.runtimes.codeact import CodeActRuntime
from keepstate.runtimes.sandbox.worker import Worker
from keepstate.traces.record import Limits
from keepstate.vocabulary import Origin

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_hidden_data_is_in_no_process_that_runs_model_code(real_sandbox: Sandbox) -> None:
    secret, marker = secrets.token_hex(24), secrets.token_hex(24)
    hidden = [secret.encode(), os.environ[ENVIRONMENT_SECRET].encode()]
    async with (
        opened(PERSISTENT, real_sandbox, secret=secret) as one,
        opened(PERSISTENT, real_sandbox, secret=secret) as two,
        opened(FORGET, real_sandbox, secret=secret) as three,
    ):
        assert one.environment.secret == secret
        await one.output(f"marker = '{marker}'\necho('x')")
        for session in (two, three):
            assert await session.works()
        pids = descendants()
        assert len(pids) >= 3
        try:
            found = {pid: holding(pid, [*hidden, marker.encode()]) for pid in pids}
        except PermissionError:
            pytest.skip("only root may read the memory of a sandboxed process: the memory scan was NOT done")
    assert [pid for pid, hits in found.items() if hits & set(hidden)] == []
    holders = [pid for pid, hits in found.items() if marker.encode() in hits]
    assert len(holders) == 1, "the scan sees what is there, and one episode's data is in no other's memory"


async def test_workers_have_a_clean_environment(real_sandbox: Sandbox) -> None:
    async with opened(PERSISTENT, real_sandbox) as session:
        assert await session.works()
        seen = set().union(*map(variables_of, descendants()))
    assert seen <= {"LANG", "PATH", "LC_CTYPE", "PYTHONHASHSEED"}
    assert seen or os.geteuid(), "root may look"


async def test_episodes_do_not_meet(real_sandbox: Sandbox) -> None:
    async with opened(PERSISTENT, real_sandbox) as one, opened(PERSISTENT, real_sandbox) as two:
        pid = await one.output(
            "import os\ntry:\n    open('/tmp/meet', 'w').write('x')\nexcept OSError:\n    pass\nprint(os.getpid())"
        )
        code = f"""
import os
met = []
for pid in [{int(pid)}, *range(1, 300)]:
    if pid != os.getpid():
        for sig in (0, 9):
            try:
                os.kill(pid, sig)
                met.append(pid)
            except OSError:
                pass
print(os.path.exists('/tmp/meet'), met)
"""
        assert await two.output(code) == "False []\n"
        assert await one.works()


async def test_killing_the_host_leaves_nothing(real_sandbox: Sandbox) -> None:
    script = Path(__file__).with_name("doomed_host.py")
    command = [sys.executable, str(script), str(real_sandbox.rung)]
    doomed = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert doomed.stdout is not None
    assert await doomed.stdout.readline() == b"ready\n"
    pids = descendants(doomed.pid)
    assert len(pids) >= 4, "a zygote and three workers"
    doomed.kill()
    await doomed.wait()
    assert await until(lambda: not alive(pids)), alive(pids)


async def test_a_killed_zygote_is_our_failure_and_ends_its_workers(real_sandbox: Sandbox) -> None:
    others = children()
    async with Sandbox(isolation=real_sandbox.rung) as own, opened(PERSISTENT, own) as session:
        assert await session.works()
        (zygote,) = children() - others
        pids = {zygote} | descendants(zygote)
        assert len(pids) >= 2
        os.kill(zygote, signal.SIGKILL)
        assert await until(lambda: not alive(pids)), alive(pids)
        with pytest.raises(EpisodeFailure) as caught:
            await session.run("print(1)")
        assert caught.value.origin is Origin.SANDBOX


async def test_a_closed_sandbox_leaves_nothing(real_sandbox: Sandbox) -> None:
    others, open_before = children(), descriptors()
    async with Sandbox(isolation=real_sandbox.rung) as own:
        async with opened(PERSISTENT, own) as one, opened(FORGET, own, Limits(action_seconds=0.1)) as two:
            assert await one.works()
            await two.run("while True: pass")
        (zygote,) = children() - others
        pids = {zygote} | descendants(zygote)
    assert await until(lambda: not alive(pids)), alive(pids)
    assert await until(lambda: descriptors() <= open_before + 2), "a spare of the other sandbox may come meanwhile"


@pytest.mark.any_rung
@pytest.mark.parametrize("runtime", CODEACT)
async def test_the_time_limit_races_with_the_end_of_a_step(real_sandbox: Sandbox, runtime: object) -> None:
    """A step that ends just when its limit comes is either done or timed out; the next step is never hit."""
    outcomes = set()
    async with opened(runtime, real_sandbox, Limits(action_seconds=0.05)) as session:  # type: ignore[arg-type]
        for number in range(24):
            length = 0.05 + (number - 12) * 0.0008
            code = f"import time\nend = time.monotonic() + {length}\nwhile time.monotonic() < end: pass"
            outcomes.add((await session.run(code)).error_type)
            after = await session.run("print('after')")
            assert (after.output, after.error) == ("after\n", None), f"step {number}"
    assert outcomes <= {None, "TimeLimit"}


def worker_of(session: Session) -> Worker:
    assert isinstance(session.runtime, CodeActRuntime)
    assert session.runtime._worker is not None
    return session.runtime._worker


def cpu_seconds(pid: int) -> float:
    return time.clock_gettime(~pid << 3 | 2)


@pytest.mark.any_rung
async def test_nothing_runs_between_two_blocks(real_sandbox: Sandbox) -> None:
    """Whatever the worker says of the end of its block: one that goes on is ended, one that sleeps is stopped."""
    forged = prelude({}) + ATTACKS["frames: an end that did not come"].code
    async with opened(PERSISTENT, real_sandbox) as busy, opened(PERSISTENT, real_sandbox) as asleep:
        assert (await busy.run(forged + "\nwhile True: pass")).output == "forged"
        pid = worker_of(busy).pid
        assert await until(lambda: not alive({pid}))
        after = await busy.run("print(1)")
        assert (after.error_type, after.state_lost) == ("InterpreterExit", True)
        assert "when the block was over" in (after.error or "")
        assert await busy.works()
        await asleep.run(f"import time\n{forged}\ntime.sleep(0.3)\nwhile True: pass")
        assert await until(worker_of(asleep).is_stopped)
        ran = cpu_seconds(worker_of(asleep).pid)
        await asyncio.sleep(0.7)
        assert cpu_seconds(worker_of(asleep).pid) == ran


async def test_an_interpreter_at_rest_goes_on(real_sandbox: Sandbox) -> None:
    async with opened(PERSISTENT, real_sandbox) as session:
        await session.output("kept = 41")
        assert await until(worker_of(session).is_stopped)
        assert await session.output("print(kept + 1, add(1, 2))") == "42 3\n"


async def _balloons(sandbox: Sandbox, count: int) -> None:
    """Episodes that all take as much memory as they can, at once."""
    code = (
        "kept = []\ntry:\n    while True: kept.append(b'\\1' * 2**20)\nexcept MemoryError:\n    print(len(kept) < 24)"
    )
    limits = Limits(memory_mib=16, action_seconds=60)

    async def one() -> tuple[str, str | None]:
        async with opened(PERSISTENT, sandbox, limits) as session:
            result = await session.run(code)
            return result.output, result.error_type

    async with LagMeter() as lag:
        outcomes = await asyncio.gather(*(one() for _ in range(count)))
    assert set(outcomes) == {("True\n", None)}
    assert lag.worst < 3 * GROSS_LAG
    async with opened(PERSISTENT, sandbox) as session:
        assert await session.works()


async def test_memory_balloons_in_many_episodes_at_once(real_sandbox: Sandbox) -> None:
    await _balloons(real_sandbox, 16)


@pytest.mark.slow
async def test_memory_balloons_in_500_episodes_at_once(real_sandbox: Sandbox) -> None:
    await _balloons(real_sandbox, 500)


@pytest.mark.any_rung
async def test_loops_and_floods_beside_a_working_episode(real_sandbox: Sandbox) -> None:
    attacks = ["while True: pass", "while True: print('x' * 10**5)", "sum(range(10**13))", "while True: nothing()"]
    limits = Limits(action_seconds=0.3, tool_calls=10**6)
    async with LagMeter() as lag, opened(PERSISTENT, real_sandbox, LIMITS) as working:

        async def attack(code: str) -> str | None:
            async with opened(PERSISTENT, real_sandbox, limits) as session:
                return (await session.run(code)).error_type

        tasks = [asyncio.create_task(attack(code)) for code in attacks * 2]
        steps = 0
        while not all(task.done() for task in tasks):
            assert await working.works()
            steps += 1
    assert {task.result() for task in tasks} == {"TimeLimit"}
    assert steps > 5
    assert lag.worst < GROSS_LAG


async def test_the_bait_is_untouched(host: Host) -> None:
    assert host.file.read_text() == "bait of the host\n"
