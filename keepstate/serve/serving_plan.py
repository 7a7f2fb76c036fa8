"""What is decided before a server starts: base, adapters, chat template, port, context; and the command it comes to.

Every refusal that can be made without starting vLLM is made here, in milliseconds and a second for each GB of adapters.
Starts nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keepstate import machine
from keepstate.dataset.templates import BUILT_IN, FOLDER, load_template
from keepstate.errors import UserError
from keepstate.model_files import (
    GENERATION,
    absolute_model,
    ends_of_answers,
    model_folder,
    read_object,
    special_tokens,
)
from keepstate.model_shape import read_shape
from keepstate.places import log_file
from keepstate.serve.adapters import ServedAdapter, read_adapters
from keepstate.serve.capacity import CPU_CACHE_GIB, cpu_cache_gib, gpu_context
from keepstate.serve.fitting import base_sizes, check_fits, tuned_kernels
from keepstate.serve.ports import HOST, free_port, is_loopback, own_url
from keepstate.serve.vllm_arguments import argument_of, check_cache, fp8_cache, memory_share, vllm_arguments
from keepstate.setup import environments
from keepstate.setup.environments import Device
from keepstate.train.preflight import find_model
from keepstate.vocabulary import BASE

PORT = 8000
QWEN3 = "Qwen/Qwen3-8B"
CONTEXT: dict[Device, int] = {"cuda": 40_960, "cpu": 8_192}
"""Tokens of prompt and answer: the specification's, and SmolLM2's positions."""
MIN_CONTEXT = 256
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


@dataclass(frozen=True, slots=True)
class Nodes:
    """Machines of a Ray cluster that serve together."""

    address: str | None
    """`auto`, or `HOST:PORT`; None: this one alone."""
    replicas: int


@dataclass(frozen=True, slots=True)
class ServingPlan:
    """A server as it will be started."""

    base_model: str
    """Absolute folder or hub name."""
    adapters: tuple[ServedAdapter, ...]
    template: Path
    """Chat template: the file that the training data was rendered with."""
    device: Device
    port: int
    context: int
    nothink: bool
    log: Path
    remarks: tuple[str, ...] = ()
    """What a user should know."""
    cpu_cache_gib: int = CPU_CACHE_GIB
    """Of the key-value cache, on the CPU."""
    generation: Mapping[str, Any] | None = None
    """What stands in for the model's `generation_config.json`; None: its own."""

    wants_key: bool = False
    """Whether it answers only who sends the key of this process's `KEEPSTATE_API_KEY`."""
    vllm_arguments: tuple[str, ...] = ()
    """More words of vLLM's command line, the user's own."""
    host: str = HOST
    """The address that it listens on."""
    kernels: Path | None = None
    """Folder of tuned configurations of vLLM's LoRA kernels; None: vLLM's own."""
    gpu: machine.Gpu | None = None
    """The one that it takes; None: what CUDA gives it."""
    replicas: tuple[str, ...] = ()
    """Base URLs of all servers that start together with it; none where it is alone."""
    nodes: Nodes | None = None
    """Where it is served by Ray Serve LLM; None: by one vLLM here."""

    @property
    def names(self) -> tuple[str, ...]:
        """The models it will answer to, the base first."""
        return (BASE, *(adapter.name for adapter in self.adapters))

    @property
    def dtype(self) -> str:
        """Of weights and cache: bf16, but float32 on a processor that has no instructions for it."""
        return "float32" if self.device == "cpu" and machine.lacks_bf16() else "bfloat16"

    @property
    def base_url(self) -> str:
        """Of the API, as this machine reaches it."""
        return own_url(self.host, self.port)

    def argument(self, key: str) -> str | None:
        """What the user gave vLLM for one option; None where nothing."""
        return argument_of(self.vllm_arguments, key)

    @property
    def generation_folder(self) -> Path:
        """Where `generation` is written for the server."""
        return self.log.with_suffix(".generation")

    @property
    def is_local(self) -> bool:
        """Whether the base model is a folder here, so that nothing needs the network."""
        return Path(self.base_model).is_absolute()


