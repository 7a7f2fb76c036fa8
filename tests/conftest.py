"""For all tests: a whole run is spread over the processors, and Ctrl-C means something everywhere.

A run of named files stays in one process, where `-s` shows what they print. `-n 2` spreads it too, `-n 0` spreads none.
"""

import os
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from keepstate.machine import cores
from keepstate.tasks import families

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell; what they start inherits it
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")  # how long an example takes says how busy the machine is

MOST_WORKERS = 4
"""More would start more sandboxes and servers at once than tests that watch a clock stand."""


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Two processes need half the time of one: half of it is waiting, for limits, servers and children."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # one of these processes: it starts no others
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if whole and config.getoption("numprocesses", 0) is None and not config.getoption("usepdb"):
        config.option.numprocesses = min(MOST_WORKERS, cores())
        config.option.dist = "worksteal"


@pytest.fixture
def no_family_named(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test names families of its own, as a new process does."""
    monkeypatch.setattr(families, "_NAMED", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    families._known.cache_clear()
