"""What a paid endpoint costs and keeps: cache, budget, waiting as asked, and the key that is told nowhere."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from stub_http import JsonHandler, answering_with

from keepstate.cli import cli
from keepstate.errors import EpisodeFailure, UserError
from keepstate.models import server as server_module
from keepstate.models.base import Message, Sampling
from keepstate.models.budget import Budget, BudgetSpent
from keepstate.models.cache import AnswerCache, Kept
from keepstate.models.endpoint import Endpoint
from keepstate.models.server import ServerModel
from keepstate.tasks import make_tasks, write_tasks
from keepstate.train.result import WEIGHTS

KEY = 'sk-"test"/0123456789abcdef'
FINISH = 'Thought: enough.\nAction: [{"tool": "finish", "args": {}}]'
HALF = '{"choices": [{"message": {"content": "Thought: eno'
"""A body that breaks off."""
ASKED: list[Message] = [{"role": "user", "content": "go"}]


@dataclass
class Paid:
    """An endpoint that answers from a list of (status, body, headers), then for ever with `text`."""

    odd: list[tuple[int, Any, dict[str, str]]] = field(default_factory=list)
    text: str | Callable[[dict[str, Any]], str] = FINISH
    usage: dict[str, int] | Callable[[dict[str, Any]], dict[str, int]] | None = field(
        default_factory=lambda: {"prompt_tokens": 70, "completion_tokens": 30}
    )
    requests: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""
    root: str | None = None
    """Folder of the adapter that answers."""


def completion(content: Any, usage: Any = None, **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": content, **message}
    return {"model": "m", "choices": [{"message": said, "finish_reason": "stop"}], "usage": usage}


@contextmanager
def paid(*odd: tuple[int, Any, dict[str, str]], **options: Any) -> Iterator[Paid]:
    server = Paid(list(odd), **options)

    class Handler(JsonHandler):
        def do_GET(self) -> None:
            self.send(200, {"data": [{"id": "m", "root": server.root}]}) if self.path == "/v1/models" else self.send(
                404, ""
            )

        def do_POST(self) -> None:
            request = self.asked()
            server.requests.append(request)
            if server.odd:
                status, body, headers = server.odd.pop(0)
                echo = self.headers["Authorization"] or ""
                self.send(status, echo if body == "echo" else body, headers, length=4000 if body == HALF else None)
                self.close_connection = body == HALF
            else:
                text = server.text(request) if callable(server.text) else server.text
                self.send(200, completion(text, server.usage(request) if callable(server.usage) else server.usage))

    with answering_with(Handler) as url:
        server.url = f"{url}/v1"
        yield server


async def ask(server: Paid, *seeds: int, **options: Any) -> list[Any]:
    endpoint = Endpoint(server.url, **options)
    try:
        model = ServerModel(endpoint, "m", Sampling(max_tokens=64))
        return [await model.reply(ASKED, seed=seed, turn=0) for seed in seeds]
    finally:
        await endpoint.aclose()


async def test_an_answer_is_paid_for_once_and_every_draw_is_its_own(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "answers.sqlite"
    with paid() as server:
        for _ in range(2):
            with closing(AnswerCache(path)) as cache:
                first, again, other = await ask(server, 1, 1, 2, cache=cache)
                assert first == again
                assert other.text == FINISH
        assert [request["seed"] for request in server.requests] == [1, 2]
        with closing(AnswerCache(path)) as cache:
            endpoint = Endpoint(server.url, cache=cache)
            await ServerModel(endpoint, "m", Sampling(temperature=0.9, max_tokens=64)).reply(ASKED, seed=1, turn=0)
            await endpoint.aclose()
        assert len(server.requests) == 3, "another temperature is another request"


@pytest.mark.parametrize("body", [{"choices": []}, completion({"a": 1}), completion("", reasoning_content="hm")])
async def test_what_is_no_answer_is_not_kept(body: Any, tmp_path: Path) -> None:
    with paid((200, body, {})) as server, closing(AnswerCache(tmp_path / "a.sqlite")) as cache:
        with pytest.raises((EpisodeFailure, UserError)):
            await ask(server, 1, cache=cache)
        assert [reply.text for reply in await ask(server, 1, cache=cache)] == [FINISH]


async def test_what_is_kept_and_no_answer_is_no_fault_of_the_servers_and_asked_for_again(tmp_path: Path) -> None:
    with paid() as server, closing(AnswerCache(tmp_path / "a.sqlite")) as cache:
        await ask(server, 1, cache=cache)
        cache._file.execute("UPDATE answers SET body = 'damaged'")
        assert [reply.text for reply in await ask(server, 1, cache=cache)] == [FINISH]
        assert (len(server.requests), cache.found) == (2, 0)
        await ask(server, 1, cache=cache)
        assert (len(server.requests), cache.found) == (2, 1)


def test_another_programs_file_is_no_cache(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.sqlite"
    with closing(sqlite3.connect(theirs)) as file:
        file.execute("CREATE TABLE people (name TEXT)")
    before = theirs.read_bytes()
    with pytest.raises(UserError, match="another program"):
        AnswerCache(theirs)
    assert theirs.read_bytes() == before
    (tmp_path / "text").write_text("no database, but long enough to be read as one" * 9)
    with pytest.raises(UserError, match="not a database"):
        AnswerCache(tmp_path / "text")


def test_of_many_that_make_one_cache_at_once_none_fails(tmp_path: Path) -> None:
    """And no moment leaves a file that is ours by half: a run killed there would be refused its own cache."""
    together = threading.Barrier(8)

    def opened(number: int) -> None:
        together.wait()
        with closing(AnswerCache(tmp_path / "shared.sqlite")) as cache:
            cache.keep("url", {"seed": number}, Kept("answer", 1.0))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(opened, range(8)))
    with closing(AnswerCache(tmp_path / "shared.sqlite")) as cache:
        assert all(cache.find("url", {"seed": number}) for number in range(8))


def test_what_ends_a_cache_is_told_with_what_mends_it_and_never_to_delete_what_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: file of another kind that somebody named by mistake\n" * 9)
    with pytest.raises(UserError, match="not a database") as caught:
        AnswerCache(tmp_path / "config.yaml")
    assert caught.value.hint == "name another file"
    with closing(AnswerCache(tmp_path / "a.sqlite")) as cache:
        for number in range(99):
            cache.keep("url", {"seed": number}, Kept("answer" * 99, 1.0))
        limit = cache._file.execute("PRAGMA page_count").fetchone()[0]
        cache._file.execute(f"PRAGMA max_page_count = {limit}")
        with pytest.raises(UserError, match="full") as caught:
            cache.keep("url", {"seed": "last"}, Kept("answer" * 9999, 1.0))
    assert "free some space" in caught.value.hint
    whole = (tmp_path / "a.sqlite").read_bytes()
    (tmp_path / "a.sqlite").write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))
    with closing(AnswerCache(tmp_path / "a.sqlite")) as cache, pytest.raises(UserError, match="malformed") as caught:
        list(map(partial(cache.find, "url"), ({"seed": number} for number in range(99))))
    assert "delete it" in caught.value.hint


async def test_a_budget_ends_within_one_answer_however_many_ask_at_once() -> None:
    budget = Budget(tokens=450)
    with paid() as server:
        endpoint = Endpoint(server.url, budget=budget)
        model = ServerModel(endpoint, "m", Sampling(max_tokens=64))
        asked = [model.reply(ASKED, seed=seed, turn=0) for seed in range(20)]
        told = await asyncio.gather(*asked, return_exceptions=True)
        await endpoint.aclose()
    assert sum(isinstance(one, BudgetSpent) for one in told) == 15
    assert len(server.requests) == 5
    assert str(budget) == "500 of 450 tokens"


async def test_money_is_counted_by_the_prices_and_answers_from_the_cache_cost_none(tmp_path: Path) -> None:
    budget = Budget(cost=2e-4, price_in=1.0, price_out=2.0)  # an answer: 70 + 60 millionths
    told = pytest.raises(BudgetSpent, match=r"200 tokens, 0\.0003 of 0\.0002 in money")
    with paid() as server, closing(AnswerCache(tmp_path / "a.sqlite")) as cache, told:
        await ask(server, 1, 1, 1, 2, 3, cache=cache, budget=budget)
    assert len(server.requests) == 2


async def test_a_server_that_counts_nothing_keeps_no_budget() -> None:
    with paid(usage=None) as server, pytest.raises(UserError, match="no budget can be kept"):
        await ask(server, 1, budget=Budget(tokens=1000))


async def test_all_wait_when_a_server_asks_to_be_left_alone_also_by_a_date() -> None:
    date = formatdate(time.time() + 2, usegmt=True)  # of whole seconds: up to one of the two is lost
    with paid((429, {}, {"Retry-After": date})) as server:
        endpoint = Endpoint(server.url)
        model = ServerModel(endpoint, "m", Sampling(max_tokens=64))
        started = time.monotonic()
        first = asyncio.create_task(model.reply(ASKED, seed=1, turn=0))
        await asyncio.sleep(0.3)
        await model.reply(ASKED, seed=2, turn=0)
        assert time.monotonic() - started > 0.5, "the second was not refused, and waits all the same"
        await first
        await endpoint.aclose()
    assert len(server.requests) == 3


async def test_a_server_that_knows_the_newer_name_alone_is_asked_by_it() -> None:
    words = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    with paid((400, {"error": {"message": words}}, {})) as server:
        await ask(server, 1, 2)
    assert [sorted({"max_tokens", "max_completion_tokens"} & request.keys()) for request in server.requests] == [
        ["max_tokens"],
        ["max_completion_tokens"],
        ["max_completion_tokens"],
    ]


async def test_an_account_without_money_stops_the_run_at_once() -> None:
    error = {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}}
    with paid((429, error, {})) as server, pytest.raises(UserError, match="gives no more answers: You exceeded"):
        await ask(server, 1)


def collect(server: Paid, folder: Path, *options: object, count: int = 6) -> Result:
    tasks = folder / "tasks"
    write_tasks(tasks, make_tasks("knapsack", "mini", count, 0))
    given = ["--tasks", tasks, "--out", folder / "traces", "--runtime", "react", "--teacher", "llm", "--model", "m"]
    given += ["--base-url", server.url, "--concurrency", 2, *options]
    return CliRunner().invoke(cli, ["traces", "collect", *map(str, given)])


def test_a_collection_stops_when_its_budget_is_spent_and_goes_on_where_it_was(tmp_path: Path) -> None:
    with paid() as server:
        stopped = collect(server, tmp_path, "--max-tokens-total", 250)
        assert stopped.exit_code == 1, stopped.output
        less = "what is left of the budget is less than an episode takes: 200 of 250 tokens; 4 episodes are left"
        assert f"stopped: {less}" in stopped.stderr
        assert len(list((tmp_path / "traces/react").glob("*.trace.json"))) == 2
        done = collect(server, tmp_path, "--max-tokens-total", 1000)
        assert done.exit_code == 0, done.output
        assert "4 recorded, 2 kept" in done.stdout
        assert "spent: 400 of 1,000 tokens" in done.stderr
    assert len(server.requests) == 6


LOOK = 'Thought: I look.\nAction: [{"tool": "list_items", "args": {}}]'


@dataclass
class Growing:
    """Episodes of four answers each, which take 100, 200, 300 and 400 tokens; of `answers` where told, by number."""

    answers: dict[int, int] = field(default_factory=dict)
    episodes: list[str] = field(default_factory=list)

    def text(self, request: dict[str, Any]) -> str:
        goal, turn = request["messages"][1]["content"], len(request["messages"]) // 2
        if goal not in self.episodes:
            self.episodes.append(goal)
        time.sleep(0.02)
        return FINISH if turn == self.answers.get(self.episodes.index(goal), 4) else LOOK

    @staticmethod
    def usage(request: dict[str, Any]) -> dict[str, int]:
        return {"prompt_tokens": 50 * len(request["messages"]) - 10, "completion_tokens": 10}


@pytest.mark.parametrize(
    ("budget", "finished"),
    [(900, 1), (3_500, 3), (7_700, 7), (50_000, 12)],  # of 3,500 eight at once would have finished none
)
def test_a_budget_is_spent_on_episodes_that_are_finished(tmp_path: Path, budget: int, finished: int) -> None:
    with paid(text=Growing().text, usage=Growing.usage) as server:
        result = collect(server, tmp_path, "--max-tokens-total", budget, "--concurrency", 8, count=12)
    assert f"react: {finished} recorded" in result.stdout, result.output
    assert f"{1_000 * finished:,} of {budget:,} tokens" in result.stderr
    assert ("stopped: " in result.stderr) == (finished < 12)
    assert "cut off" not in result.stderr


def test_where_too_many_were_begun_the_older_ones_are_finished_first(tmp_path: Path) -> None:
    """The first episode takes 100 tokens, the others 1,000 each: by the first, 5,000 suffice for all eight at once."""
    with paid(text=Growing({0: 1}).text, usage=Growing.usage) as server:
        result = collect(server, tmp_path, "--max-tokens-total", 5_000, "--concurrency", 8, count=12)
    assert len(list((tmp_path / "traces/react").glob("*.trace.json"))) >= 4, "of five or six"
    assert "episodes were cut off: their answers are paid for again, but not with --cache FILE" in result.stderr


def test_whatever_a_bad_day_brings_every_episode_is_recorded_and_no_failure_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "FIRST_PAUSE", 0.01)
    thinking = completion(FINISH, {"prompt_tokens": 1, "completion_tokens": 1}, reasoning_content="hm")
    odd: list[tuple[int, Any, dict[str, str]]] = [
        (429, {"error": "slow down"}, {"Retry-After": "0.1"}),
        (503, "upstream", {}),
        (200, HALF, {}),
        (200, completion(None), {}),
        (200, HALF.replace("eno", "enough"), {}),
        (200, thinking, {}),
        (500, {"error": {"message": "overloaded"}}, {}),
    ]
    with paid(*odd) as server:
        done = collect(server, tmp_path, "--cache", tmp_path / "answers.sqlite")
        assert done.exit_code == 0, done.output
        assert "6 recorded, 0 kept" in done.stdout
        assert "the server put thoughts beside 1 answers" in done.stderr
        assert len(server.requests) == len(odd) + 5
        collect(server, tmp_path, "--cache", tmp_path / "answers.sqlite", "--out", tmp_path / "other")
        assert len(server.requests) == len(odd) + 5, "each answer is in the cache"


def test_an_adapter_trained_anew_under_its_old_name_is_another_teacher(tmp_path: Path) -> None:
    """Of a second round from its own episodes: neither its traces are mixed with the first one's, nor its answers."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    cached = ("--cache", tmp_path / "answers.sqlite")
    with paid(root=str(adapter)) as server:
        for weights, asked in ((b"first", 6), (b"first", 6), (b"second", 12)):
            (adapter / WEIGHTS).write_bytes(weights)
            done = collect(server, tmp_path, *cached, "--out", tmp_path / weights.decode())
            assert done.exit_code == 0, done.output
            assert len(server.requests) == asked
        refused = collect(server, tmp_path, *cached, "--out", tmp_path / "first")
        assert isinstance(refused.exception, UserError)
        assert "weights: " in refused.exception.message
        server.root = None
        done = collect(server, tmp_path, *cached, "--out", tmp_path / "first")
        assert "0 recorded, 6 kept" in done.stdout, "what is not told is not compared"