def plan_serving(
    *,
    base_model: str | Path | None = None,
    adapters: Sequence[str | Path] = (),
    template: str | Path | None = None,
    port: int = PORT,
    context: int | None = None,
    nothink: bool | None = None,
    log: Path | None = None,
    vllm_args: Sequence[str] = (),
) -> ServingPlan:
    """Check everything that can be checked before vLLM starts.

    Args:
        base_model: Model folder or hub name; by default what the adapters were trained on, else Qwen3-8B.
        adapters: Folders of adapters, or `NAME=FOLDER`.
        template: A built-in chat template or a Jinja file; by default the adapters', else the one that fits the base.
        port: On 127.0.0.1; 0 picks a free one.
        context: Tokens; by default 40,960 on a GPU, or what it has room for, and 8,192 on the CPU; never more than the
            model holds.
        nothink: Turn thinking off for every request; by default as the environment's `NOTHINK` says, else on.
        log: What vLLM says goes there; by default `vllm-<port>.log`, where `places.log_file` says.
        vllm_args: More options for vLLM, each `KEY` or `KEY=VALUE`; they win over ours.

    Raises:
        UserError: Says what is wrong and what to do.
    """
    served = read_adapters(adapters)
    device = environments.device()
    base, remarks = _base_model(base_model, served)
    if device == "cpu" and base == QWEN3:
        raise UserError(
            f"{QWEN3} needs a CUDA GPU, and this machine has none",
            "look further: keepstate doctor; without a GPU, serve the small model: keepstate serve --laptop",
        )
    port, shape, chosen = port or free_port(), read_shape(base), _template(template, base, served)
    sizes = base_sizes(base, shape) if served else {}
    for adapter in served:
        remarks += check_fits(adapter, base, sizes, device)
    tokens = _context(context, base, device)
    arguments = vllm_arguments(vllm_args)
    check_cache(arguments, device)
    if device == "cuda" and shape is not None:
        tokens, shorter = gpu_context(
            base, shape, context, tokens, served, memory_share(arguments), narrow=fp8_cache(arguments)
        )
        remarks += shorter
    if device == "cpu" and machine.lacks_bf16():
        remarks.append("this processor has no bf16 instructions: serving in float32, which is faster here")
    generation, stops = _generation(base, chosen)
    remarks += stops
    return ServingPlan(
        base_model=base,
        adapters=served,
        template=chosen,
        device=device,
        port=port,
        context=tokens,
        cpu_cache_gib=cpu_cache_gib(base, shape, tokens) if device == "cpu" else 0,
        generation=generation,
        nothink=_nothink() if nothink is None else nothink,
        log=(log or log_file(f"vllm-{port}.log")).resolve(),
        remarks=tuple(remarks),
        vllm_arguments=arguments,
        kernels=tuned_kernels(shape, served) if device == "cuda" else None,
    )


def with_access(planned: ServingPlan, host: str, *, wants_key: bool) -> ServingPlan:
    """The same server, listening on `host`, which other machines reach with a key only.

    Raises:
        UserError: They would reach it without one.
    """
    if not is_loopback(host) and not wants_key:
        raise UserError(
            f"on {host} every machine that reaches this one could ask the server",
            "write a key into a file and ask for it: --api-key-file FILE",
        )
    return replace(planned, host=host, wants_key=wants_key)


