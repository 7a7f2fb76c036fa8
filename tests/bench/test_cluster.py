"""Episodes over real Ray clusters of several nodes on this machine: the same results, whatever happens to a node.

Nothing here waits for a moment: the server holds what it is asked (`Gate`), until nothing moves; then something happens
to a node or a driver; and what follows is let on.
"""

import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from made_tokenizers import make_tokenizer
from made_traces import make_trace, write_traces
from stub_server import StubServer, look_then_finish, serving

from keepstate import eventloop
from keepstate.bench import BenchmarkConfig, TaskSource
from keepstate.bench.replay import Contract, replay
from keepstate.bench.run import bench
from keepstate.dataset import BuildOptions, build_datasets
from keepstate.errors import UserError
from keepstate.files import TEMPORARY
from keepstate.leftovers import Leftover, leftovers
from keepstate.models.teacher import ScriptedTeacher
from keepstate.play.cluster import Cluster, cluster
from keepstate.play.cluster_address import check_address, of_nodes_here
from keepstate.play.collect import CollectPlan, collect
from keepstate.play.tally import Tally
from keepstate.tasks import make_tasks
from keepstate.traces.writer import Staged, place_trace
from keepstate.vocabulary import RuntimeName

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300), pytest.mark.filterwarnings("error::pytest.PytestWarning")]

PERSISTENT, REACT = RuntimeName.PERSISTENT, RuntimeName.REACT
TIMED = {"started_at", "finished_at", "seconds", "average_runtime"}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster whose head plays nothing, and two nodes of one processor each."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
    os.environ |= {"RAY_AUTH_TOKEN": "0" * 64, "RAY_health_check_period_ms": "500"}
    try:
        from ray.cluster_utils import Cluster as Nodes
    except ImportError:
        pytest.fail("Ray is not installed: make setup-ray")
    made = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, **SMALL})
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, **SMALL)
        yield made
    finally:
        made.shutdown()


SMALL = {"object_store_memory": 80 * 2**20, "include_dashboard": False}


@pytest.fixture
def two(nodes: Any) -> Any:
    """The cluster with both nodes; one that a test killed is known to be dead."""
    while len(nodes.worker_nodes) < 2:
        nodes.add_node(num_cpus=1, **SMALL)
    nodes.wait_for_nodes(timeout=60)
    return nodes


@pytest.fixture
def engine(two: Any) -> Iterator[Cluster]:
    with cluster(two.address) as engine:
        yield engine


@pytest.fixture
def writing(two: Any) -> Iterator[Cluster]:
    """One whose nodes write results themselves."""
    with cluster(two.address, nodes_write=True) as engine:
        yield engine


def cell(stub: StubServer, runtime: RuntimeName, count: int = 12, **changes: Any) -> BenchmarkConfig:
    values = {"name": str(runtime), "adapter": str(runtime), "runtime": runtime, "concurrency": 6, "base_url": stub.url}
    return BenchmarkConfig.model_validate(values | {"tasks": TaskSource(difficulty="mini", count=count)} | changes)


def untimed(value: Any) -> Any:
    """What is recorded, but for times."""
    if isinstance(value, dict):
        return {key: untimed(each) for key, each in value.items() if key not in TIMED}
    return [untimed(each) for each in value] if isinstance(value, list) else value


def recorded(folder: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(folder)): untimed(json.loads(path.read_bytes()))
        for path in folder.rglob("*.json")
        if path.name.endswith(".trace.json") or "cell" not in path.name
    }


def actors() -> list[psutil.Process]:
    """Processes in which nodes of this test's clusters play."""
    return [each for each in psutil.Process().children(recursive=True) if named(each).startswith("ray::Node")]


def named(process: psutil.Process) -> str:
    """Its command line; empty of one that is gone."""
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


