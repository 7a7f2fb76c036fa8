"""Result folders of the research code as cells of a run: a folder that holds its traces and verdicts is one.

Reads what its benchmark writes (`<run>/results/<agent>/<family>/`, with `config.yaml` above it) and what was published
of it (`<trained>_<runtime>_<difficulty>/<family>/`). Who was trained for what is told by names alone, or not known.
Changes nothing; replays and regrades nothing, as the environments of that code are not keepstate's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keepstate.files import content_hash, parse_yaml
from keepstate.traces.importing import SOURCE, UNKNOWN, mapping
from keepstate.traces.reader import load_trace, read_fault, trace_files
from keepstate.traces.record import Trace, TraceError
from keepstate.vocabulary import BASE, RuntimeName

CONFIG = "config.yaml"
WORDS = {
    "persistent": RuntimeName.PERSISTENT,
    "stateless": RuntimeName.FORGET,
    "forget": RuntimeName.FORGET,
    "reset": RuntimeName.FORGET,
    "react": RuntimeName.REACT,
    "plora": RuntimeName.PERSISTENT,
    "flora": RuntimeName.FORGET,
}
"""How that code calls what an adapter was trained for."""
LETTERS = {"P": RuntimeName.PERSISTENT, "S": RuntimeName.FORGET}
TRAINED = re.compile(rf"(?:^|(?<=[-_]))({BASE}|{'|'.join(WORDS)})(?=[-_]|$)")
CELL = re.compile(r"(?:^|_)([PS])[PS](?=_|ckpt|$)")
"""`PS_cap25`: trained in a persistent interpreter, played in a stateless one."""
DIFFICULTY = re.compile(r"(?:^|[-_])(easy|medium|med|hard)(?=[-_]|$)")


class ResearchCell:
    """One folder of traces that the research code wrote.

    Args:
        folder: Where they lie.
        root: The folder that was named; names are told from there, or of itself.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self.traces: list[Trace] = []
        self.unreadable: list[str] = []
        self.agent, self._settings = _agent(folder, root)
        parts = [root.resolve().name, *folder.relative_to(root).parts]
        told = [part for part in parts if part != "results"]
        named = (part for part in reversed(told) if TRAINED.search(part) or CELL.search(part))
        self.name = next(named, told[-1] if self.agent == UNKNOWN else self.agent)

    def read(self, path: Path) -> None:
        """Take in a trace, or say why it is none."""
        try:
            trace = load_trace(path)
        except (TraceError, OSError) as error:
            self.unreadable.append(f"{path.name}: {read_fault(error)}")
            return
        if SOURCE in trace.versions:
            self.traces.append(trace)
        else:
            self.unreadable.append(f"{path.name}: a trace of keepstate outside of a cell")

    @property
    def runtime(self) -> RuntimeName:
        """As its config tells, or else most of its traces."""
        told = runtime_of(self._settings)
        return told or Counter(trace.runtime for trace in self.traces).most_common(1)[0][0]

    @property
    def adapter(self) -> str:
        """`base`, or what it was trained for, where a name tells; else the name of its model."""
        return adapter_of(self.name, str(mapping(self._settings.get("llm")).get("model") or UNKNOWN))

    @property
    def difficulty(self) -> str:
        """As its name tells."""
        found = DIFFICULTY.search(self.name)
        return {"med": "medium"}.get(found[1], found[1]) if found else UNKNOWN

    @property
    def config(self) -> dict[str, Any]:
        """What is known of how it was played, under the keys of our `cell.json`."""
        agent, llm = self._settings, mapping(self._settings.get("llm"))
        limits = {"turns": agent.get("max_turns"), "seconds": agent.get("timeout_s")}
        limits["tool_calls"] = agent.get("max_tool_calls")
        sampling = {key: llm[key] for key in ("temperature", "max_tokens", "top_p") if key in llm}
        known = {key: value for key, value in limits.items() if type(value) in {int, float}}
        return {
            "runtime": str(self.runtime),
            "seed": llm["seed"] if type(llm.get("seed")) is int else 0,
            "model": str(llm["model"]) if llm.get("model") else None,
            "limits": known,
            "sampling": sampling or None,
        }

    @property
    def digest(self) -> str:
        """Of its config and its tasks."""
        return content_hash([self.config, self.name, sorted(trace.task.content_hash for trace in self.traces)])


def runtime_of(agent: Mapping[str, Any]) -> RuntimeName | None:
    """Where an agent of a config acts; None where its settings do not tell."""
    if agent.get("agent_type") == "react":
        return RuntimeName.REACT
    if agent.get("state_carryover_on_cap"):
        return RuntimeName("carry-after-cap-announced" if agent.get("announce_carryover") else "carry-after-cap")
    if "persistent_state" in agent:
        return RuntimeName.PERSISTENT if agent["persistent_state"] else RuntimeName.FORGET
    return None


def adapter_of(name: str, model: str) -> str:
    """`base`, or what it was trained for, where the name of a cell or of its model tells; else the model's name."""
    model = model.rpartition("/")[2]
    if code := CELL.search(name):
        return str(LETTERS[code[1]])
    for told in (name, model):
        if words := TRAINED.findall(told.lower()):
            return BASE if BASE in words else str(WORDS[words[0]])
    return re.sub(r"[^A-Za-z0-9._-]", "-", model)[:100]


def research_cells(root: Path) -> list[ResearchCell]:
    """The folders below `root` that hold traces of the research code, by path; none where there are none.

    Raises:
        UserError: There is no such folder.
    """
    found: dict[Path, ResearchCell] = {}
    for path in map(Path, trace_files(root)[0]):
        if path.parent not in found:
            found[path.parent] = ResearchCell(path.parent, root)
        found[path.parent].read(path)
    cells = [cell for cell in found.values() if cell.traces]
    names = Counter(cell.name for cell in cells)
    for cell in cells:
        if names[cell.name] > 1:
            cell.name = "-".join(cell.folder.relative_to(root).parts) or cell.name
    return cells


def _agent(folder: Path, root: Path) -> tuple[str, Mapping[str, Any]]:
    """Name and settings of the agent that played in `folder`, from the config above it; nothing where there is none."""
    for above in (folder, *folder.parents):
        agents = _agents(above / CONFIG)
        for agent in agents:
            if len(agents) == 1 or agent.get("name") in folder.parts:
                return str(agent.get("name")), agent
        if above == root:
            break
    return UNKNOWN, {}


def _agents(path: Path) -> Sequence[Mapping[str, Any]]:
    try:
        agents = mapping(parse_yaml(path.read_bytes())).get("agents")
    except (OSError, ValueError, RecursionError):
        return []
    return [mapping(agent) for agent in agents] if isinstance(agents, list) else []
