"""Starting a vLLM server for the base and all adapters, or several alike, and ending them whatever ends us.

    from keepstate.serve import plan_serving, serve

    planned = plan_serving(adapters=["out/smollm2-135m-persistent-laptop"], port=0)
    with serve(planned) as server:
        print(server.base_url, server.names)     # http://127.0.0.1:41234/v1 ('base', 'persistent')

Inside the block every model has answered, with the prompts that training used, and no adapter as the base.
Does not import vLLM.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx2

from keepstate.dataset.templates import load_template
from keepstate.display import Bar, Display
from keepstate.errors import UserError
from keepstate.files import check_room, write_json
from keepstate.model_files import GENERATION
from keepstate.models.endpoint import connection
from keepstate.play.cluster_address import check_address
from keepstate.processes import GuardedProcess, log_text
from keepstate.serve.applied import check_applied
from keepstate.serve.command import command, environment
from keepstate.serve.diagnosis import check_plugin, failure, last_words, stage
from keepstate.serve.loaded import AdapterContent, noted, read_adapter_contents
from keepstate.serve.ports import check_port
from keepstate.serve.prompt_parity import check_prompts
from keepstate.serve.serving_plan import ServingPlan
from keepstate.setup import installing
from keepstate.train.result import base_identity

LOADING = "loading vLLM"
"""The first stage: until its log tells another one."""
POLL_SECONDS = 0.25
SILENCE_SECONDS = 900.0
"""A start whose log stays still for so long is given up; fetching a model moves it."""
ANSWER_SECONDS = 300.0
"""How long a first answer may take."""


@dataclass(frozen=True, slots=True)
class Starting:
    """How far a start is."""

    seconds: float
    stage: str


class StartDisplay(Display[Starting]):
    """Shows a start; without a terminal a line a stage."""

    begin = Bar("vLLM", words="starts")
    transient = True

    def bars(self, state: Starting) -> Sequence[Bar]:
        """One: how long it takes is not known."""
        return [Bar("vLLM", words=state.stage)]

    def line(self, state: Starting) -> str:
        """Its stage."""
        return f"vLLM: {state.stage} ({state.seconds:.0f} s)"

    def stage(self, state: Starting) -> str | None:
        """Its stage."""
        return state.stage


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers."""

    base_url: str
    """Of the API, ending in `/v1`."""
    names: tuple[str, ...]
    """The models, the base first."""
    log: Path
    seconds: float
    """From its start until every model had answered."""
    stages: tuple[tuple[str, float], ...]
    """What the start consisted of, each with its seconds."""
    process: GuardedProcess

    def wait(self) -> None:
        """Wait for as long as it runs.

        Raises:
            UserError: It ended by itself, or the disk is full.
        """
        code = self.process.wait()
        check_room(self.log)
        said = last_words(log_text(self.log))
        raise UserError(f"vLLM ended with code {code}; from the end of {self.log}:\n{said}", "start it again")


@contextmanager
def serve(planned: ServingPlan, *, on_progress: Callable[[Starting], None] | None = None) -> Iterator[Server]:
    """Serve until the block ends.

    Args:
        planned: See `plan_serving`.
        on_progress: Called with every new stage of the start, and every quarter of a second between.

    Raises:
        UserError: The port is taken, no cluster answers, the server ended or fell silent, or a model did not answer as
            it must; the message names it and shows the end of the log.
    """
    with serve_all([planned], on_progress=on_progress) as [server]:
        yield server


@contextmanager
def serve_all(
    plans: Sequence[ServingPlan], *, on_progress: Callable[[Starting], None] | None = None
) -> Iterator[list[Server]]:
    """Serve one server a plan until the block ends. All start at once; one that cannot ends all.

    Args:
        plans: One, or those of `keepstate.serve.replicas.plan_replicas`, alike but for their place.
        on_progress: As `serve` has it, with the stages of all; called from a thread for each.

    Raises:
        UserError: What `serve` raises, for any of them.
    """
    first, stages = plans[0], [LOADING] * len(plans)
    for planned in plans:
        check_port(planned.port, planned.host)
        if planned.nodes is not None:
            check_address(planned.nodes.address)
    python = installing.ensure("serve")
    adapters, template = read_adapter_contents(first), load_template(first.template).sha256

    def report(number: int, seconds: float, words: str) -> None:
        stages[number] = words
        if on_progress:
            on_progress(Starting(seconds, " | ".join(dict.fromkeys(stages))))

    with (
        ThreadPoolExecutor(len(plans) + 1) as beside,  # left last: with its server ended, nothing in it waits for long
        ExitStack() as stack,
    ):
        base = beside.submit(base_identity, first.base_model)  # 16 GiB of Qwen3-8B take ten seconds
        processes = [stack.enter_context(_process(planned, python)) for planned in plans]
        starts = [
            beside.submit(_until_up, planned, process, adapters, base, partial(report, number))
            for number, (planned, process) in enumerate(zip(plans, processes, strict=True))
        ]
        for start in wait(starts, return_when=FIRST_EXCEPTION).done:
            start.result()
        for planned, process in zip(plans, processes, strict=True):
            stack.enter_context(noted(planned.port, process.pid, base.result(), adapters, template, planned))
        yield [start.result() for start in starts]


