"""Addresses of clusters: who answers at one is asked before Ray is, and every command that takes one tells."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import click
import pytest
from bench.stub_server import StubServer, serving
from made_results import Made, write_made_cell
from made_tokenizers import make_tokenizer
from made_traces import make_trace, write_traces
from typed import leaves

from keepstate.cli import cli, run
from keepstate.errors import UserError
from keepstate.play import cluster_address
from keepstate.play.cluster_address import check_address
from keepstate.vocabulary import RuntimeName

SETTINGS = b"\0\0\0\4\0\0\0\0\0"
TYPED = {
    "bench matrix": "--difficulty mini --count 1 --base-url {url}",
    "bench replay": "run",
    "bench run": "cell.yaml",
    "dataset build": "--traces traces --runtime persistent --tokenizer . --template chatml",
    "serve": "--laptop",
    "traces collect": "--tasks tasks --runtime react",
}
"""How each command is typed that takes `--address`."""


@contextmanager
def listening(says: bytes | None) -> Iterator[str]:
    """An address where somebody says this to all that is asked; nothing, and stays, where None."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                while connection.recv(4096):
                    if says is not None:
                        connection.sendall(says)
                        return

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join(20)


@pytest.fixture
def closed() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def nothing_of_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No variable of Ray's, an empty folder for its files, and no process but those that a test makes there."""
    for name in ("RAY_ADDRESS", "RAY_USE_TLS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(cluster_address, "PROCESSES", tmp_path)
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cmdline").write_bytes(b"python\0")
    return tmp_path


def refused(address: str) -> str:
    with pytest.raises(UserError) as error:
        check_address(address)
    assert error.value.hint.startswith("allowed: auto on a machine of the cluster, or HOST:PORT")
    return error.value.message


@pytest.mark.parametrize(
    "address",
    ["", "local", "head", "head:", ":6379", "head:99999", "head:0", "ray://head:10001", "http://a:1", "a b:1", "::1:9"],
)
def test_what_is_no_address_is_told(address: str) -> None:
    assert refused(address) == f"no Ray cluster can be joined by --address {address}: that is no HOST:PORT"


def test_where_nobody_listens(closed: str) -> None:
    assert refused(closed).startswith(f"no Ray cluster can be joined by --address {closed}: nobody answers there (")


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no Ray"),
        (b"-ERR unknown command 'PRI'\r\n", "no Ray"),
        (SETTINGS + b"\0\0\x30\1\5\0\0\0\1@\x0bgrpc-status\x0212", "no head of a cluster"),
    ],
)
def test_where_somebody_else_listens(says: bytes, why: str) -> None:
    with listening(says) as address:
        assert f"what answers there is {why}" in refused(address)


def test_where_somebody_listens_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_address, "PATIENCE_SECONDS", 0.2)
    with listening(None) as address:
        assert "says nothing within 0.2 s" in refused(address)


@pytest.mark.parametrize("status", [b"\x010", b"\x0216"])
def test_a_head_and_one_that_wants_a_token_are_left_to_ray(status: bytes) -> None:
    with listening(SETTINGS + b"@\x0bgrpc-status" + status) as address:
        check_address(address)


def test_an_encrypted_one_is_only_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with listening(b"") as address:
        check_address(address)


def test_auto_is_what_a_variable_a_node_or_a_file_says(
    nothing_of_ray: Path, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused("auto") == "no Ray cluster can be joined by --address auto: none runs on this machine"
    file = nothing_of_ray / "ray" / "ray_current_cluster"
    file.parent.mkdir()
    file.write_text(closed)
    assert f"--address auto ({file}: {closed}): nobody answers" in refused("auto")
    for number, address in enumerate((closed, "10.0.0.9:1")):
        (nothing_of_ray / str(number)).mkdir()
        (nothing_of_ray / str(number) / "cmdline").write_text(f"/ray/raylet\0--gcs-address={address}\0")
        file.unlink(missing_ok=True)
        if not number:
            assert f"--address auto (a node on this machine: {closed}): nobody answers" in refused("auto")
    check_address("auto")  # of two Ray takes one
    monkeypatch.setenv("RAY_ADDRESS", closed)
    assert f"--address auto (RAY_ADDRESS: {closed}): nobody answers" in refused("auto")
    check_address(None)


def test_every_command_that_takes_an_address_is_known() -> None:
    takes = {name for name, command in leaves(cli) if any("--address" in each.opts for each in command.params)}
    assert takes == TYPED.keys()


@pytest.mark.parametrize("name", TYPED)
def test_every_command_says_that_nobody_answers(
    name: str, closed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEEPSTATE_HOME", str(tmp_path / "home"))
    Path("cell.yaml").write_text("name: one\nadapter: base\nruntime: react\ntasks: {difficulty: mini, count: 1}\n")
    assert run(cli, ["tasks", "generate", "--count", "1", "--out", "tasks"]) == 0
    write_traces(Path("traces/persistent"), [make_trace(0)])
    write_made_cell(Path("run"), "react", RuntimeName.REACT, lambda _: Made(), 1)
    make_tokenizer("chatml", Path())
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    with serving(StubServer()) as stub:
        words = [*name.split(), *TYPED[name].format(url=stub.url).split(), "--engine", "ray", "--address", closed]
        assert run(cli, words) == 2
    told = click.unstyle(capsys.readouterr().err)
    assert f"error: no Ray cluster can be joined by --address {closed}: nobody answers there" in told
    assert re.search(r"^hint:  allowed: .*see: ray status", told, re.MULTILINE)
    assert sorted(tmp_path.rglob("*")) == before
