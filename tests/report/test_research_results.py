"""Result folders of the research code in a report: cells, published figures, and the contrasts of its successor."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from keepstate.bench.research_results import research_cells
from keepstate.bench.results import read_results
from keepstate.cli import cli
from keepstate.files import parse_json
from keepstate.report import build_report
from keepstate.vocabulary import RuntimeName

NOTE = {"P": "Globals persist eternally.", "S": "Python variables DO NOT persist across code blocks."}
CONFIG = """\
run_name: {name}
agents:
- name: {name}
  max_turns: 40
  timeout_s: 3000.0
  max_tool_calls: {cap}
  persistent_state: {keeps}
  {more}
  llm: {{model: openai/adapter, temperature: 0.2, seed: 7}}
"""


def write_episode(folder: Path, task: int, note: str, score: float, codes: list[str], error: str | None = None) -> None:
    def event(kind: str, **data: Any) -> dict[str, Any]:
        return {"type": kind, "data": data}

    usage = {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100}
    ran = [{"success": True, "result": None, "output": "", "error": error if turn == 1 else None} for turn in (0, 1)]
    goal, prompts = f"Choose items of task {task}.", ["Act by code.", note]
    steps = [
        event("StepEvent", turn=turn, assistant_text="x", code=code, interpreter_result=ran[turn], token_usage=usage)
        for turn, code in enumerate(codes)
    ]
    events = [event("StartEvent", task=goal), event("SystemPromptEvent", prompts=prompts), *steps]
    total = {key: count * len(codes) for key, count in usage.items()}
    summary = {"task": goal, "system_prompts": prompts, "num_steps": len(codes), "token_usage": total}
    trace = {"summary": summary, "events": [*events, event("FinishEvent", reason="finish_tool")]}
    trace |= {"started_at": "2026-01-05T10:00:00", "finished_at": "2026-01-05T10:00:30"}
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"knapsack-knapsack-{task:010d}"
    (folder / f"{stem}.trace.json").write_text(json.dumps(trace))
    metrics = {"weight_used": 40, "capacity": 50, "inspected_count": 9}
    result = {"is_solved": score == 1, "score": score, "metrics": metrics}
    verdict = {"status": "completed", "error": None, "result": result, "started_at": 1.0, "finished_at": 31.0}
    (folder / f"{stem}.json").write_text(json.dumps(verdict))


SCORES = {
    "PP_cap25": 0.9,
    "PS_cap25": 0.1,
    "SP_cap25": 0.6,
    "SS_cap25": 0.5,
    "PP_cap80": 0.9,
    "PS_cap80": 0.7,
    "SP_cap80": 0.6,
    "SS_cap80": 0.6,
    "PSckpt_cap25": 0.3,
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cells of a sweep as its benchmark writes them: eight tasks each."""
    root = tmp_path_factory.mktemp("sweep")
    for name, score in SCORES.items():
        top = root / name / name
        folder = top / "results" / name / "knapsack"
        for task in range(8):
            cut = "Tool call limit exceeded: allowed 25 per run." if name == "PS_cap25" else None
            write_episode(folder, task, NOTE[name[1]], score, ["import json\na = 1", "import json\nprint(a)"], cut)
        more = "state_carryover_on_cap: true" if "ckpt" in name else "agent_type: codeact"
        told = CONFIG.format(name=name, cap=name[-2:], keeps=str(name[1] == "P").lower(), more=more)
        (top / "config.yaml").write_text(told)
    return root


def test_result_folders_are_cells(sweep: Path) -> None:
    cells = {cell.name: cell for cell in read_results(sweep)}
    assert set(cells) == set(SCORES)
    mixed = cells["PS_cap25"]
    assert (mixed.adapter, mixed.runtime, len(mixed.episodes)) == ("persistent", RuntimeName.FORGET, 8)
    assert (mixed.config["limits"], mixed.config["seed"]) == ({"turns": 40, "seconds": 3000.0, "tool_calls": 25}, 7)
    assert cells["PSckpt_cap25"].runtime == "carry-after-cap"
    told = mixed.episodes[0]
    assert (told.tokens, told.seconds) == (200, 30)
    assert (told.behaviour.cap_hits, told.behaviour.state_use, told.behaviour.imports) == (1, 1 / 2, 1)
    assert cells["PP_cap25"].episodes[0].behaviour.redundancy == pytest.approx(2 / 11)
    assert told.behaviour.repeated_calls is None


def test_contrasts_are_those_of_the_successor(sweep: Path, tmp_path: Path) -> None:
    report = build_report(sweep, tmp_path)
    (group,) = parse_json((tmp_path / "report.json").read_bytes())["groups"]
    found = {each["name"]: each["value"]["value"] for each in group["contrasts"]}
    assert found == pytest.approx(
        {
            "G_P(25)": 0.8,
            "M(25)": -0.4,
            "D(25)": 0.7,
            "rescue(25)": 0.2,
            "rho(25)": 0.25,
            "G_P(80)": 0.2,
            "M(80)": 0.1,
            "D(80)": 0.2,
            "A_P": 0.6,
            "T": 0.5,
            "dM": 0.5,
        }
    )
    assert report.groups[0].contrasts[0].value.n == 8
    for page in ("report.md", "index.html"):
        assert "D(25) - D(80)" in (tmp_path / page).read_text()


def test_other_commands_read_them_too(sweep: Path) -> None:
    cells = [str(sweep / name) for name in ("PS_cap25", "SS_cap25")]
    compared = CliRunner().invoke(cli, ["compare", *cells, "--json"])
    assert compared.exit_code == 0, compared.output
    assert json.loads(compared.stdout)[0]["optimality"]["difference"]["value"] == pytest.approx(-0.4)
    counted = CliRunner().invoke(cli, ["traces", "stats", cells[0], "--json"])
    (row,) = json.loads(counted.stdout)
    assert (row["average_total_tokens"], row["behaviour"]["life"], row["behaviour"]["cap_hits"]) == (
        200,
        pytest.approx(1 / 3),
        1 / 2,
    )
    assert row["metrics"]["capacity_utilization"]["mean"] == 0.8


@pytest.mark.parametrize(
    ("folders", "adapter", "difficulty"),
    [
        ("persistent_stateless_hard/knapsack", "persistent", "hard"),
        ("stateless_persistent_easy/knapsack", "forget", "easy"),
        ("base_persistent_easy/knapsack", "base", "easy"),
        ("forget_medium_base/results/agent/knapsack", "base", "medium"),
        ("cross_plora_reset_med/results/agent/knapsack", "persistent", "medium"),
        ("s777_SP_cap80/results/x/knapsack", "forget", "unknown"),
        ("somewhere/knapsack", "unknown", "unknown"),
    ],
)
def test_names_tell_who_was_trained_for_what(folders: str, adapter: str, difficulty: str, tmp_path: Path) -> None:
    write_episode(tmp_path / folders, 1, NOTE["S"], 0.5, ["x = 1"])
    (cell,) = research_cells(tmp_path)
    assert (cell.adapter, cell.difficulty, cell.runtime) == (adapter, difficulty, RuntimeName.FORGET)


def test_a_broken_file_or_config_is_named_and_stops_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "persistent_persistent_easy/knapsack"
    write_episode(folder, 1, NOTE["P"], 1.0, ["x = 1"])
    (folder / "knapsack-knapsack-2.trace.json").write_text("{")
    (tmp_path / "config.yaml").write_text("agents: {a: [}")
    (cell,) = read_results(tmp_path)
    assert (len(cell.episodes), len(cell.unreadable)) == (1, 1)