def _base_model(given: str | Path | None, adapters: Sequence[ServedAdapter]) -> tuple[str, list[str]]:
    """The base, checked to be there if it is a folder, and what is odd about it."""
    trained_on = {adapter.base_model: adapter.name for adapter in adapters if adapter.base_model}
    if given is None and len(trained_on) > 1:
        raise UserError(
            f"the adapters were trained on different base models: {', '.join(sorted(trained_on))}",
            "serve those of one base at a time, or name it: --base-model",
        )
    name = str(given or next(iter(trained_on), QWEN3))
    found = find_model(name) or name
    remarks = [
        f"{adapter} was trained on {base}, not on {found}: its answers mean nothing unless they are the same model"
        for base, adapter in trained_on.items()
        if str(absolute_model(base)) != str(found)
    ]
    return str(found), remarks


def _template(given: str | Path | None, base: str, adapters: Sequence[ServedAdapter]) -> Path:
    """The chat template's file."""
    trained = next((adapter for adapter in adapters if adapter.template_sha256), None)
    if given is not None:
        path = FOLDER / f"{given}.jinja" if str(given) in BUILT_IN else Path(given).expanduser().resolve()
        if trained and load_template(path).sha256 != trained.template_sha256:
            raise UserError(
                f"{trained.name} was trained with another chat template than {given}: it would meet prompts that it"
                " never saw",
                "leave --template away: the adapter's own is used",
            )
        load_template(path)
        return path
    if trained is None:
        return FOLDER / f"{_fitting_template(base)}.jinja"
    for path in (*(FOLDER / f"{name}.jinja" for name in BUILT_IN), trained.folder / "chat_template.jinja"):
        if path.is_file() and load_template(path).sha256 == trained.template_sha256:
            return path
    raise UserError(
        f"the chat template that {trained.name} was trained with is neither built in nor in {trained.folder}",
        "name the file of its data set: --template data/datasets/.../chat_template.jinja",
    )


def _fitting_template(base: str) -> str:
    """The built-in template for a base model, by its tokenizer or, where that is not here, by its name."""
    from keepstate.dataset.fitting import template_of  # 0.2 s that most plans need not wait for

    if found := template_of(base):
        return found
    raise UserError(
        f"which chat template {base} needs is not known before it is fetched",
        f"name it: --template {'|'.join(BUILT_IN)}, or a Jinja file",
    )


def _generation(base: str, template: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The model's generation config with the token that ends an answer added, where neither it nor the tokenizer ends
    there: without it the server would write on behind every answer. None where nothing is missing or known.
    """
    folder = model_folder(base)
    if folder is None or not (folder / "tokenizer.json").is_file():
        return None, []
    from keepstate.dataset.sample import end_of_turn  # 0.2 s that plans of other models need not wait for
    from keepstate.dataset.tokenizer import TextTokenizer

    tokenizer, ends = TextTokenizer(folder), ends_of_answers(folder)
    end = end_of_turn(load_template(template, folder), tokenizer)
    if end is None or tokenizer.specials[end] in ends or special_tokens(folder).get("eos_token") == end:
        return None, []
    added = read_object(folder / GENERATION) | {"eos_token_id": sorted({*ends, tokenizer.specials[end]})}
    return added, [f"answers end at {end}, where {base} itself does not end"]


def _context(given: int | None, base: str, device: Device) -> int:
    """Tokens of context, within what the model has positions for."""
    folder = model_folder(base)
    told = read_object(folder / "config.json").get("max_position_embeddings") if folder else None
    positions = told if isinstance(told, int) else None
    if given is None:
        return min(CONTEXT[device], positions or CONTEXT[device])
    if given < MIN_CONTEXT or (positions and given > positions):
        allowed = f"{MIN_CONTEXT} to {positions}" if positions else f"{MIN_CONTEXT} or more"
        raise UserError(f"a context of {given} tokens; {base} takes {allowed}", "choose another: --context")
    return given


def _nothink() -> bool:
    """What the environment's NOTHINK says; thinking is off where it says nothing."""
    value = os.environ.get("NOTHINK", "").strip().lower() or "true"
    if value not in TRUE + FALSE:
        raise UserError(f"NOTHINK is {value!r}", "set it to true or false, or unset it")
    return value in TRUE
