"""Starting, waiting, failing and ending, with a stub in the place of vLLM."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner
from made_lora import lora_config
from serving_helpers import MakeAdapter, is_running, stubs_below

from keepstate.cli import cli
from keepstate.errors import EXIT_INTERRUPTED, UserError
from keepstate.files import write_json
from keepstate.models.endpoint import use_key_file
from keepstate.serve import ServingPlan, plan_serving, serve
from keepstate.serve import loaded as loaded_module
from keepstate.serve.launch import Starting, serve_all
from keepstate.serve.loaded import _path, loaded_by
from keepstate.serve.ports import HOST
from keepstate.serve.replicas import plan_replicas
from keepstate.train.result import WEIGHTS


def start(planned: ServingPlan) -> UserError:
    """The error of a start that must fail."""
    with pytest.raises(UserError) as caught, serve(planned):
        pass
    return caught.value


def gone(home: Path) -> bool:
    """Whether the stub ends within ten seconds."""
    deadline = time.monotonic() + 10
    while is_running(home) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(home)


@pytest.fixture
def planned(make_adapter: MakeAdapter, stub_home: Path) -> ServingPlan:
    return plan_serving(adapters=[make_adapter(), make_adapter("react")], port=0)


def test_inside_the_block_it_serves_and_afterwards_it_is_gone(planned: ServingPlan, stub_home: Path) -> None:
    stages: list[str] = []
    with serve(planned, on_progress=lambda state: stages.append(state.stage)) as server:
        assert is_running(stub_home)
        assert server.names == ("base", "persistent", "react")
        assert server.base_url == f"http://127.0.0.1:{planned.port}/v1"
        assert server.log.is_relative_to(stub_home)
    assert not is_running(stub_home)
    assert stages[-6:] == [
        *(f"asking {name}" for name in server.names),
        "comparing prompts with training's",
        "comparing adapters with the base",
        "hashing the weights",
    ]
    assert [words for words, _ in server.stages] == list(dict.fromkeys(stages))
    assert sum(seconds for _, seconds in server.stages) == pytest.approx(server.seconds, abs=0.3)


def test_what_a_server_loaded_is_known_while_it_runs(
    planned: ServingPlan, stub_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = planned.adapters[0].folder / WEIGHTS
    weights.write_bytes(b"one")
    with serve(planned) as server:
        weights.write_bytes(b"two")
        monkeypatch.setattr(tempfile, "tempdir", str(stub_home))  # TMPDIR of another shell
        loaded = loaded_by(server.base_url)
        assert loaded is not None
        assert loaded.adapters["persistent"].weights == hashlib.sha256(b"one").hexdigest()
        assert loaded.adapters["react"].config == lora_config()
        assert loaded.base["config"] is not None
        assert loaded.template == hashlib.sha256(planned.template.read_bytes()).hexdigest()
        assert loaded_by(server.base_url.replace("127.0.0.1", "example.org")) is None
        note = _path(planned.port)
        assert note is not None
        (note.parent / "served-1.json").write_text(note.read_text().replace(f'"pid": {loaded.pid}', '"pid": 1'))
        assert loaded_by("http://127.0.0.1:1/v1") is None, "another process than that which was noted"
    assert loaded_by(server.base_url) is None
    with serve(planned):
        assert not (note.parent / "served-1.json").exists(), "what a killed one left is cleared"


def test_a_server_of_which_no_note_can_be_kept_is_served_all_the_same(
    planned: ServingPlan, stub_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded_module, "write_json", lambda path, _: write_json(Path("/proc/none/x"), {}))
    with serve(planned) as server:
        assert loaded_by(server.base_url) is None


def test_an_adapter_written_to_while_it_is_loaded_is_refused(planned: ServingPlan) -> None:
    def write(state: Starting) -> None:
        if state.stage == "asking react":
            (planned.adapters[1].folder / WEIGHTS).write_bytes(b"later")

    with (
        pytest.raises(UserError, match="changed while the server loaded 'react' from it"),
        serve(planned, on_progress=write),
    ):
        pass


def test_an_error_in_the_block_ends_it_too(planned: ServingPlan, stub_home: Path) -> None:
    with pytest.raises(ZeroDivisionError), serve(planned):
        _ = 1 / 0
    assert not is_running(stub_home)


def test_one_that_dies_shows_the_end_of_its_log_and_a_remedy(
    planned: ServingPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB", "dies")
    error = start(planned)
    assert "the memory did not suffice" in error.message
    assert str(planned.log) in error.message
    assert "Available memory on node 0" in error.message
    assert error.hint == "end other programs that use it"


def test_one_that_dies_later_is_noticed(planned: ServingPlan, stub_home: Path) -> None:
    with serve(planned) as server:
        os.kill(int((stub_home / "stub.pid").read_text()), signal.SIGKILL)
        with pytest.raises(UserError, match="vLLM ended with code 137"):
            server.wait()


def test_an_adapter_that_does_not_answer_is_named(
    planned: ServingPlan, stub_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB", "adapter")
    error = start(planned)
    assert "'react' does not answer: 500" in error.message
    assert "shapes cannot be multiplied" in error.message
    assert not is_running(stub_home)


def test_an_adapter_that_answers_as_the_base_is_refused(
    planned: ServingPlan, stub_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB", "react=base")
    error = start(planned)
    assert "'react' answers as the base model does: this adapter changes nothing" in error.message
    assert str(planned.log) in error.hint
    assert not is_running(stub_home)


def test_a_server_that_does_not_tell_log_probabilities_is_refused(
    planned: ServingPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB", "untold")
    assert "does not tell what 'base' makes of a prompt" in start(planned).message


def test_a_server_without_our_lora_code_is_refused(planned: ServingPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB", "plugin")
    assert "the base's answers would be wrong" in start(planned).message


def test_prompts_that_training_did_not_see_are_refused(
    planned: ServingPlan, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenizers import Tokenizer, models

    monkeypatch.setenv("STUB", "prompts")
    words = {"[UNK]": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.save(str(model / "tokenizer.json"))
    assert "not the one that training saw" in start(planned).message


def test_a_port_in_use_is_said_before_anything_starts(make_adapter: MakeAdapter, stub_home: Path) -> None:
    adapter = make_adapter()
    with socket.create_server((HOST, 0)) as held:
        port = held.getsockname()[1]
        error = start(plan_serving(adapters=[adapter], port=port))
    assert f"port {port} of 127.0.0.1 is in use by another program" in error.message
    assert f"--port {port + 1}" in error.hint
    assert not (stub_home / "stub.pid").exists()


def test_a_port_in_use_by_a_server_names_its_models(planned: ServingPlan) -> None:
    with serve(planned):
        assert "by a server of base, persistent, react" in start(planned).message


@contextmanager
def serve_command(adapter: Path, *options: str, defect: str = "") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "keepstate", "serve", "--port", "0", "--lora", str(adapter), *options]
    with subprocess.Popen(command, env=os.environ | {"STUB": defect}, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """What it says, up to the line that holds `words`."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if words in line:
            return said
    raise AssertionError(f"it ended without {words!r}:\n{said}")


