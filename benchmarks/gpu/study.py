"""The study of docs/study.md, stage by stage: what the mismatch of training and runtime costs, for anyone to repeat.

    python benchmarks/gpu/study.py                          # a machine with a GPU, both environments set up
    python benchmarks/gpu/study.py --size laptop            # two cores
    python benchmarks/gpu/study.py --size tiny              # minutes; shows that every stage runs, says nothing else
    python benchmarks/gpu/study.py train play --budget 540 --pack OUT      # what fits nine minutes, then packed
    python benchmarks/gpu/study.py --unpack OUT             # elsewhere, later: goes on from there

Stages: tasks traces data train play replay report results. Each runs keepstate's own commands in the study's folder;
what is finished is not run again, what was cut goes on (docs/resuming.md). `commands.jsonl` there holds every command
with its seconds. Exit code 75: the budget is spent, the same command goes on. What is packed: study_packing.py.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from study_packing import pack, round_weights, unpack
from study_results import ALL_OF_IT, RUN, write_results
from study_sizes import ARMS, EVAL_SEED, FAMILIES, KNAPSACK, SIZES, TRAIN_SEED, Size, size_of

from keepstate.errors import EXIT_INTERRUPTED, EXIT_PARTIAL, EXIT_USER_ERROR, UserError
from keepstate.files import parse_json, write_atomic, write_json
from keepstate.processes import GuardedProcess, sigterm_interrupts
from keepstate.setup import basemodel
from keepstate.train.result import WEIGHTS, read_done
from keepstate.vocabulary import BASE, MIXED

KEEPSTATE = [sys.executable, "-m", "keepstate"]
SPENT = 75
"""Exit code: repeat the command. EX_TEMPFAIL of sysexits.h."""
PLAYED_AT = 0.2
"""Temperature of the draws."""
DRAWN = 0
"""Training seed of the adapters that are drawn from."""
SERVED = "its log: "
"""What `keepstate serve` says when it answers."""
SHOWN_EVERY = 15.0


class Spent(Exception):
    """The budget is over."""


class Study:
    """One study in one folder."""

    def __init__(self, folder: Path, family: str, size: Size, *, budget: float, port: int) -> None:
        self.folder, self.family, self.size, self.port = folder.resolve(), family, size, port
        self.began, self.partial = time.monotonic(), False
        self.deadline = self.began + budget
        self.stage = ""

    def run(self, stages: Sequence[str]) -> None:
        """These stages, in their order.

        Raises:
            Spent: The budget is over; everything finished is kept.
            UserError: A command failed, or the folder holds a study of another size.
        """
        self._claim()
        for self.stage in stages:
            self._say(self.stage)
            began, code = time.monotonic(), EXIT_USER_ERROR
            try:
                getattr(self, self.stage)()
                code = 0
            except (Spent, KeyboardInterrupt):
                code = SPENT
                raise
            finally:
                self._note(ALL_OF_IT, ["benchmarks/gpu/study.py", self.stage], time.monotonic() - began, code)

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
        self._together(
            {
                name: [
                    *("train", arm, "--config", f"configs/{arm}.yaml", "--dataset", f"datasets/{arm}"),
                    *("--base-model", basemodel.ensure_base_model(), "--out", self._adapter(name)),
                    *("--seed", seed, "--track", "none"),
                ]
                for arm in order
                for seed in self.size.seeds
                if read_done(self._adapter(name := f"{arm}-seed{seed}")) is None
            }
        )
        if self.size.rounded:
            for name in self._names():
                round_weights(self._adapter(name) / WEIGHTS)

    def play(self) -> None:
        """Every cell, primary ones first, base and draws last, against one server of all adapters."""
        owed = [(name, words) for name, words in self._matrices() if not self._is_done(name, models=self._names())]
        if not owed:
            return
        with self._served():
            for name, words in owed:
                if self._command(*words, name=name, allowed=(0, EXIT_PARTIAL)) == 0:
                    self._done(name, models=self._names())

    def _matrices(self) -> Iterator[tuple[str, list[Any]]]:
        size, trained = self.size, [word for name in self._names() for word in ("--adapter", name)]
        given = ["--run", RUN, "--base-url", f"http://127.0.0.1:{self.port}/v1", "--turns", size.turns]
        given += ["--max-tokens", size.max_tokens, "--context", size.context, "--concurrency", size.concurrency]
        for who, models in (("trained", trained), (BASE, ["--adapter", BASE])):
            for cap in size.caps:
                for tasks in size.sets:
                    where = ["bench", "matrix", "--tasks", f"tasks/{tasks}", "--tool-calls", cap, "--temperature", 0]
                    yield f"play-{who}-{tasks}-calls{cap}", [*where, *given, *models]
        if size.draws and DRAWN in size.seeds:
            first = [word for arm in ARMS for word in ("--adapter", f"{arm}-seed{DRAWN}")]
            where = ["bench", "matrix", "--tasks", f"tasks/{size.sets[0]}", "--tool-calls", size.caps[0]]
            draws = ["--temperature", PLAYED_AT, "--seeds", ",".join(map(str, size.draws))]
            yield "play-draws", [*where, *draws, *given, *first]

    def replay(self) -> None:
        """All episodes again without a model: as recorded, and under the lowest cap."""
        for name, contract in (("replay", []), ("exposure", ["--tool-calls", self.size.caps[0]])):
            if not self._is_done(name):
                words = ["bench", "replay", f"runs/{RUN}", "--json", "--concurrency", 16, *contract]
                code = self._command(*words, name=name, into=f"{name}.json", allowed=(0, EXIT_PARTIAL))
                if code == 0:
                    self._done(name)

    def report(self) -> None:
        """The report of all cells."""
        self._command("report", f"runs/{RUN}", "--out", "report")

    def results(self) -> None:
        """Tables, figures, configs, hashes, seeds and commands, for the repository."""
        write_results(self.folder, self.target, self.family, self.size)

    target = Path("results")

    def _names(self) -> list[str]:
        return [f"{arm}-seed{seed}" for seed in self.size.seeds for arm in ARMS]

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

    @contextmanager
    def _served(self) -> Iterator[None]:
        """Base and adapters on one server; its time is that of the command `serve`."""
        loras = [word for name in self._names() for word in ("--lora", f"{name}={self._adapter(name)}")]
        words = ["serve", "--base-model", basemodel.ensure_base_model(), "--port", self.port, *loras]
        words += ["--context", self.size.context]
        words += ["--max-num-seqs", self.size.concurrency] if self.size.on_gpu else []
        with ExitStack() as stack:
            process, log, began = self._start(stack, "serve", words)
            while SERVED not in log.read_text(errors="replace"):
                if (code := process.poll(0.5)) is not None:
                    raise UserError(f"the server ended with code {code}", f"what it said: {log}")
                self._check_time()
            self._note("serve", words, time.monotonic() - began, 0)
            yield

    def _command(
        self, *words: Any, name: str | None = None, into: str | None = None, allowed: Sequence[int] = (0,)
    ) -> int:
        return self._together({name or "-".join(map(str, words[:2])): list(words)}, into=into, allowed=allowed)

    def _together(
        self, commands: dict[str, list[Any]], *, into: str | None = None, allowed: Sequence[int] = (0,)
    ) -> int:
        """Run commands, `at_once` of them at a time; the worst exit code.

        Raises:
            Spent: The budget is over: those that ran are stopped, and go on when they are repeated.
            UserError: One of them failed.
        """
        waiting, worst, said = dict(commands), 0, time.monotonic()
        failed: list[UserError] = []  # the others are finished first: minutes on a GPU
        running: dict[str, tuple[ExitStack, GuardedProcess, Path, float]] = {}

        def note_cut() -> None:
            for name, (*_, began) in running.items():
                self._note(name, commands[name], time.monotonic() - began, SPENT)

        with ExitStack() as every:
            every.callback(note_cut)
            while waiting or running:
                self._check_time()
                while waiting and len(running) < self.size.at_once:
                    name = next(iter(waiting))
                    stack = every.enter_context(ExitStack())
                    running[name] = stack, *self._start(stack, name, waiting.pop(name), into)
                time.sleep(0.05)
                for name, (stack, process, log, began) in list(running.items()):
                    if (code := process.poll()) is None:
                        continue
                    del running[name]
                    stack.close()
                    self._note(name, commands[name], time.monotonic() - began, code)
                    if code not in allowed:
                        failed.append(UserError(f"{name} ended with code {code}", f"what it said: {log}"))
                    worst = max(worst, code)
                if running and time.monotonic() - said > SHOWN_EVERY:
                    said = time.monotonic()
                    self._say(f"  running: {', '.join(running)}; waiting: {len(waiting)}")
        if failed:
            raise failed[0]
        self.partial |= worst != 0
        return worst

    def _start(
        self, stack: ExitStack, name: str, words: Sequence[Any], into: str | None = None
    ) -> tuple[GuardedProcess, Path, float]:
        log = self.folder / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [*KEEPSTATE, *map(str, words)]
        if into:
            command = ["sh", "-c", 'exec "$@" >"$0"', into, *command]
        output = stack.enter_context(log.open("w"))
        process = stack.enter_context(GuardedProcess(command, output=output, cwd=self.folder))
        return process, log, time.monotonic()

    def _check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise Spent

    def _note(self, name: str, words: Sequence[Any], seconds: float, code: int) -> None:
        program = [] if name == ALL_OF_IT else ["keepstate"]
        command = shlex.join([*program, *(str(word).replace(f"{self.folder}/", "") for word in words)])
        line = {"stage": self.stage, "name": name, "seconds": round(seconds, 1), "code": code, "command": command}
        with (self.folder / "commands.jsonl").open("a") as file:
            print(json.dumps(line), file=file)
        self._say(f"  {name}: {seconds:.0f} s" + (f", exit code {code}" if code else ""))

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:5.0f} s] {text}", file=sys.stderr, flush=True)


NONE = "none"
"""No stage: what another run has made so far is packed."""
STAGES = ("tasks", "traces", "data", "train", "play", "replay", "report", "results")


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
    parser.add_argument("--budget", type=float, default=float("inf"), metavar="SECONDS", help="then stop, and pack")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="put what is new there, in files of 15 MiB")
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
    study = Study(
        given.folder or Path("out") / f"study-{given.size}" / given.family,
        given.family,
        size,
        budget=given.budget,
        port=given.port,
    )
    study.target = given.results or Path("results") / f"{given.size}-{given.family}"
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
            pack(study.folder, given.pack)
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
