"""How a coroutine is run, and how its garbage is collected."""

import gc

from keepstate.eventloop import SELDOM, seldom_collected


def test_garbage_is_collected_as_before_when_a_run_is_over() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with seldom_collected():
        assert gc.get_threshold() == SELDOM
        assert gc.get_freeze_count() > frozen
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)
