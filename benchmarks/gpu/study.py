"""The study of docs/study.md, stage by stage: what the mismatch of training and runtime costs, for anyone to repeat.

    python benchmarks/gpu/study.py                          # a machine with a GPU, both environments set up
    python benchmarks/gpu/study.py --size laptop            # two cores
    python benchmarks/gpu/study.py --size tiny              # minutes; shows that every stage runs, says nothing else
    python benchmarks/gpu/study.py train play --budget 540 --pack OUT      # what fits nine minutes, then packed
    python benchmarks/gpu/study.py --unpack OUT             # elsewhere, later: goes on from there

Stages: tasks traces data train play second-round replay report results. Each runs keepstate's own commands in the
study's folder; what is finished is not run again, what was cut goes on (docs/resuming.md). `commands.jsonl` there holds
every command with its seconds. Exit code 75: the budget is spent, the same command goes on.

A GPU that has room trains and plays at one time, in several runs of this script: the base waits for no training
(--only base), the second round for nothing but the data; --gpu-servers says how many servers share the memory.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from study_commands import ALL_OF_IT, PLAYED, SPENT, Commands, Spent, train_words
from study_packing import MOST, pack, round_weights, unpack
from study_play import Match, commands, groups, names, serve_words, servers
from study_results import second_page, write_results, write_second_round
from study_second_round import second_round
from study_sizes import ARMS, EVAL_SEED, FAMILIES, KNAPSACK, RUN, SECOND, SIZES, TRAIN_SEED, Size, size_of

from keepstate.errors import EXIT_INTERRUPTED, EXIT_PARTIAL, EXIT_USER_ERROR, UserError
from keepstate.files import parse_json, write_atomic, write_json
from keepstate.processes import sigterm_interrupts
from keepstate.setup import basemodel
from keepstate.train.result import WEIGHTS, read_done
from keepstate.vocabulary import BASE, MIXED


class Study:
    """One study in one folder."""

    def __init__(self, folder: Path, family: str, size: Size, *, budget: float, port: int) -> None:
        self.folder, self.family, self.size, self.port = folder.resolve(), family, size, port
        self.commands, self.partial = Commands(self.folder, budget=budget), False

    def run(self, stages: Sequence[str]) -> None:
        """These stages, in their order.

        Raises:
            Spent: The budget is over; everything finished is kept.
            UserError: A command failed, or the folder holds a study of another size.
        """
        self._claim()
        for stage in stages:
            self.commands.stage = stage
            self.commands.say(stage)
            words = ["benchmarks/gpu/study.py", stage]
            with self.commands.timed(ALL_OF_IT, words, (Spent, KeyboardInterrupt)):
                getattr(self, stage.replace("-", "_"))()

    def tasks(self) -> None:
        """Training tasks, and held-out ones, none of them among the training tasks."""
        family, train = ["--family", self.family], self.folder / "tasks" / "train"
        if self._is_done("tasks"):
            return
        made = ["tasks", "generate", *family, "--difficulty", self.size.trained_on, "--count", self.size.traces]
        self._command(*made, "--seed-start", TRAIN_SEED, "--out", train)
        for name in self.size.sets:
            made = ["tasks", "generate", *family, "--difficulty", name, "--count", self.size.tasks, "--split", "eval"]
            self._command(*made, "--seed-start", EVAL_SEED, "--apart-from", train, "--out", train.with_name(name))
        self._done("tasks")

    def traces(self) -> None:
        """The scripted teacher on the training tasks, in every runtime."""
        if not self._is_done("traces"):
            self._command("traces", "collect", "--tasks", "tasks/train", "--out", "traces", "--concurrency", 16)
            self._done("traces")

    def data(self) -> None:
        """A data set an adapter, every turn proven."""
        if self._is_done("data"):
            return
        settings = [
            "--tokenizer",
            basemodel.ensure_base_model(),
            "--max-tokens",
            self.size.context,
            "--paired",
            "--val-fraction",
            0,
        ]
        self._command("dataset", "build", "--traces", "traces", "--out", "datasets", *settings)
        self._command(
            "dataset", "build", "--traces", "traces", "--out", "datasets", "--mix", "persistent,forget", *settings
        )
        self._command("dataset", "check", *(f"datasets/{arm}" for arm in ARMS))
        self._done("data")

    def train(self) -> None:
        """Every adapter of every seed, the longest first, as several are trained at a time."""
        for arm in ARMS:
            write_atomic(self.folder / "configs" / f"{arm}.yaml", self.size.config(arm))
        order = ("react", MIXED, "forget", "persistent")
        self._run(
            {
                name: train_words(
                    arm, seed, config=f"configs/{arm}.yaml", data=f"datasets/{arm}", output=self._adapter(name)
                )
                for arm in order
                for seed in self.size.seeds
                if read_done(self._adapter(name := f"{arm}-seed{seed}")) is None
            },
            at_once=self.size.at_once,
        )
        if self.size.rounded:
            for name in names(self.size.seeds):
                round_weights(self._adapter(name) / WEIGHTS)

    def play(self) -> None:
        """Every cell, primary ones first, base and draws last, against servers of all adapters; or the base alone."""
        owed = [[match for match in group if not self._is_played(match)] for group in groups(self.size)]
        if self.only:
            owed = [[match for match in group if (match.played == (BASE,)) == (self.only == BASE)] for group in owed]
        needed = sorted({match.server for group in owed for match in group})
        of = servers(self.size)
        serving = {
            f"serve-{self.only or ''}{number}": serve_words(
                self.size,
                [] if self.only == BASE else names(of[number]),
                self.folder,
                self.port + number,
                of=len(of),
            )
            for number in needed
        }
        with self.commands.served(serving):
            for group in filter(None, owed):
                self._play(group)

    def _play(self, group: Sequence[Match]) -> None:
        """Matches beside one another; those that came to their end are noted, whatever becomes of the others."""
        by_name = {match.name: match for match in group}

        def ended(name: str, code: int) -> None:
            if code == 0:
                self._done(name, models=names(by_name[name].seeds))

        with self.commands.timed(PLAYED, list(by_name), (Spent, KeyboardInterrupt)):
            words = commands(self.size, self.port, group)
            self._run(words, at_once=len(words), allowed=(0, EXIT_PARTIAL), ended=ended)

    def _is_played(self, match: Match) -> bool:
        return self._is_done(match.name, models=names(match.seeds))

    def second_round(self) -> None:
        """An adapter that learns from the first round's good episodes, beside its teacher."""
        if self.size.kept is not None and not self._is_done(SECOND):
            code = second_round(self.commands, self.size, self.port)
            self.partial |= code != 0
            if code == 0:
                self._done(SECOND)

    def replay(self) -> None:
        """All episodes again without a model: as recorded, and those of wider caps under the lowest one."""
        runs, (lowest, *wider) = self.folder / "runs", self.size.caps
        asked = {
            "replay": ([runs / RUN], []),
            f"replay-{SECOND}": ([runs / SECOND], []),
            "exposure": (sorted(path for cap in wider for path in (runs / RUN).glob(f"*-calls{cap}-*")),
                         ["--tool-calls", lowest]),
        }  # fmt: skip
        for name, (folders, contract) in asked.items():
            there = [folder.relative_to(self.folder) for folder in folders if folder.is_dir()]
            if there and not self._is_done(name):
                words = ["bench", "replay", *there, "--json", "--concurrency", 16, *contract]
                if self._run({name: words}, into=f"{name}.json", allowed=(0, EXIT_PARTIAL)) == 0:
                    self._done(name)

    def report(self) -> None:
        """The report of all cells, and that of the second round."""
        for run, report in ((RUN, "report"), (SECOND, f"{SECOND}/report")):
            if (self.folder / "runs" / run).is_dir():
                self._command("report", f"runs/{run}", "--out", report)

    def results(self) -> None:
        """Tables, figures, configs, hashes, seeds and commands, for the repository."""
        if (self.folder / "runs" / RUN).is_dir():
            write_results(self.folder, self.target, self.family, self.size)
        if (self.folder / SECOND).is_dir():
            write_second_round(self.folder, second_page(self.target), self.size)

    target = Path("results")
    only: str | None = None
    """The base, or the trained ones: the others are not played now."""

    def _adapter(self, name: str) -> Path:
        return self.folder / "adapters" / name

    def _claim(self) -> None:
        """Refuse to mix two sizes in one folder."""
        note, wanted = self.folder / "study.json", {"family": self.family, **self.size.fixed()}
        found = parse_json(note.read_bytes()) if note.is_file() else wanted
        if found != wanted:
            differing = ", ".join(
                f"{key} {found.get(key)} -> {wanted[key]}" for key in wanted if found.get(key) != wanted[key]
            )
            raise UserError(f"{self.folder} holds another study: {differing}", "name another --folder")
        write_json(note, wanted)

    def _is_done(self, name: str, **of: Any) -> bool:
        note = self.folder / "done" / f"{name}.json"
        return note.is_file() and parse_json(note.read_bytes()) == of

    def _done(self, name: str, **of: Any) -> None:
        write_json(self.folder / "done" / f"{name}.json", of)

    def _command(self, *words: Any) -> None:
        self._run({"-".join(map(str, words[:2])): list(words)})

    def _run(self, commands: dict[str, list[Any]], **how: Any) -> int:
        """As `Commands.run`; that something is left to do is kept."""
        worst = self.commands.run(commands, **how)
        self.partial |= worst != 0
        return worst