class Gate:
    """A rule that holds the first question of every episode beyond the first `free` ones that it let through."""

    def __init__(self, free: int) -> None:
        self.asked: Counter[int] = Counter()
        """First questions, by their seed, which is an episode's own."""
        self._free, self._begun, self._changed = float(free), 0, threading.Condition()

    def __call__(self, request: dict[str, Any]) -> str:
        if len(request["messages"]) == 2:
            with self._changed:
                self.asked[request["seed"]] += 1
                self._changed.notify_all()
                assert self._changed.wait_for(lambda: self._begun < self._free, 170)
                self._begun += 1
        return look_then_finish(request)

    def let(self, free: float = math.inf) -> None:
        """Let so many through in all."""
        with self._changed:
            self._free = free
            self._changed.notify_all()

    def until(self, asked: int) -> None:
        """Wait until so many first questions were asked."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.asked.total() >= asked, 120), self.asked.total()

    @contextmanager
    def meanwhile(self, script: Callable[[], None]) -> Iterator[None]:
        """Run a script in a thread beside the block; whatever comes of it, all is let through in the end."""

        def run() -> None:
            try:
                script()
            finally:
                self.let()

        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(run)
            yield
            running.result()


def test_results_are_those_of_one_machine_and_no_variable_reaches_a_sandbox(
    engine: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET", "s3cret-value")

    def look(request: dict[str, Any]) -> str:
        if len(request["messages"]) == 2 and '"tool"' not in request["messages"][0]["content"]:
            return "```python\nimport os\nprint(sorted(os.environ))\nprint(list_items())\n```"
        return look_then_finish(request)

    with serving(StubServer(rule=look)) as stub:
        cells = [cell(stub, PERSISTENT), cell(stub, REACT)]
        here = eventloop.run(bench(cells, tmp_path / "here"))
        there = eventloop.run(bench(cells, tmp_path / "there", engine=engine))
    assert [tally.played for tally in there] == [12, 12]
    assert [tally.figures() | {"folder": ""} for tally in there] == [tally.figures() | {"folder": ""} for tally in here]
    assert recorded(tmp_path / "there") == recorded(tmp_path / "here")
    texts = [path.read_text() for path in (tmp_path / "there").rglob("*.trace.json")]
    assert "list_items" in "".join(texts)
    assert not [text for text in texts if "MY_SECRET" in text or "RAY_" in text]
    folders = eventloop.run(replay([tmp_path / "there"], Contract(), engine=engine))
    assert [(folder.same, folder.good) for folder in folders] == [(12, True), (12, True)]


def test_another_port_of_a_node_is_told_as_none_and_nodes_tell_of_theirs(two: Any) -> None:
    host, port = two.address.split(":")[0], next(iter(two.worker_nodes)).node_manager_port
    with pytest.raises(UserError, match=f"--address {host}:{port}: what answers there is no head of a cluster"):
        check_address(f"{host}:{port}")
    assert two.address in (of_nodes_here() or ()), "what auto is taken for"


def test_a_teacher_plays_there_as_here(engine: Cluster, tmp_path: Path) -> None:
    tasks = list(make_tasks("knapsack", "mini", 8, 0))

    def plan(out: Path) -> CollectPlan:
        return CollectPlan(tasks, [PERSISTENT], ScriptedTeacher, out)

    eventloop.run(collect(plan(tmp_path / "here")))
    (tally,) = eventloop.run(collect(plan(tmp_path / "there"), engine=engine))
    assert (tally.played, tally.failures.total()) == (8, 0)
    assert recorded(tmp_path / "there") == recorded(tmp_path / "here")


OPEN = 6
"""Episodes at once: so many are open where the gate holds all that begin."""


def test_a_node_that_dies_loses_its_open_episodes_alone_and_one_that_comes_takes_part(
    two: Any, engine: Cluster, tmp_path: Path
) -> None:
    gate, gone, before = Gate(free=10), threading.Event(), set(two.worker_nodes)

    def script() -> None:
        gate.until(10 + OPEN)
        two.remove_node(next(iter(two.worker_nodes)), allow_graceful=False)
        gate.until(10 + OPEN + 1)  # others begin: it is known to be gone
        gone.set()
        gate.let(10 + OPEN + 4)  # so four more are over, at least
        until(lambda: len(engine._workers) == 2)

    def note(_: Sequence[Tally]) -> None:
        if gone.is_set() and not two.worker_nodes - before:
            two.add_node(num_cpus=1, **SMALL)  # which only the main thread may

    with serving(StubServer(rule=gate)) as stub, gate.meanwhile(script):
        cells = [cell(stub, PERSISTENT, 40)]
        (tally,) = eventloop.run(bench(cells, tmp_path, engine=engine, on_progress=note))
    assert (tally.played, tally.failures.total()) == (40, 0)
    assert len(tally.lost) == 1, "it is told once"
    assert "is gone" in tally.lost[0]
    again = [seed for seed, times in gate.asked.items() if times > 1]
    assert 1 <= len(again) <= OPEN
    assert gate.asked.total() == 40 + len(again)
    assert stub.requests["persistent"] == gate.asked.total() + 40, "nothing else is asked again"
    assert len(actors()) == 2


def test_a_stopped_node_holds_up_its_own_episodes_alone(engine: Cluster, tmp_path: Path) -> None:
    gate, states = Gate(free=4), list[Sequence[Tally]]()

    def script() -> None:
        gate.until(4 + OPEN)
        stopped = actors()[0]
        stopped.suspend()
        try:
            gate.let()
            until(lambda: states[-1][0].done >= 40 - OPEN)
        finally:
            stopped.resume()

    with serving(StubServer(rule=gate)) as stub, gate.meanwhile(script):
        cells = [cell(stub, PERSISTENT, 40)]
        (tally,) = eventloop.run(bench(cells, tmp_path, engine=engine, on_progress=states.append))
    assert (tally.played, tally.failures.total(), tally.lost) == (40, 0, [])
    assert stub.requests["persistent"] == 80


def limited(what: int) -> Callable[[], None]:
    """Let one node's process have no more of something."""

    def limit() -> None:
        pid = actors()[0].pid
        resource.prlimit(pid, what, (0, resource.prlimit(pid, what)[1]))

    return limit


