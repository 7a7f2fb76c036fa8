"""The study's script: what it trains and plays, what it carries between machines, what it says of made results."""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from made_results import Made, write_made_cell

from keepstate.errors import UserError
from keepstate.machine import Gpu
from keepstate.places import SHIPPED
from keepstate.train.axolotl_config import checked
from keepstate.train.result import DONE, WEIGHTS, TrainedAdapter
from keepstate.train.trained_for import TrainedFor
from keepstate.vocabulary import RuntimeName

sys.path.insert(0, str(SHIPPED / "benchmarks" / "gpu"))

import study
import study_commands
import study_packing
import study_play
import study_results
import study_second_round
from study_sizes import ARMS, RUN, SECOND, SIZES, size_of

PERSISTENT, FORGET, REACT = RuntimeName
SIZE = SIZES["tiny"]
OF = {"persistent": (PERSISTENT,), "forget": (FORGET,), "react": (REACT,), "mixed": (PERSISTENT, FORGET)}


@pytest.mark.parametrize("name", SIZES)
def test_adapters_are_trained_alike_by_keys_that_axolotl_reads(name: str) -> None:
    configs = {arm: checked(yaml.safe_load(SIZES[name].config(arm)), arm) for arm in ARMS}
    own = {"datasets", "dataset_prepared_path", "output_dir"}
    common = [{key: value for key, value in config.items() if key not in own} for config in configs.values()]
    assert common == common[:1] * len(common)
    assert common[0]["sequence_len"] == SIZES[name].context


def given(words: list[str], option: str) -> list[str]:
    return [words[i + 1] for i, word in enumerate(words) if word == option]


def test_cells_are_played_in_the_registered_order() -> None:
    size = SIZES["full"]
    groups = [[match.name for match in group] for group in study_play.groups(size)]
    trained = [
        [f"play-trained-{tasks}-calls{cap}-seed{seed}" for seed in (0, 1, 2) for tasks in ("easy", "medium")]
        for cap in (25, 80)
    ]
    last = [*(f"play-base-{tasks}-calls{cap}" for cap in (25, 80) for tasks in ("easy", "medium")), "play-draws"]
    assert groups == [*trained, last]


def test_servers_have_an_adapter_of_each_arm_and_their_places_are_shared() -> None:
    size = SIZES["full"]
    first, _, last = (study_play.commands(size, 8000, group) for group in study_play.groups(size))
    words = {name: list(map(str, each)) for name, each in (first | last).items()}
    of_two = words["play-trained-medium-calls25-seed2"]
    assert given(of_two, "--adapter") == [f"{arm}-seed2" for arm in ARMS]
    assert given(of_two, "--base-url") == ["http://127.0.0.1:8002/v1"]
    assert given(words["play-draws"], "--base-url") == ["http://127.0.0.1:8000/v1"]
    assert given(words["play-draws"], "--adapter") == [f"{arm}-seed0" for arm in ARMS]
    for group in (first, last):
        at: dict[str, int] = {}
        for name in group:
            (url,), (places,) = given(words[name], "--base-url"), given(words[name], "--concurrency")
            at[url] = at.get(url, 0) + int(places)
        assert all(400 < places <= size.concurrency for places in at.values())


def test_servers_on_one_gpu_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    size = SIZES["full"]
    monkeypatch.setattr(study_play.machine, "visible_gpus", lambda: (Gpu("H", 80.0, "1"),))
    monkeypatch.setattr(study_play.basemodel, "ensure_base_model", lambda: Path("m"))
    alone, shared = (list(map(str, study_play.serve_words(size, ["a"], Path("f"), 1, of=of))) for of in (1, 3))
    assert "--gpu-memory" not in alone
    (cache,) = given(shared, "--vllm-arg")
    held = 3 * (int(cache.removeprefix("kv-cache-memory-bytes=")) / 2**30 + study_play.BESIDE_CACHE_GIB)
    assert 50 < held <= 3 * 80 * float(given(shared, "--gpu-memory")[0]) < 80


@pytest.mark.parametrize("only", [None, "base", "trained"])
def test_the_base_is_played_without_waiting_for_a_training(
    only: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_play.basemodel, "ensure_base_model", lambda: Path("m"))
    made = study.Study(tmp_path, "navigation", size_of("full", "navigation"), budget=9, port=1)
    made.commands, made.only = Recorded(tmp_path, budget=9), only
    made.play()
    assert made.commands.ran == [
        *(["play-trained-easy-calls25-seed0"] if only != "base" else []),
        *(["play-base-easy-calls25"] if only != "trained" else []),
    ]
    (served,) = made.commands.started.values()
    assert served.count("--lora") == (0 if only == "base" else len(ARMS))