TRAINED = "trained"
NONE = "none"
"""No stage: what another run has made so far is packed."""
STAGES = ("tasks", "traces", "data", "train", "play", "second-round", "replay", "report", "results")


def main() -> int:
    """Unpack, run stages, pack; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"by default all: {' '.join(STAGES)}; {NONE}")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--family", choices=FAMILIES, default=KNAPSACK)
    parser.add_argument("--folder", type=Path, help="of the study; by default out/study-SIZE/FAMILY")
    parser.add_argument("--results", type=Path, help="where the last stage writes; by default results/SIZE-FAMILY")
    parser.add_argument("--training-seeds", help="0,1,2: only these, or more")
    parser.add_argument("--at-once", type=int, help="trainings at a time")
    parser.add_argument("--only", choices=(BASE, TRAINED), help="play these; the base needs no training to wait for")
    parser.add_argument("--gpu-servers", type=int, metavar="N", help="so many servers share the GPU, others' included")
    parser.add_argument("--budget", type=float, default=float("inf"), metavar="SECONDS", help="then stop, and pack")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="put what is new there, in files of 15 MiB")
    parser.add_argument("--archives", type=int, default=MOST, metavar="N", help="so many files at most")
    parser.add_argument("--unpack", type=Path, metavar="FOLDER", help="begin with what was packed there")
    parser.add_argument("--port", type=int, default=8123)
    given = parser.parse_args()
    if unknown := [stage for stage in given.stages if stage not in (*STAGES, NONE)]:
        parser.error(f"no stage {unknown[0]!r}; there are {', '.join(STAGES)}, {NONE}")
    size = size_of(given.size, given.family)
    if given.training_seeds:
        size = replace(size, seeds=tuple(map(int, given.training_seeds.split(","))))
    if given.at_once:
        size = replace(size, at_once=given.at_once)
    if given.gpu_servers:
        size = replace(size, gpu_servers=given.gpu_servers)
    study = Study(
        given.folder or Path("out") / f"study-{given.size}" / given.family,
        given.family,
        size,
        budget=given.budget,
        port=given.port,
    )
    study.target = given.results or Path("results") / f"{given.size}-{given.family}"
    study.only = given.only
    try:
        if given.unpack:
            unpack(given.unpack, study.folder)
        with sigterm_interrupts():
            study.run([stage for stage in STAGES if stage in given.stages or not given.stages])
        code = EXIT_PARTIAL if study.partial else 0
    except Spent:
        print("the budget is spent; the same command goes on", file=sys.stderr)
        code = SPENT
    except UserError as error:
        print(f"error: {error.message}\nhint:  {error.hint}", file=sys.stderr)
        code = EXIT_USER_ERROR
    finally:
        if given.pack:
            pack(study.folder, given.pack, given.archives)
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
