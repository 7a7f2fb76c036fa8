"""Every attack at every real rung; after it host, sandbox, a canary episode and the attacked episode are still well."""

import json
import re
import secrets

import pytest
from attacks import Attack, prelude
from attacks.suite import ATTACKS, BY_RUNG, GROUPS
from hosting import GROSS_LAG, Host, LagMeter, descendants, descriptors, until
from playground import PERSISTENT, REAL_RUNGS, Session, opened, shown

from keepstate.runtimes import Sandbox
from keepstate.traces.observations import render_observation
from keepstate.traces.record import ActionResult, Limits

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("short_grace")]


async def test_there_are_many_and_each_has_its_own_name() -> None:
    assert len(ATTACKS) == sum(len(group.ATTACKS) for group in GROUPS) >= 60
    assert len({attack.code for attack in ATTACKS.values()}) == len(ATTACKS)


DEPENDENT = {id(attack) for group in BY_RUNG for attack in group.ATTACKS}
CASES = [
    pytest.param(attack, id=name, marks=[] if id(attack) in DEPENDENT else [pytest.mark.any_rung])
    for name, attack in ATTACKS.items()
]


HOLES = {
    "a jump of the filter off by one allowed everything": ["privileges: process calls", "privileges: network calls"],
    "kill(0, 9) ignores pid namespaces": ["processes: kill the group"],
    "prlimit changed the host's limits": ["processes: limits of the host"],
    "F_SETOWN and F_SETSIG killed the host": ["processes: signals through a descriptor's owner"],
    "chmod, utime, setxattr, fchmod reached host files": ["files: change the host's file by path",
                                                          "files: change the host's file by descriptor"],
    "truncate emptied a host file": ["files: change the host's file by path"],
    "live builtins in the worker's loop": ["interpreter: wipe the builtins",
                                           "interpreter: patch the builtins and json"],
    "no step ids in frames": ["frames: a replayed call of an earlier step", "frames: the end of an earlier step"],
    "no quota in /tmp": ["files: fill /tmp", "files: use up the inodes"],
    "fork bombs bounded by a count of processes": ["processes: fork bomb", "processes: raw clone"],
}  # fmt: skip
"""Holes of the prototype, and the attacks that would find them again (the filter: test_filter.py, test_ladder.py)."""


async def test_every_known_hole_is_tried_at_every_rung() -> None:
    for names in HOLES.values():
        assert names
        for name in names:
            assert set(ATTACKS[name].rungs) == set(REAL_RUNGS)


@pytest.mark.parametrize("attack", CASES)
async def test_attack(real_sandbox: Sandbox, host: Host, attack: Attack, capfd: pytest.CaptureFixture[str]) -> None:
    if real_sandbox.rung not in attack.rungs:
        pytest.skip(f"{real_sandbox.rung} does not guarantee this")
    secret = f"hidden-answer-{secrets.token_hex(16)}"
    limits = Limits(tool_calls=attack.calls, action_seconds=attack.seconds)
    before = host.state()
    async with LagMeter() as lag:
        async with (
            opened(PERSISTENT, real_sandbox, secret=secret) as canary,
            opened(PERSISTENT, real_sandbox, limits, secret=secret) as session,
        ):
            await canary.output("mine = 1")
            await session.output(prelude(host.coordinates()) + "\nkeep = 41")
            result = await session.run(attack.code)
            _judge(attack, result, secret)
            environment = session.environment
            counted = [(call.tool, call.arguments) for call in result.results if call.error is None]
            assert len(environment.log) <= attack.calls + 1
            assert counted == environment.log[: len(counted)], "only what was really called is on record"
            assert await canary.output("mine + 1") == "2\n", "an episode that ran beside it"
            await _goes_on(attack, session, result)
        async with opened(PERSISTENT, real_sandbox) as fresh:
            assert await fresh.works(), "an episode that starts after it"
    assert host.state() == before
    assert lag.worst < GROSS_LAG
    assert capfd.readouterr() == ("", ""), "nothing reaches the host's own terminal"


def _judge(attack: Attack, result: ActionResult, secret: str) -> None:
    seen = shown(result)
    assert "BREACH" not in seen, seen
    assert result.error_type in attack.ends, seen[-2000:]
    assert re.search(attack.shows, seen), seen[-2000:]
    assert attack.lost is None or result.state_lost is attack.lost, seen[-2000:]
    assert secret not in seen
    assert len(result.output) < 11_000
    assert len(result.error or "") < 100_000
    names = result.globals or ()
    assert sum(map(len, names)) < 2_000_000
    text = render_observation(PERSISTENT, result)
    assert not re.search(r"[\0-\x1f\x7f]", text), "one line without control characters, whatever was printed"
    assert json.loads(text).keys() <= {"output", "error", "globals"}


async def _goes_on(attack: Attack, session: Session, result: ActionResult) -> None:
    """A further step works; variables are there unless the interpreter was lost and said so."""
    after = await session.run("print(6 * 7, add(20, 22))")
    late_death = attack.lost is None and after.state_lost
    assert late_death or (after.output, after.error) == ("42 42\n", None), shown(after)
    last = await session.run("print(keep + 1)")
    lost = result.state_lost or after.state_lost
    assert (last.error_type == "NameError") if lost else last.output == "42\n", shown(last)


async def test_nothing_is_left_after_all_attacks(real_sandbox: Sandbox) -> None:
    """Runs after the attacks of this rung: no process and no descriptor stays behind."""

    async def one() -> None:
        async with opened(PERSISTENT, real_sandbox) as session:
            assert await session.works()

    await one()
    open_before, running_before = descriptors(), len(descendants())
    for _ in range(30):
        await one()
    assert await until(lambda: descriptors() < open_before + 15), "room for a few interpreters in stock"
    assert await until(lambda: len(descendants()) < running_before + 15)