def test_what_was_played_under_a_wider_cap_alone_is_replayed_under_the_lowest(tmp_path: Path) -> None:
    made = study.Study(tmp_path, "knapsack", SIZE, budget=9, port=1)
    made.commands = commands = Recorded(tmp_path, budget=9)
    for cell in ("base-react-mini-temperature0", "base-react-mini-calls80-temperature0"):
        (tmp_path / "runs" / RUN / cell).mkdir(parents=True)
    made.replay()
    words = {name: list(map(str, each)) for name, each in commands.said.items()}
    assert words["replay"][2] == f"runs/{RUN}"
    assert words["exposure"][2:4] == [f"runs/{RUN}/base-react-mini-calls80-temperature0", "--json"]
    assert set(words) == {"replay", "exposure"}


def test_the_budget_stops_before_anything_is_started(tmp_path: Path) -> None:
    made = study.Study(tmp_path, "knapsack", SIZES["tiny"], budget=-1, port=1)
    with pytest.raises(study.Spent):
        made.run(["tasks"])
    assert not (tmp_path / "logs").exists()


def test_a_command_that_the_budget_cuts_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_commands, "KEEPSTATE", ["sleep"])
    made = study_commands.Commands(tmp_path, budget=0.3)
    with pytest.raises(study.Spent):
        made.run({"short": ["0"], "long": ["60"], "never": ["60"]}, at_once=2)
    notes = [json.loads(line) for line in (tmp_path / "commands.jsonl").read_text().splitlines()]
    assert {note["name"]: note["code"] for note in notes}.items() >= {"long": study.SPENT}.items()


def test_only_a_training_that_is_stopped_has_the_time_to_save_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = """
        if [ $0 = wait ]; then until [ -e train ] && [ -e bench ]; do sleep .05; done; exit; fi
        trap "sleep 1; touch $0-saved; exit" TERM; touch $0; while :; do sleep .05; done
    """
    monkeypatch.setattr(study_commands, "KEEPSTATE", ["sh", "-c", script])
    monkeypatch.setattr(study_commands, "GRACE_SECONDS", 0.2)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    made = study_commands.Commands(tmp_path, budget=60)
    with pytest.raises(KeyboardInterrupt):
        made.run({"react-seed0": ["train"], "cells": ["bench"], "both": ["wait"]}, at_once=3, ended=interrupt)
    assert (tmp_path / "train-saved").exists()
    assert not (tmp_path / "bench-saved").exists()
    assert capsys.readouterr().err.count("stopping") == 1


def test_a_failed_command_is_told_with_its_log_after_the_others_have_ended(tmp_path: Path) -> None:
    made, ended = study_commands.Commands(tmp_path, budget=60), []
    with pytest.raises(UserError, match="bad ended with code 2") as failed:
        made.run(
            {"bad": ["no-such-command"], "good": ["--version"]},
            at_once=2,
            ended=lambda name, code: ended.append((name, code)),
        )
    assert ended == [("good", 0)]
    assert Path(failed.value.hint.removeprefix("what it said: ")).read_text()
    codes = {
        note["name"]: note["code"] for note in map(json.loads, (tmp_path / "commands.jsonl").read_text().splitlines())
    }
    assert codes == {"bad": 2, "good": 0}


def test_a_folder_without_archives_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["study.py", "none", "--folder", str(tmp_path / "a"), "--unpack", str(tmp_path)])
    assert study.main() == 2
    assert "holds no study-" in capsys.readouterr().err


def test_two_sizes_are_not_mixed(tmp_path: Path) -> None:
    study.Study(tmp_path, "knapsack", SIZES["tiny"], budget=9, port=1).run([])
    with pytest.raises(UserError, match="traces 6 -> 1000"):
        study.Study(tmp_path, "knapsack", SIZES["full"], budget=9, port=1).run([])


def written(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != study_packing.NOTE
    }


def test_what_is_new_is_packed_once_and_unpacked_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, out, there = tmp_path / "here", tmp_path / "out", tmp_path / "there"
    for name in ("runs/a/x.json", "adapters/p/checkpoint-2/w", "adapters/p/prepared/d", "adapters/p/w.safetensors"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(name)
    monkeypatch.setattr(study_packing, "MOST", 1)
    monkeypatch.setattr(study_packing, "PART", 24)  # the weights' 24 bytes fill one by themselves
    monkeypatch.setattr(study_packing, "_too_large", lambda _: False)
    study_packing.pack(here, out)
    (here / "runs/a/x.json").write_text("played again")
    for _ in range(3):
        study_packing.pack(here, out)
    study_packing.unpack(out, there)
    assert written(there) == {"runs/a/x.json": "played again", "adapters/p/w.safetensors": "adapters/p/w.safetensors"}
    assert not study_packing.pack(there, tmp_path / "nothing")


def test_weights_are_rounded_to_the_nearest_bf16(tmp_path: Path) -> None:
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8 + 2**-20), 3.0e-41, 65504.0], "<f4")
    header = {"__metadata__": {"format": "pt"}, "b": {"dtype": "BF16", "shape": [1], "data_offsets": [24, 26]}}
    header["a"] = {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}
    text = json.dumps(header).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + values.tobytes() + b"\x12\x34")
    study_packing.round_weights(path)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    found, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    assert length % 8 == 0
    assert found["__metadata__"] == header["__metadata__"]
    begin, end = found["a"]["data_offsets"]
    stored = (np.frombuffer(body[begin:end], "<u2").astype("<u4") << 16).view("<f4")
    assert stored.tolist() == [1.0, 1.0, 1 + 2**-6, -(1 + 2**-7), pytest.approx(3.0e-41, rel=0.01), 65536.0]
    assert body[slice(*found["b"]["data_offsets"])] == b"\x12\x34"
    study_packing.round_weights(path)
    assert path.read_bytes() == raw