def test_prices_and_the_bound_belong_together(tmp_path: Path) -> None:
    with paid() as server:
        for options in (["--max-cost", 1], ["--price-in", 1]):
            refused = collect(server, tmp_path, *options)
            assert isinstance(refused.exception, UserError)
            assert "--max-cost needs prices" in refused.exception.message


@pytest.mark.parametrize("status", [200, 400, 401, 404, 418, 429, 503])
def test_a_key_is_told_nowhere_even_where_the_server_repeats_it(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEPSTATE_API_KEY", KEY)
    monkeypatch.setattr(server_module, "FIRST_PAUSE", 0.01)
    echo = completion(f"{FINISH} {KEY}", {"prompt_tokens": 7, "completion_tokens": 3}) if status == 200 else None
    odd = [(status, echo or {"error": {"message": f"bad key {KEY}"}}, {}), (status, echo or "echo", {})] * 30
    with paid(*odd) as server:
        done = collect(server, tmp_path, "--retries", 1, "--cache", tmp_path / "answers.sqlite")
    assert "sk-" not in done.output
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert b"0123456789abcdef" not in path.read_bytes(), path


async def test_a_password_in_the_address_is_sent_and_not_told() -> None:
    with paid((418, {"error": "no, user:pa55word"}, {})) as server:
        server.url = server.url.replace("http://", "http://user:pa55word@")
        with pytest.raises(EpisodeFailure) as caught:
            await ask(server, 1)
    assert "pa55word" not in caught.value.message
