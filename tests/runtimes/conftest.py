"""Sandboxes for the tests of the runtimes: one for each rung that this machine passes; the others are skipped aloud."""

from __future__ import annotations

import asyncio
import importlib
import os
import secrets
import warnings
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio
from hosting import ENVIRONMENT_SECRET, Host
from playground import DIFFERENCES, REAL_RUNGS, RUNGS

from keepstate.errors import UserError
from keepstate.runtimes import Sandbox
from keepstate.runtimes.sandbox import probe, worker
from keepstate.vocabulary import Rung

os.environ[ENVIRONMENT_SECRET] = f"KEEPSTATE-{secrets.token_hex(16)}"  # before any sandbox starts


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(feature): fails at the rungs whose known differences name the feature")
    config.addinivalue_line(
        "markers", "any_rung: depends on no rung; slow (`make test`) but at this machine's strongest"
    )


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the command line runs on; test_event_loops.py tries Python's own as well."""
    try:
        return {"uvloop": importlib.import_module("uvloop").new_event_loop}
    except ImportError:
        return {"asyncio": asyncio.new_event_loop}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What depends on no rung is tried at the weaker ones by `make test` alone."""
    repeated = [item for item in items if item.get_closest_marker("any_rung")]
    strongest = next((report.rung for report in probe() if report.usable), Rung.PROCESS) if repeated else None
    for item in repeated:
        parameters = item.callspec.params if isinstance(item, pytest.Function) else {}
        if parameters.get("sandbox", parameters.get("real_sandbox")) is not strongest:
            item.add_marker(pytest.mark.slow)


EXCUSES = (
    "not permitted",
    "ermission denied",
    "not implemented",
    "not available",
    "No space left",  # user namespaces are limited to 0
    "no system call table",
    "on Linux only",
)
"""Words of the kernel's refusals. A rung that fails for another reason is broken, not missing."""


async def sandbox_of(rung: Rung) -> AsyncIterator[Sandbox]:
    """A sandbox of exactly this rung; skips, with a warning, where this machine has none."""
    made = Sandbox(isolation=rung, allow_unsafe=rung is Rung.PROCESS)
    try:
        await made.__aenter__()
    except UserError as error:
        if not any(excuse in error.message for excuse in EXCUSES):
            raise
        message = f"rung {rung} was NOT tested, this machine lacks it: {error.message}"
        warnings.warn(message, stacklevel=1)
        pytest.skip(message)
    try:
        yield made
    finally:
        await made.__aexit__(None, None, None)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=RUNGS)
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """Every rung, the unsafe one included."""
    async for made in sandbox_of(request.param):
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=REAL_RUNGS)
async def real_sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """Every rung that isolates."""
    async for made in sandbox_of(request.param):
        yield made


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has to be killed is killed sooner: a third of the attacks end so."""
    monkeypatch.setattr(worker, "GRACE_SECONDS", 0.1)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """Bait in this process for attacks."""
    made = Host()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def known_differences(request: pytest.FixtureRequest) -> None:
    """A test marked `needs(feature)` must fail at a rung whose known differences name that feature."""
    callspec = getattr(request.node, "callspec", None)
    rung = callspec.params.get("sandbox") if callspec else None
    for marker in request.node.iter_markers("needs"):
        if rung and (reason := DIFFERENCES[rung].get(marker.args[0])):
            request.applymarker(pytest.mark.xfail(reason=f"{rung}: {reason}", strict=True))
