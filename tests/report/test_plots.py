"""Drawings: their axes, their marks, and the losses of the adapters that played."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from made_results import Made, write_made_cell

from keepstate.drawing import COLOURS, STYLE, Picture, Scale, scale_to, stacked, text
from keepstate.report import build_report
from keepstate.report.plots import PLOTS
from keepstate.train.result import DONE, WEIGHTS, TrainedAdapter
from keepstate.train.trained_for import TrainedFor
from keepstate.vocabulary import RuntimeName

PERSISTENT, FORGET, _ = RuntimeName


@pytest.mark.parametrize(
    ("most", "end", "ticks"),
    [
        (4_509, 5_000, 6),
        (1.0, 1.0, 6),
        (0.0, 1.0, 6),
        (23, 25, 6),
        (0.0234, 0.025, 6),
        (100, 100, 6),
        (7_000_001, 8e6, 5),
    ],
)
def test_an_axis_ends_at_a_round_value_that_nothing_exceeds(most: float, end: float, ticks: int) -> None:
    scale = scale_to(most)
    assert scale.high == pytest.approx(end)
    assert len(scale.ticks()) == ticks
    assert scale.ticks()[-1] == pytest.approx(end)
    assert Scale(5, 5)(5) == Scale(5, 5).start, "one value alone divides by nothing"


def test_words_of_others_are_words_and_cut_where_there_is_no_room() -> None:
    drawing = Picture('"><script>', 20, text(0, 0, "<b>&", room=400) + text(0, 10, "x" * 99, room=66))
    root = ET.fromstring(drawing.document())
    assert [*root.itertext()][1:3] == ["<b>&", "xxxxxxxxx…"]
    assert root.find(".//{*}title").text == "x" * 99  # type: ignore[union-attr]
    assert stacked([drawing, drawing]).height == 40


def test_every_colour_of_the_style_is_there_alone_and_none_is_left_open() -> None:
    assert set(re.findall(r"var\(--([\w-]+)\)", STYLE)) == set(COLOURS)
    assert "var(" not in Picture("", 1, "").document()


def test_numbered_marks_hide_none(tmp_path: Path) -> None:
    for adapter in ("base", "persistent", "forget"):
        for runtime in (PERSISTENT, FORGET):
            write_made_cell(tmp_path, adapter, runtime, lambda _: Made(0.0), 2)
    report = build_report(tmp_path)
    root = ET.fromstring((tmp_path / "report/tokens-optimality.svg").read_text())
    places = [group.get("transform") for group in root.findall(".//{*}g") if group.find("{*}circle") is not None]
    assert len(set(places)) == 6
    assert all((picture := plot.draw(report.groups[0])) and picture.marks.count("→") >= 6 for plot in PLOTS)


def test_what_nobody_counted_is_not_drawn(tmp_path: Path) -> None:
    write_made_cell(tmp_path, "base", PERSISTENT, lambda _: Made(0.5, prompt=None), 2)
    build_report(tmp_path)
    assert {path.stem for path in (tmp_path / "report").glob("*.svg")} == {"optimality", "turns"}
    assert (tmp_path / "report/index.html").read_text().count("<svg") == 2
    assert "tokens.svg" not in (tmp_path / "report/report.md").read_text()


def test_losses_are_those_of_the_very_training_that_played(tmp_path: Path) -> None:
    trained = TrainedFor(runtimes=(FORGET,), training="a" * 64, seed=1)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / WEIGHTS).touch()
    lines = [{"event": "begin", "step": 0, "steps": 2}]
    lines += [{"event": "log", "step": step, "steps": 2, "loss": 3 / step, "seconds": step} for step in (1, 2)]
    (folder / "progress.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def told(seed: int) -> str:
        card = TrainedAdapter(
            key="k",
            name="forget",
            trained_for=trained.model_copy(update={"seed": seed}),
            base_model="m",
            data_sha256="",
            template_sha256="",
            steps=2,
            first_loss=3.0,
            final_loss=1.5,
            seconds=2.0,
            tokens=1,
            peak_gib=0.0,
        )
        (folder / DONE).write_text(card.model_dump_json())
        write_made_cell(
            tmp_path / "run", "forget", FORGET, lambda _: Made(), 2, trained_for=trained, served={"root": str(folder)}
        )
        build_report(tmp_path / "run")
        return (tmp_path / "run/report/index.html").read_text()

    source = told(1)
    assert "Loss of forget by step" in source
    assert "last 1.500" in (tmp_path / "run/report/losses.svg").read_text()
    other = told(2)
    assert "Loss of forget" not in other, "another training lies there now"
    assert f"forget: {folder}" in other