def played_with(limit: Callable[[], None], engine: Cluster, folder: Path) -> Tally:
    """Forty episodes, of which all but the first four begin when something is limited."""
    gate = Gate(free=4)

    def script() -> None:
        gate.until(4 + OPEN)
        limit()

    with serving(StubServer(rule=gate)) as stub, gate.meanwhile(script):
        (tally,) = eventloop.run(bench([cell(stub, PERSISTENT, 40)], folder, engine=engine))
    return tally


def test_a_node_that_can_write_nothing_costs_no_episode(engine: Cluster, tmp_path: Path) -> None:
    """As on a full disk: whatever its process writes to a file is refused."""
    tally = played_with(limited(resource.RLIMIT_FSIZE), engine, tmp_path)
    assert (tally.played, tally.failures.total()) == (40, 0)


def test_a_node_whose_sandbox_fails_rests_and_the_others_play(engine: Cluster, tmp_path: Path) -> None:
    """What it is given fails at once, so it is the emptiest: it must not get every episode."""
    tally = played_with(limited(resource.RLIMIT_NOFILE), engine, tmp_path)
    assert (tally.played, tally.failures.total()) == (40, 0)


def test_nodes_that_write_write_what_one_machine_does(
    writing: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = list[object]()
    monkeypatch.setattr("keepstate.play.jobs.write_traces", sent.extend)
    with serving(StubServer(rule=look_then_finish)) as stub:
        cells = [cell(stub, PERSISTENT), cell(stub, REACT)]
        there = eventloop.run(bench(cells, tmp_path / "there", engine=writing))
        monkeypatch.undo()
        here = eventloop.run(bench(cells, tmp_path / "here"))
        again = eventloop.run(bench(cells, tmp_path / "there", engine=writing))
    assert not sent, "no trace came to this process"
    assert [tally.figures() | {"folder": ""} for tally in there] == [tally.figures() | {"folder": ""} for tally in here]
    assert recorded(tmp_path / "there") == recorded(tmp_path / "here")
    assert names_below(tmp_path / "there") == names_below(tmp_path / "here")
    assert [(tally.kept, tally.played) for tally in again] == [(12, 0), (12, 0)]


def test_what_nodes_wrote_outlives_a_clean_until_it_is_counted(
    writing: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = list[Leftover]()

    def clean_first(folder: Path, staged: Staged) -> None:
        left.extend(leftovers(tmp_path, []))
        for each in left:
            each.remove()
        place_trace(folder, staged)

    monkeypatch.setattr("keepstate.play.jobs.place_trace", clean_first)
    with serving(StubServer(rule=look_then_finish)) as stub:
        (tally,) = eventloop.run(bench([cell(stub, PERSISTENT)], tmp_path, engine=writing))
    assert (tally.played, tally.failures.total()) == (12, 0)
    assert len(left) >= 2 * 12, "of each its trace and its verdict"


def names_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_what_a_node_wrote_that_died_is_played_again_and_lies_there_once(
    two: Any, writing: Cluster, tmp_path: Path
) -> None:
    gate = Gate(free=10)

    def script() -> None:
        gate.until(10 + OPEN)
        (tmp_path / "persistent" / f".mini.trace.json.00{TEMPORARY}").touch()  # as if staged, and told nobody
        two.remove_node(next(iter(two.worker_nodes)), allow_graceful=False)
        gate.until(10 + OPEN + 1)

    with serving(StubServer(rule=gate)) as stub, gate.meanwhile(script):
        (tally,) = eventloop.run(bench([cell(stub, PERSISTENT, 40)], tmp_path, engine=writing))
        assert (tally.played, tally.failures.total(), len(tally.lost)) == (40, 0, 1)
        eventloop.run(bench([cell(stub, PERSISTENT, 40)], tmp_path / "here"))
    assert recorded(tmp_path / "persistent") == recorded(tmp_path / "here" / "persistent")
    assert not [*tmp_path.rglob(f".*{TEMPORARY}")]


def test_results_of_a_node_whose_disk_is_full_are_written_by_the_driver(
    writing: Cluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tally = played_with(limited(resource.RLIMIT_FSIZE), writing, tmp_path)
    assert (tally.played, tally.failures.total()) == (40, 0)
    assert len([*tmp_path.rglob("*.trace.json")]) == 40
    assert capfd.readouterr().err.count("its results are written here") == 1
    assert not [*tmp_path.rglob(f".*{TEMPORARY}")]


def test_a_node_that_does_not_mount_the_folder_takes_no_part(
    two: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its own mount namespace has an empty disk where the folder of results lies."""
    from ray._private import services

    shared, start = tmp_path / "shared", services.start_ray_process
    shared.mkdir()
    apart = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    apart += ['mount -t tmpfs none "$0" && exec "$@"', str(shared)]
    if subprocess.run([*apart, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this kernel gives users no mount namespaces")
    with monkeypatch.context() as patched:
        patched.setattr(
            services, "start_ray_process", lambda command, *rest, **more: start([*apart, *command], *rest, **more)
        )
        third = two.add_node(num_cpus=1, **SMALL)
    try:
        two.wait_for_nodes(timeout=60)
        with cluster(two.address, nodes_write=True) as engine, serving(StubServer(rule=look_then_finish)) as stub:
            (tally,) = eventloop.run(bench([cell(stub, PERSISTENT, 20)], shared, engine=engine))
            assert len(engine._workers) == 2
    finally:
        two.remove_node(third)
    assert (tally.played, tally.failures.total()) == (20, 0)
    assert len([*shared.rglob("*.trace.json")]) == 20
    said = capfd.readouterr().err
    assert said.count("is not that of the machine where the command was typed; it takes no part") == 1


def test_data_sets_are_the_same_bytes_though_a_node_dies(two: Any, engine: Cluster, tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    make_tokenizer("chatml", tmp_path / "tokenizer")
    rest: dict[str, Any] = {"template": None, "tokenizer_path": tmp_path / "tokenizer", "options": BuildOptions()}
    root = write_traces(tmp_path / "t", [make_trace(number) for number in range(600)])
    (root / "broken.trace.json").write_text("{")
    build_datasets({PERSISTENT: root}, {PERSISTENT: tmp_path / "here"}, jobs=1, **rest)
    note = counting((150, lambda: two.remove_node(next(iter(two.worker_nodes)), allow_graceful=False)))
    there = {PERSISTENT: tmp_path / "there"}
    build_datasets({PERSISTENT: root}, there, cluster=engine, on_progress=note, **rest)
    assert len(two.worker_nodes) == 1
    for name in ("train.jsonl", "val.jsonl", "index.jsonl", "left_out.jsonl", "manifest.json"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


def counting(due: tuple[int, Callable[[], object]]) -> Callable[[tuple[int, int]], None]:
    """Do something once, when so many files are read, for `on_progress`."""
    left = [due]

    def note(done: tuple[int, int]) -> None:
        while left and done[0] >= left[0][0]:
            left.pop()[1]()

    return note


def typed(stub: StubServer, count: int, *more: str) -> list[str]:
    """A command that plays `count` episodes."""
    command = [sys.executable, "-m", "keepstate", "bench", "matrix", "--difficulty", "mini", "--count", str(count)]
    return [*command, "--base-url", stub.url, "--adapter", "react", "--concurrency", "4", "--engine", "ray", *more]


def test_a_killed_driver_leaves_no_actor_and_the_command_goes_on(two: Any, tmp_path: Path) -> None:
    gate = Gate(free=10)
    with serving(StubServer(rule=gate)) as stub:
        command = typed(stub, 30, "--address", two.address)
        with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
            gate.until(10 + 4)  # so the first ten are over, and written: others begin later
            process.kill()
        until(lambda: not actors())
        gate.let()
        done = subprocess.run([*command, "--json"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (told,) = json.loads(done.stdout)
        assert (told["kept"], told["played"]) == (10, 20)
        until(lambda: len(stub.seen) == 2 * 30 + 4)
        assert sorted(gate.asked.values()) == [1] * 26 + [2] * 4, "the open ones alone are played again"


def test_where_nodes_write_ctrl_c_leaves_no_hidden_file_and_the_command_goes_on(two: Any, tmp_path: Path) -> None:
    gate = Gate(free=10)
    with serving(StubServer(rule=gate)) as stub:
        command = typed(stub, 30, "--address", two.address, "--writer", "nodes")
        with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
            gate.until(10 + 4)
            process.send_signal(signal.SIGINT)
            _, words = process.communicate(timeout=100)
        gate.let()
        until(lambda: not actors())
        assert (process.returncode, [*tmp_path.rglob(f".*{TEMPORARY}")]) == (130, []), words
        done = subprocess.run([*command, "--json"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)
    assert (told["kept"], told["played"]) == (10, 20)
    assert len([*tmp_path.rglob("*.trace.json")]) == 30
    assert not [*tmp_path.rglob(f".*{TEMPORARY}")]


def test_ctrl_c_ends_a_cluster_of_our_own_with_its_files_and_keys_stay_with_the_driver(tmp_path: Path) -> None:
    gate = Gate(free=0)
    others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with serving(StubServer(rule=gate)) as stub:
        process = subprocess.Popen(
            typed(stub, 100),
            cwd=tmp_path,
            env=others | {"KEEPSTATE_API_KEY": "very-secret"},
            stderr=subprocess.PIPE,
            text=True,
        )
        gate.until(4)
        family = psutil.Process(process.pid).children(recursive=True)
        (folder,) = {Path(found) for each in family for found in re.findall(r"(/\S*/keepstate-ray-\w+)", named(each))}
        known = list(filter(None, map(environment, family)))
        listening = {each.laddr.ip for child in family for each in open_ports(child)}
        assert folder.is_dir()
        process.send_signal(signal.SIGINT)
        _, words = process.communicate(timeout=60)
        gate.let()
    assert process.returncode == 130, words
    assert "repeat the command to go on" in words
    assert "Traceback" not in words
    until(lambda: not [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE])
    assert not folder.exists()
    assert len(known) > 4
    assert not [name for each in known for name in each if name == "KEEPSTATE_API_KEY"]
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def environment(process: psutil.Process) -> dict[str, str]:
    """Of one of Ray's processes; empty of another, and of one that is gone."""
    with suppress(psutil.NoSuchProcess):
        return process.environ() if "ray" in named(process) else {}
    return {}


def open_ports(process: psutil.Process) -> list[Any]:
    """Where a process listens."""
    with suppress(psutil.NoSuchProcess):
        return [each for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    return []


def until(reached: Callable[[], bool], seconds: float = 100) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.1)
