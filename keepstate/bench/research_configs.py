"""Benchmark files of the research code as configs of ours, one an agent.

    keepstate bench run THEIRS.yaml --tasks FOLDER

Read are contract, limits, sampling, seed, model and how many run at once. Tasks are named beside the file, as for that
code's own command; where the server is, its folders and its cache are not read. Prompts, environment and what an agent
is shown are keepstate's: the same settings, not the same experiment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keepstate.bench.benchmark_config import BenchmarkConfig, TaskSource, config_of, read_mapping
from keepstate.bench.research_results import adapter_of, runtime_of
from keepstate.errors import UserError
from keepstate.traces.importing import mapping
from keepstate.traces.record import NO_CAP
from keepstate.vocabulary import RuntimeName

PROVIDER = re.compile(r"^(openai|hosted_vllm|litellm_proxy)/")
"""What that code's client puts before the name of a model that a server of one's own serves."""
TURNS, SECONDS, AT_ONCE = 12, 300.0, 4
"""Where its file does not tell."""


def read_configs(path: Path, tasks: TaskSource | None = None) -> list[BenchmarkConfig]:
    """The configs in a file: one of ours, or those of the agents in one of the research code.

    Args:
        path: The file.
        tasks: What to play in the place of what the file names.

    Raises:
        UserError: It is missing, or none of the two, or names no tasks and none are given.
    """
    path, raw = read_mapping(path)
    if not isinstance(raw.get("agents"), list):
        config = config_of(raw, path)
        return [config.model_copy(update={"tasks": tasks}) if tasks else config]
    if tasks is None:
        raise UserError(
            f"{path} is of the research code, whose files name no tasks",
            f"name them: keepstate bench run {path} --tasks FOLDER; its results: keepstate report {path.parent}",
        )
    if not raw["agents"]:
        raise UserError(f"{path}: it has no agents", "name another file")
    return [_config(mapping(agent), raw, path, tasks) for agent in raw["agents"]]


def _config(agent: Mapping[str, Any], raw: Mapping[str, Any], path: Path, tasks: TaskSource) -> BenchmarkConfig:
    llm = mapping(agent.get("llm"))
    name, model = agent.get("name"), llm.get("model")
    if not isinstance(name, str) or not isinstance(model, str):
        raise UserError(f"{path}: an agent lacks its name, or its llm the model", "repair the file")
    model = PROVIDER.sub("", model)
    cap = agent.get("max_tool_calls")
    limits = {"turns": agent.get("max_turns", TURNS), "seconds": agent.get("timeout_s", SECONDS)}
    told = {
        "name": re.sub("[^a-z0-9_-]+", "-", name.lower())[-80:].lstrip("-_"),
        "adapter": adapter_of(name, model),
        "model": model,
        "runtime": str(runtime_of(agent) or RuntimeName.PERSISTENT),
        "limits": limits | {"tool_calls": NO_CAP if cap is None else cap},
        "sampling": {key: llm[key] for key in ("temperature", "max_tokens", "top_p") if llm.get(key) is not None},
        "seed": llm.get("seed") or 0,
        "concurrency": raw.get("max_concurrent_runs", AT_ONCE),
        "tasks": {"difficulty": "easy"},
    }
    return config_of(told, path).model_copy(update={"tasks": tasks})