def made_study(folder: Path, *, turned: bool = False, best: float = 0.95) -> None:
    """Two trainings; the persistent adapter loses in forget, or in one of them does not: `turned`."""
    for seed, (arm, of), runtime in product((0, 1), OF.items(), RuntimeName):
        trained = TrainedFor(runtimes=of, training=f"{len(arm):064x}", seed=seed)
        if runtime not in trained.playable:
            continue
        lost = runtime not in of and arm == "persistent" and not (turned and seed)
        made = Made(best - 0.5 if lost else best, prompt=2000 if arm == "forget" else 1000)
        write_made_cell(
            folder / "runs" / RUN,
            f"{arm}-seed{seed}",
            runtime,
            lambda _, made=made: made,
            16,
            trained_for=trained,
            sampling={"temperature": 0},
        )
    for name in ARMS:
        (folder / "configs").mkdir(exist_ok=True)
        (folder / "configs" / f"{name}.yaml").write_text("made: true\n")
    (folder / "commands.jsonl").write_text(
        "".join(
            json.dumps({"stage": "play", "name": name, "seconds": seconds, "command": f"{folder}/adapters/a"}) + "\n"
            for name, seconds in (
                (study_commands.ALL_OF_IT, 90.0),
                ("serve-0", 30.0),
                ("play-trained-mini-calls25-seed0", 60.0),
                ("play-trained-mini-calls25-seed1", 55.0),
                (study_commands.PLAYED, 60.0),
            )
        )
    )


@pytest.mark.parametrize("turned", [False, True])
def test_an_effect_is_shown_only_if_every_training_has_its_sign(turned: bool, tmp_path: Path) -> None:
    made_study(tmp_path / "study", turned=turned)
    study_results.write_results(tmp_path / "study", tmp_path / "results", "knapsack", SIZE)
    page = (tmp_path / "results" / "README.md").read_text()
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    found = {(row[0], row[1]): row for row in rows if len(row) == 9}
    lost, chosen, restated = (found["mini", name] for name in "GMQ")
    assert lost[2] == "16"
    assert lost[3].startswith("25.0 [" if turned else "50.0 [")
    assert lost[4] == ("50.0, 0.0" if turned else "50.0, 50.0")
    assert lost[6] == ("no" if turned else "yes")
    assert chosen[3].startswith("-2" if turned else "-5")
    assert restated[3].startswith("0.0")
    assert restated[6] == "no"
    assert restated[8].startswith("1.91")  # (6,300 tokens over 3,300)
    assert "Primary comparisons (cap 25, Holm over 3)" in page
    assert "| play | 90 |" in page
    assert f"{14 * 16} episodes graded, {14 * 16} a minute" in page
    assert not [path for path in (tmp_path / "results").rglob("*.jsonl") if str(tmp_path) in path.read_text()]
    assert set(json.loads((tmp_path / "results" / "hashes.json").read_text())["cells"]) == {
        path.name for path in (tmp_path / "study" / "runs" / RUN).iterdir()
    }


def test_adapters_below_the_floor_carry_no_claim(tmp_path: Path) -> None:
    made_study(tmp_path / "study", best=0.6)
    study_results.write_results(tmp_path / "study", tmp_path / "results", "knapsack", SIZE)
    assert "| yes |" not in (tmp_path / "results" / "README.md").read_text()


def test_nothing_that_was_played_is_above_no_floor() -> None:
    assert not study_results._plays({(SIZE.trained_on, arm): {} for arm in study_results.LEARNT}, SIZE)


def test_a_training_with_a_cell_that_was_not_played_whole_is_left_out(tmp_path: Path) -> None:
    made_study(tmp_path / "study")
    cell = next(iter((tmp_path / "study" / "runs" / RUN).glob("mixed-seed1-forget-*")))
    next(cell.glob("*-00003.trace.json")).unlink()
    study_results.write_results(tmp_path / "study", tmp_path / "results", "knapsack", SIZE)
    page = (tmp_path / "results" / "README.md").read_text()
    assert "1 trainings (0)" in page
    assert "| yes |" not in page