@pytest.mark.parametrize(
    ("defect", "words", "replicas", "number"),
    [
        ("", "Ctrl-C ends it", 1, signal.SIGINT),
        ("silent", "starting the engine", 1, signal.SIGINT),
        ("", "stands for all 2", 2, signal.SIGINT),
        ("silent", "starting the engine", 2, signal.SIGINT),
        ("", "Ctrl-C ends it", 1, signal.SIGTERM),
        ("silent", "starting the engine", 2, signal.SIGTERM),
    ],
)
def test_ctrl_c_and_sigterm_end_it_with_130(
    defect: str, words: str, replicas: int, number: signal.Signals, make_adapter: MakeAdapter, stub_home: Path
) -> None:
    with serve_command(make_adapter(), "--replicas", str(replicas), defect=defect) as process:
        said = read_until(process, words)
        stubs = stubs_below(process.pid)
        assert len(stubs) == replicas, said
        process.send_signal(number)
        assert process.wait(20) == EXIT_INTERRUPTED, said
    assert not [pid for pid in stubs if Path(f"/proc/{pid}").exists()]


def test_the_check_asks_every_replica(planned: ServingPlan) -> None:
    with serve_all(plan_replicas(planned, 2, any_port=True)) as servers:
        first, second = (server.base_url for server in servers)
        told = json.loads(CliRunner().invoke(cli, ["serve", "check", first, "--json"]).stdout)
    standings = {row["topic"]: row["standing"] for row in told}
    assert standings[f"{first} react: applied"] == standings[f"{second} react: applied"] == "ok"


