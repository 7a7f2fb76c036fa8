"""Admission: never more episodes than concurrency and cache allow, in order, without a standstill."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from keepstate.bench.served import pool_tokens
from keepstate.play.admission import Admission


class Watch:
    """Episodes of given sizes; notes the most that were open, and the most tokens of those not held before a turn."""

    def __init__(self, admission: Admission) -> None:
        self.admission, self.most, self.most_tokens = admission, 0, 0
        self.order: list[int] = []
        self._open: dict[tuple[str, int], int] = {}
        self._held: set[tuple[str, int]] = set()

    async def episode(self, number: int, sizes: list[int], kind: str = "a") -> None:
        async with self.admission.seat(kind) as seat:
            self.order.append(number)
            for size in sizes:
                self._held.add((kind, number))
                await self.admission.turn(seat)
                self._held.discard((kind, number))
                self._open[kind, number] = size
                self.admission.grown(seat, size)
                self.most = max(self.most, len(self._open))
                self.most_tokens = max(
                    self.most_tokens, sum(tokens for key, tokens in self._open.items() if key not in self._held)
                )
                await asyncio.sleep(0)
            del self._open[kind, number]


async def test_concurrency_bounds_where_the_pool_is_not_known() -> None:
    watch = Watch(Admission(5, None, 1))
    await asyncio.gather(*(watch.episode(i, [10_000] * 3) for i in range(40)))
    assert watch.most == 5
    assert watch.order == list(range(40))


async def test_the_pool_bounds_by_what_episodes_of_the_kind_came_to() -> None:
    admission = Admission(64, {"": 100_000}, 50_000)
    watch = Watch(admission)
    await asyncio.gather(*(watch.episode(i, [2_000, 4_000, 7_000, 10_000]) for i in range(60)))
    assert admission.estimate("a") == 10_000
    assert 9 < watch.most < 30, "nine of 10,000 fit 95,000, and more that are not all as long at the same time"
    assert watch.most_tokens <= 100_000


async def test_kinds_are_estimated_apart() -> None:
    admission = Admission(64, {"": 100_000}, 90_000)
    watch = Watch(admission)
    await watch.episode(0, [1_000], "short")
    assert admission.estimate("short") == 1_000
    assert admission.estimate("long") == 90_000
    await asyncio.gather(*(watch.episode(i, [1_000], "short") for i in range(1, 50)))
    assert watch.most == 49


async def test_long_talkers_among_short_ones_do_not_overrun_the_pool() -> None:
    """The pool of an 80 GB card; trained models end at 5,000 tokens, an untrained one fills its context."""
    admission = Admission(64, {"": 378_640}, 40_960)
    watch = Watch(admission)
    trained, untrained = [1_500, 3_000, 4_000, 5_000], list(range(2_000, 40_960, 974))
    kinds = [("base", untrained), ("persistent", trained), ("forget", trained), ("react", trained)]
    await asyncio.gather(*(watch.episode(i, sizes, kind) for i in range(100) for kind, sizes in kinds))
    assert watch.most_tokens <= 378_640
    assert watch.most > 16, "and yet it opens up"


async def test_short_episodes_end_first_and_do_not_hide_the_long_ones() -> None:
    admission = Admission(64, {"": 100_000}, 10_000)
    async with AsyncExitStack() as stack:
        for _ in range(4):
            admission.grown(await stack.enter_async_context(admission.seat("a")), 9_000)
        await Watch(admission).episode(0, [1_000])
        assert admission.estimate("a") == 9_000


async def test_an_episode_larger_than_the_pool_plays_alone() -> None:
    watch = Watch(Admission(64, {"": 1_000}, 500))
    await asyncio.gather(*(watch.episode(i, [50_000]) for i in range(4)))
    assert watch.most == 1
    assert len(watch.order) == 4


async def test_an_episode_that_outgrows_the_estimate_counts_as_it_is() -> None:
    admission = Admission(64, {"": 10_000}, 9_400)
    async with admission.seat("a") as seat:
        admission.grown(seat, 9_400)
        late = asyncio.create_task(Watch(admission).episode(1, [1]))
        await asyncio.sleep(0.01)
        assert not late.done()
        assert admission.expected_tokens() == 9_400
    await late


async def test_it_opens_with_what_a_first_turn_may_take() -> None:
    """With the whole context, 40,960, nine of 64 were open until the first of each kind had ended."""
    for first_turn, opened in ((None, 9), (4_500, 64)):
        admission = Admission(64, {"": 388_256}, 40_960, first_turn)
        async with AsyncExitStack() as stack:
            seats = [asyncio.create_task(stack.enter_async_context(admission.seat("a"))) for _ in range(64)]
            await asyncio.sleep(0)
            assert sum(seat.done() for seat in seats) == opened
            for seat in seats[opened:]:
                seat.cancel()


async def test_episodes_at_different_places_need_less_than_all_at_their_end() -> None:
    admission = Admission(64, {"": 100_000}, 10_000)
    async with AsyncExitStack() as stack:
        async with admission.seat("a") as ended:
            admission.grown(ended, 10_000)
        for tokens in (2_000, 4_000, 6_000, 8_000):
            admission.grown(await stack.enter_async_context(admission.seat("a")), tokens)
        assert admission.expected_tokens() == 4 * 10_000 - (2_000 + 4_000 + 6_000), "as the first of them ends"
        assert admission.expected_tokens("a") == 28_000 + 10_000, "and one that begins as long as the last did"


async def test_the_newest_wait_for_their_turn_where_the_pool_is_outgrown() -> None:
    admission = Admission(64, {"": 10_000}, 40_960, 3_000)
    async with AsyncExitStack() as stack:
        old, new = [await stack.enter_async_context(admission.seat("a")) for _ in range(2)]
        admission.grown(old, 3_000)
        admission.grown(new, 3_000)
        await admission.turn(new)
        admission.grown(old, 8_000)
        await admission.turn(old)
        turn, third = asyncio.create_task(admission.turn(new)), asyncio.create_task(Watch(admission).episode(3, [1]))
        await asyncio.sleep(0.01)
        assert not turn.done(), "13,000 and more to come do not fit; the oldest goes on all the same"
        cancelled = asyncio.create_task(admission.turn(new))
        await asyncio.sleep(0)
        cancelled.cancel()
    assert not third.done()


async def test_cancelled_waiters_and_failures_give_their_place_back() -> None:
    admission = Admission(1, None, 1)
    async with admission.seat("a"):
        waiting = [asyncio.create_task(Watch(admission).episode(i, [1])) for i in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
    await asyncio.gather(*waiting[1:])
    with pytest.raises(RuntimeError):
        async with admission.seat("a"):
            raise RuntimeError
    admitted = asyncio.create_task(Watch(admission).episode(9, [1]))
    await asyncio.wait_for(admitted, 1)
    assert admission.expected_tokens() == 0  # none is open


async def test_cancelled_in_the_moment_of_being_let_in() -> None:
    admission = Admission(1, None, 1)
    async with admission.seat("a"):
        first, second = (asyncio.create_task(Watch(admission).episode(i, [1])) for i in range(2))
        await asyncio.sleep(0)
    first.cancel()  # its turn is set, it has not run yet
    await asyncio.wait_for(second, 1)
    assert admission.expected_tokens() == 0  # none is open


@pytest.mark.parametrize(
    ("metrics", "tokens"),
    [
        ('vllm:cache_config_info{block_size="16",num_gpu_blocks="1000"} 1.0\n', 16_000),
        (
            'vllm:cache_config_info{block_size="16",kv_cache_size_tokens="900",num_gpu_blocks="200",engine="0"} 1.0\n'
            'vllm:cache_config_info{block_size="16",kv_cache_size_tokens="700",num_gpu_blocks="200",engine="1"} 1.0\n',
            1_600,
        ),
        ('vllm:cache_config_info{block_size="16",kv_cache_size_tokens="None",num_gpu_blocks="None"} 1.0\n', None),
        ('vllm:cache_config_info{block_size="32",note="a\\"},b",num_gpu_blocks="10"} 1.0\n', 320),
        (f'vllm:cache_config_info{{block_size="16",num_gpu_blocks="{"9" * 5_000}"}} 1.0\n', None),
        ("# HELP vllm:cache_config_info Information\nother 1.0\n", None),
        ("", None),
    ],
)
def test_the_pool_is_read_from_metrics_of_old_and_new_servers(metrics: str, tokens: int | None) -> None:
    assert pool_tokens(metrics) == tokens