@contextmanager
def _process(planned: ServingPlan, python: Path) -> Iterator[GuardedProcess]:
    """The server's process, which says into its log."""
    planned.log.parent.mkdir(parents=True, exist_ok=True)
    check_room(planned.log)
    if planned.generation is not None:
        planned.generation_folder.mkdir(exist_ok=True)
        write_json(planned.generation_folder / GENERATION, dict(planned.generation))
    with (
        planned.log.open("wb") as log,
        GuardedProcess(command(planned, python), output=log, env=environment(planned)) as process,
    ):
        yield process


def _until_up(
    planned: ServingPlan,
    process: GuardedProcess,
    adapters: Mapping[str, AdapterContent],
    base: Future[dict[str, str | None]],
    on_stage: Callable[[float, str], None],
) -> Server:
    """Wait until it answers as it must."""
    started, begun = time.monotonic(), dict[str, float]()

    def report(words: str) -> None:
        begun.setdefault(words, seconds := time.monotonic() - started)
        on_stage(seconds, words)

    with _disk_first(planned.log):
        report(LOADING)  # also of a server that answers the first time it is asked
        _until_healthy(planned, process, report)
        check_plugin(planned, log_text(planned.log))
        for name in planned.names:
            report(f"asking {name}")
            _ask(planned, name, process)
        report("comparing prompts with training's")
        check_prompts(planned)
        report("comparing adapters with the base")
        check_applied(planned)
        report("hashing the weights")
        _check_unchanged(planned, adapters)
        base.result()
    seconds = time.monotonic() - started
    return Server(planned.base_url, planned.names, planned.log, seconds, _lasted(begun, seconds), process)


@contextmanager
def _disk_first(log: Path) -> Iterator[None]:
    """What goes wrong is the disk's fault where that is full: what the log lacks then is no sign."""
    try:
        yield
    except UserError:
        check_room(log)
        raise


def _lasted(begun: Mapping[str, float], end: float) -> tuple[tuple[str, float], ...]:
    """The stages of a start with their seconds, from when each began."""
    ends = [*list(begun.values())[1:], end]
    return tuple((words, over - began) for (words, began), over in zip(begun.items(), ends, strict=True))


def _check_unchanged(planned: ServingPlan, before: Mapping[str, AdapterContent]) -> None:
    """Refuse adapters that somebody wrote to while the server loaded them: which it has is not known."""
    for name, content in read_adapter_contents(planned).items():
        if content != before[name]:
            raise UserError(
                f"{content.folder} changed while the server loaded {name!r} from it",
                "wait until its training has finished, and start the server again",
            )


def _until_healthy(planned: ServingPlan, process: GuardedProcess, report: Callable[[str], None]) -> None:
    """Wait until it answers at all."""
    health = f"{planned.base_url.removesuffix('/v1')}/health"
    size, moved = 0, time.monotonic()
    with httpx2.Client(timeout=POLL_SECONDS * 8, **connection(health)) as client:
        while not _answers(client, health):
            text = log_text(planned.log)
            if len(text) != size:
                size, moved = len(text), time.monotonic()
            report(stage(text) or LOADING)
            if (code := process.poll(POLL_SECONDS)) is not None:
                raise failure(planned, log_text(planned.log), code)
            if time.monotonic() - moved > SILENCE_SECONDS:
                raise UserError(
                    f"vLLM has said nothing for {SILENCE_SECONDS:.0f} s and does not answer (log: {planned.log})",
                    "look at the log and at keepstate doctor, then start it again",
                )


def _answers(client: httpx2.Client, url: str) -> bool:
    try:
        return bool(client.get(url).status_code == 200)
    except httpx2.HTTPError:
        return False


def _ask(planned: ServingPlan, name: str, process: GuardedProcess) -> None:
    """Let one model answer with one token."""
    request = {"model": name, "messages": [{"role": "user", "content": "1 + 1"}], "max_tokens": 1, "temperature": 0}
    try:
        url = f"{planned.base_url}/chat/completions"
        answer = httpx2.post(url, json=request, timeout=ANSWER_SECONDS, **connection(url))
        reason = (
            ""
            if answer.status_code == 200 and answer.json()["choices"]
            else f"{answer.status_code} {answer.text[:500]}"
        )
    except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
    if not reason:
        return
    if (code := process.poll()) is not None:
        raise failure(planned, log_text(planned.log), code)
    raise UserError(
        f"the server is up, but {name!r} does not answer: {reason}",
        f"{planned.log} names the cause; an adapter can be left out: --lora",
    )