def test_the_second_round_compares_an_adapter_with_its_teacher_by_task(tmp_path: Path) -> None:
    teacher, pupil = study_second_round.TEACHER, study_second_round.PUPIL
    made_study(tmp_path / "study")
    assert study_second_round.second_round_lines(tmp_path / "study") == []
    made = study.Study(tmp_path / "study", "knapsack", SIZE, budget=9, port=1)
    made.target = tmp_path / "results"
    for name, score in ((teacher, 0.7), (pupil, 0.9)):
        write_made_cell(tmp_path / "study" / "runs" / SECOND, name, PERSISTENT, lambda _, score=score: Made(score), 16)
    (tmp_path / "study" / SECOND).mkdir()
    made.results()
    assert "(../results-second-round/README.md)" in (tmp_path / "results" / "README.md").read_text()
    page = (tmp_path / "results-second-round" / "README.md").read_text()
    assert f"{pupil} less {teacher}, 16 tasks: 20.0 [" in page


@pytest.mark.parametrize("chosen", [True, False])
def test_a_second_round_that_was_cut_does_not_say_that_no_episode_was_good(chosen: bool, tmp_path: Path) -> None:
    write_made_cell(tmp_path / SECOND / "traces", "a", PERSISTENT, lambda _: Made(1.0), 3)
    names = ["collect-second-round", *([study_second_round.CHOOSING] if chosen else [])]
    (tmp_path / study_commands.NOTES).write_text("".join(json.dumps({"name": name}) + "\n" for name in names))
    said = " ".join(study_second_round.second_round_lines(tmp_path))
    assert ("0 of 3 episodes" in said) == chosen
    assert ("Cut: " in said) != chosen


@pytest.mark.parametrize(("good", "trained"), [(2, True), (1, False)])
def test_a_second_round_learns_as_long_as_the_first_from_enough_good_episodes(
    good: int, trained: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = TrainedAdapter(
        key="k", name="persistent", trained_for=TrainedFor(runtimes=(PERSISTENT,), training="0" * 64, seed=0),
        base_model="m", data_sha256="d", template_sha256="t", steps=84, first_loss=1.0, final_loss=0.5, seconds=1.0,
        tokens=9, peak_gib=0.0,
    )  # fmt: skip
    place = tmp_path / "adapters" / study_second_round.TEACHER
    place.mkdir(parents=True)
    (place / DONE).write_text(first.model_dump_json())
    (place / WEIGHTS).write_bytes(b"")
    rows = tmp_path / SECOND / "datasets" / "persistent" / "train.jsonl"
    rows.parent.mkdir(parents=True)
    rows.write_text("{}\n" * good)
    monkeypatch.setattr(study_second_round, "serve_words", lambda *_: [])
    monkeypatch.setattr(study_commands.basemodel, "ensure_base_model", lambda: Path("m"))
    monkeypatch.setattr(study_second_round, "round_weights", lambda _: None)
    made = Recorded(tmp_path, budget=9)
    study_second_round.second_round(made, replace(SIZE, least_kept=2), 1)
    assert (study_second_round.PUPIL in made.ran) == trained
    assert ("play-second-round" in made.ran) == trained
    if trained:
        assert yaml.safe_load((tmp_path / SECOND / "configs" / "persistent.yaml").read_text())["max_steps"] == 84


def test_a_second_round_without_a_first_trains_its_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_commands.basemodel, "ensure_base_model", lambda: Path("m"))
    monkeypatch.setattr(study_second_round, "round_weights", lambda _: None)
    monkeypatch.setattr(study_second_round, "read_done", lambda _: None)
    made = Recorded(tmp_path, budget=9)
    study_second_round._trained(made, SIZE, study_second_round.TEACHER)
    assert made.ran == [study_second_round.TEACHER]
    assert (tmp_path / "configs" / "persistent.yaml").read_text() == SIZE.config("persistent")


class Recorded(study_commands.Commands):
    """Runs nothing."""

    def __init__(self, folder: Path, *, budget: float) -> None:
        super().__init__(folder, budget=budget)
        self.said: dict[str, Sequence[Any]] = {}
        self.started: dict[str, Sequence[Any]] = {}

    @property
    def ran(self) -> list[str]:
        return list(self.said)

    def run(self, commands: Mapping[str, Sequence[Any]], **_: Any) -> int:
        self.said |= commands
        return 0

    def served(self, servers: Mapping[str, Sequence[Any]]) -> AbstractContextManager[None]:
        self.started |= servers
        return nullcontext()
