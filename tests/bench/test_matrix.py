"""What `bench matrix` plays: whatever a server serves, wherever its card allows."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from stub_server import StubServer, serving

from keepstate.bench.results import read_results
from keepstate.bench.served import served_adapters
from keepstate.cli import bench as commands
from keepstate.errors import UserError
from keepstate.files import write_json
from keepstate.train.result import DONE, WEIGHTS
from keepstate.train.trained_for import TrainedFor
from keepstate.vocabulary import RuntimeName

PERSISTENT, FORGET, REACT = RuntimeName
CARD = {
    "key": "0", "base_model": "b", "data_sha256": "0", "template_sha256": "0", "steps": 1, "first_loss": None,
    "final_loss": None, "seconds": 1.0, "tokens": 1, "peak_gib": 0.0,
}  # fmt: skip


@dataclass
class Folders(StubServer):
    """Its adapters lie in folders that can be read."""

    folders: dict[str, Path] = field(default_factory=dict)

    def card(self, name: str) -> dict[str, Any]:
        return super().card(name) | {"root": str(self.folders.get(name, f"/nowhere/{name}"))}


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """A mixed adapter, one of an earlier version, a checkpoint, and one of another origin."""
    made = {
        "both": tmp_path / "both",
        "earlier": tmp_path / "earlier",
        "step-20": tmp_path / "training" / "checkpoint-20",
        "theirs": tmp_path / "theirs",
    }
    for folder in made.values():
        folder.mkdir(parents=True)
        (folder / WEIGHTS).write_bytes(b"one")
    write_json(made["both"] / DONE, CARD | {"name": "mixed", "trained_for": {"runtimes": ["persistent", "forget"]}})
    write_json(made["earlier"] / DONE, CARD | {"runtime": "react"})
    decisive = {"runtime": "forget", "seed": 3, "data": "d"}
    write_json(tmp_path / "training/keepstate-run.json", {"schema": "s", "digest": "", "decisive": decisive})
    return made


async def test_cards_tell_what_is_played(folders: dict[str, Path]) -> None:
    with serving(Folders(models=("base", *folders, "persistent"), folders=folders)) as stub:
        told = await served_adapters(stub.url)
        assert list(told) == ["base", *folders, "persistent"]
        assert {name: of.runtimes if of else None for name, of in told.items()} == {
            "base": (),
            "both": (PERSISTENT, FORGET),
            "earlier": (REACT,),
            "step-20": (FORGET,),
            "theirs": None,
            "persistent": (PERSISTENT,),
        }
        assert told["step-20"] is not None
        assert told["step-20"].seed == 3
        assert list(await served_adapters(stub.url, ["theirs"])) == ["theirs"]
        with pytest.raises(UserError, match=r"does not serve 'mine'; it serves: base, both"):
            await served_adapters(stub.url, ["mine"])


def test_checkpoints_of_one_training_are_no_seeds_of_each_other(tmp_path: Path, folders: dict[str, Path]) -> None:
    from keepstate.train.result import told_by_folder

    other = tmp_path / "training/checkpoint-40"
    first, second = told_by_folder(folders["step-20"]), told_by_folder(other)
    assert first is not None
    assert second is not None
    assert first.training != second.training
    record = tmp_path / "again/keepstate-run.json"
    write_json(record, {"decisive": {"runtime": "forget", "seed": 4, "data": "d"}})
    again = told_by_folder(tmp_path / "again/checkpoint-20")
    assert again == TrainedFor(runtimes=(FORGET,), training=first.training, seed=4)
    assert told_by_folder(folders["theirs"]) is None


async def test_a_base_under_its_own_name_is_the_base(tmp_path: Path) -> None:
    class Renamed(StubServer):
        def card(self, name: str) -> dict[str, Any]:
            return super().card(name) | ({"parent": None} if name == "org/model" else {"parent": "org/model"})

    with serving(Renamed(models=("org/model", "mine"))) as stub:
        told = await served_adapters(stub.url)
    assert told == {"org/model": TrainedFor(runtimes=()), "mine": None}


def test_the_command_plays_what_is_served_and_picked(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(Folders(models=("base", "earlier", "theirs"), folders=folders)) as stub:
        arguments = ["matrix", "--difficulty", "mini", "--rules", "paper", "--count", "1", "--base-url", stub.url]
        result = CliRunner().invoke(commands.command, [*arguments, "--cells", "*:react"])
        assert result.exit_code == 0, result.output
        assert "what it was trained for is not told, so every runtime is played: theirs" in result.stderr
    cells = {cell.name: cell for cell in read_results(tmp_path / "runs/matrix")}
    assert list(cells) == ["base-react-mini", "earlier-react-mini", "theirs-react-mini"]
    assert [cell.fit for cell in cells.values()] == ["base", "matched", "unknown"]
    names = {path.name for path in (tmp_path / "runs/matrix").glob("*/*.trace.json")}
    assert names == {"knapsack-mini-paper-s123456789-00000.trace.json"}
    result = CliRunner().invoke(commands.command, ["matrix", "--tasks", str(tmp_path), "--rules", "paper"])
    assert "--rules belongs to --difficulty" in result.stderr


def test_a_sweep_is_cells_named_after_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names are the same in every sweep, so a smaller one goes on with a part of a larger one."""
    monkeypatch.chdir(tmp_path)
    Path("cell.yaml").write_text("{name: mine, adapter: base, runtime: react, tasks: {difficulty: mini, count: 1}}")
    with serving(StubServer(models=("base",))) as stub:
        arguments = ["run", "cell.yaml", "--base-url", stub.url, "--temperature", "0,0.2"]
        made = CliRunner().invoke(commands.command, [*arguments, "--seeds", "0,1"])
        assert made.exit_code == 0, made.output
        written = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*.trace.json")}
        again = CliRunner().invoke(commands.command, [*arguments[:-1], "0", "--seed", "1"])
        assert again.exit_code == 0, again.output
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*.trace.json")} == written
    cells = {cell.name: cell for cell in read_results(Path("runs/bench"))}
    assert set(cells) == {"mine", "mine-seed1", "mine-temperature0", "mine-temperature0-seed1"}
    last = cells["mine-temperature0-seed1"].config
    assert (last["seed"], last["sampling"]["temperature"], last["limits"]["tool_calls"]) == (1, 0.0, 25)


@pytest.mark.parametrize(
    ("option", "value"), [("--seeds", "0,x"), ("--tool-calls", "25,0"), ("--temperature", "0,nan")]
)
def test_no_value_of_a_sweep_is_a_bad_one(option: str, value: str) -> None:
    result = CliRunner().invoke(commands.command, ["matrix", "--difficulty", "mini", option, value])
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.stderr.replace("'--seeds' / '--seed'", "'--seeds'")