def test_nothing_outlives_a_killed_command(make_adapter: MakeAdapter, stub_home: Path) -> None:
    with serve_command(make_adapter()) as process:
        read_until(process, "serves base, persistent")
        process.kill()
    assert gone(stub_home)


def test_a_key_is_asked_of_everybody_and_shown_to_nobody(
    make_adapter: MakeAdapter, stub_home: Path, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("sesame\n")
    with serve_command(make_adapter(), "--api-key-file", str(tmp_path / "key")) as process:
        said = read_until(process, "Ctrl-C ends it")
        url = said.split(" serves ")[0].split()[-1]
        stub = int((stub_home / "stub.pid").read_text())
        shown = said + "".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in (process.pid, stub))
        shown += Path(said.split("its log: ")[1].strip()).read_text()
        assert "sesame" not in shown
        assert httpx2.get(f"{url}/models", trust_env=False).status_code == 401
        asked = [sys.executable, "-m", "keepstate", "serve", "check", url]
        refused = subprocess.run(asked, capture_output=True, text=True, check=False)
        assert (refused.returncode, "refuses access" in refused.stderr) == (2, True)
        asked += ["--json", "--api-key-file", str(tmp_path / "key")]
        told = json.loads(subprocess.run(asked, capture_output=True, text=True, check=False).stdout)
        assert {"topic": "persistent: weights", "standing": "ok"}.items() <= told[-2].items()


def test_on_every_address_with_a_key_alone(make_adapter: MakeAdapter, stub_home: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sesame\n")
    adapter = make_adapter()
    with serve_command(adapter, "--host", "0.0.0.0") as process:
        assert process.wait(20) == 2
        assert process.stderr
        assert "--api-key-file" in process.stderr.read()
    with serve_command(adapter, "--host", "0.0.0.0", "--api-key-file", str(tmp_path / "key")) as process:
        said = read_until(process, "Ctrl-C ends it")
        url = said.split(" serves ")[0].split()[-1].replace("127.0.0.1", "127.0.0.2")
        assert httpx2.get(f"{url}/models", trust_env=False).status_code == 401
        key = {"Authorization": "Bearer sesame"}
        assert httpx2.get(f"{url}/models", trust_env=False, headers=key).status_code == 200
    with serve_command(adapter, "--host", "192.0.2.1", "--port", "8123", "--api-key-file", str(tmp_path / "key")) as no:
        assert no.wait(20) == 2
        assert no.stderr
        assert "no server can listen on 192.0.2.1" in no.stderr.read()


@pytest.mark.parametrize("text", [None, "", "two words"])
def test_a_file_that_holds_no_key_is_refused(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "key").write_text(text)
    with pytest.raises(UserError, match=r"cannot be read|a key is one"):
        use_key_file(tmp_path / "key")


def test_dry_run_prints_a_command_for_a_shell(make_adapter: MakeAdapter, stub_home: Path) -> None:
    command = [sys.executable, "-m", "keepstate", "serve", "--dry-run", "--lora", str(make_adapter())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shown = subprocess.run(["sh", "-c", f"printf '%s\\n' {done.stdout}"], capture_output=True, text=True, check=True)
    words = shown.stdout.splitlines()
    assert words[words.index("--default-chat-template-kwargs") + 1] == '{"enable_thinking": false}'
    assert "VLLM_NO_USAGE_STATS=1" in words
    assert not (stub_home / "stub.pid").exists()
