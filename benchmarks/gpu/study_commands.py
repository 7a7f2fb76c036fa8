"""Running keepstate's commands in the study's folder: several at a time, within a budget, each noted."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from keepstate.errors import UserError
from keepstate.processes import GRACE_SECONDS, GuardedProcess
from keepstate.setup import basemodel
from keepstate.train.launch import STOP_SECONDS

KEEPSTATE = [sys.executable, "-m", "keepstate"]
SPENT = 75
"""Exit code: repeat the command. EX_TEMPFAIL of sysexits.h."""
NOTES = "commands.jsonl"
ALL_OF_IT = "all of it"
"""Names, among the commands, a stage from its start to its end or stop."""
PLAYED = "played"
"""Names, among them, what was played at one time, from its start to its end or stop."""
SERVED = "its log: "
"""What `keepstate serve` says when it answers."""
SHOWN_EVERY = 15.0


def train_words(arm: str, seed: int, *, config: str, data: str, output: Path) -> list[Any]:
    """`keepstate train` of one adapter; config and data set below the study's folder."""
    words: list[Any] = ["train", arm, "--config", config, "--dataset", data]
    words += ["--base-model", basemodel.ensure_base_model(), "--out", output]
    return [*words, "--seed", seed, "--track", "none"]


class Spent(Exception):
    """The budget is over."""


class Commands:
    """The commands of one sitting."""

    def __init__(self, folder: Path, *, budget: float) -> None:
        self.folder, self.stage = folder, ""
        self.began = time.monotonic()
        self.deadline = self.began + budget

    def run(
        self,
        commands: Mapping[str, Sequence[Any]],
        *,
        at_once: int = 1,
        into: str | None = None,
        allowed: Sequence[int] = (0,),
        ended: Callable[[str, int], None] = lambda name, code: None,
    ) -> int:
        """Run commands by their names, `at_once` of them at a time; the worst exit code.

        Args:
            commands: Words behind `keepstate`, by a name for each.
            at_once: How many at a time.
            into: A file for what they say on stdout; else it goes to their log.
            allowed: Exit codes that are no failure.
            ended: Called with name and code of each that ended with one of them.

        Raises:
            Spent: The budget is over: those that ran are stopped, and go on when they are repeated.
            UserError: One of them failed.
        """
        waiting, worst, said = dict(commands), 0, time.monotonic()
        failed: list[UserError] = []  # the others are finished first: minutes on a GPU
        running: dict[str, tuple[ExitStack, GuardedProcess, Path, float]] = {}

        def note_cut() -> None:
            for name, (*_, began) in running.items():
                self.note(name, commands[name], time.monotonic() - began, SPENT)

        with ExitStack() as every:
            every.callback(note_cut)
            while waiting or running:
                self.check_time()
                while waiting and len(running) < at_once:
                    name = next(iter(waiting))
                    stack = every.enter_context(ExitStack())
                    running[name] = stack, *self._start(stack, name, waiting.pop(name), into)
                time.sleep(0.05)
                for name, (stack, process, log, began) in list(running.items()):
                    if (code := process.poll()) is None:
                        continue
                    del running[name]
                    stack.close()
                    self.note(name, commands[name], time.monotonic() - began, code)
                    if code in allowed:
                        ended(name, code)
                    else:
                        failed.append(UserError(f"{name} ended with code {code}", f"what it said: {log}"))
                    worst = max(worst, code)
                if running and time.monotonic() - said > SHOWN_EVERY:
                    said = time.monotonic()
                    self.say(f"  running: {', '.join(running)}; waiting: {len(waiting)}")
        if failed:
            raise failed[0]
        return worst

    @contextmanager
    def served(self, servers: Mapping[str, Sequence[Any]]) -> Iterator[None]:
        """Servers, started together, until the block ends; the time of each is that until it answers.

        Raises:
            Spent: The budget is over before all answer.
            UserError: One of them ended.
        """
        with ExitStack() as stack:
            starting = {name: self._start(stack, name, words) for name, words in servers.items()}
            while starting:
                self.check_time()
                time.sleep(0.25)
                for name, (process, log, began) in list(starting.items()):
                    if SERVED in log.read_text(errors="replace"):
                        self.note(name, servers[name], time.monotonic() - began, 0)
                        del starting[name]
                    elif (code := process.poll()) is not None:
                        raise UserError(f"the server {name} ended with code {code}", f"what it said: {log}")
            yield

    @contextmanager
    def timed(self, name: str, words: Sequence[Any], cut: tuple[type[BaseException], ...]) -> Iterator[None]:
        """Note what the block took; `cut` are exceptions after which the same goes on."""
        began, code = time.monotonic(), 2
        try:
            yield
            code = 0
        except cut:
            code = SPENT
            raise
        finally:
            self.note(name, words, time.monotonic() - began, code)

    def check_time(self) -> None:
        """End what goes on where the budget is over."""
        if time.monotonic() > self.deadline:
            raise Spent

    def note(self, name: str, words: Sequence[Any], seconds: float, code: int) -> None:
        """Add a line to `commands.jsonl`, and show it."""
        program = [] if name in (ALL_OF_IT, PLAYED) else ["keepstate"]
        command = shlex.join([*program, *(str(word).replace(f"{self.folder}/", "") for word in words)])
        line = {"stage": self.stage, "name": name, "seconds": round(seconds, 1), "code": code, "command": command}
        with (self.folder / NOTES).open("a") as file:
            print(json.dumps(line), file=file)
        self.say(f"  {name}: {seconds:.0f} s" + (f", exit code {code}" if code else ""))

    def say(self, text: str) -> None:
        """Show how far it is."""
        print(f"[{time.monotonic() - self.began:5.0f} s] {text}", file=sys.stderr, flush=True)

    def _start(
        self, stack: ExitStack, name: str, words: Sequence[Any], into: str | None = None
    ) -> tuple[GuardedProcess, Path, float]:
        log = self.folder / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [*KEEPSTATE, *map(str, words)]
        if into:
            command = ["sh", "-c", 'exec "$@" >"$0"', into, *command]
        output = stack.enter_context(log.open("w"))
        saves = STOP_SECONDS if words[0] == "train" else 0.0
        process = stack.enter_context(
            GuardedProcess(command, output=output, cwd=self.folder, grace=saves + GRACE_SECONDS)
        )

        def stopping() -> None:
            if saves and process.poll() is None:
                self.say(f"  stopping {name}, which saves the step it is in; Ctrl-C again stops it at once")

        stack.callback(stopping)
        return process, log, time.monotonic()
