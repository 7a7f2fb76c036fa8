"""What is checked before a training starts, in milliseconds: GPU, memory, disk, data, template, base model.

Each refusal is a `UserError` with the next command. Starts nothing and imports no torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from keepstate import machine
from keepstate.dataset.convert import messages_of
from keepstate.dataset.manifest import TEMPLATE, Manifest, read_manifest
from keepstate.dataset.templates import BUILT_IN, FOLDER, load_template
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.errors import UserError
from keepstate.files import file_hash
from keepstate.machine import GIB
from keepstate.model_files import absolute_model, model_folder
from keepstate.model_shape import KNOWN, ModelShape, read_shape
from keepstate.places import find, home
from keepstate.setup import basemodel, qwen3
from keepstate.train.axolotl_config import needs_gpu, rows_a_step
from keepstate.train.base_model import BaseModel
from keepstate.train.sizes import cpu_memory_gib, disk_gib, gpu_memory_gib, offloaded_gib
from keepstate.vocabulary import MIXED, RuntimeName

UNKNOWN_DISK_GIB = 2.0
"""Asked for where the base model's sizes are not known."""
LEAST_CONTEXT = 512
"""Tokens: no shorter one is proposed."""
ON_THE_HUB = re.compile(r"Qwen/Qwen3-[\d.]+B", re.IGNORECASE)
"""Models that have Qwen3's tokenizer, without which their data is neither counted nor proven."""
NO_GPU_HINT = "look further: keepstate doctor; without a GPU, train the small model: keepstate train RUNTIME --laptop"


COMPARED_ROWS = 20
"""Enough for any two tokenizers to differ: a row holds prose, code and JSON."""
SHORT_ROW = 650
"""Tokens of a persistent trace of `mini` tasks, the shortest rows there are."""


def check_machine(config: Mapping[str, Any], output: Path, processes: int = 1) -> tuple[machine.Gpu, ...]:
    """Refuse what cannot run here; choose a GPU a process, see `check_gpus`; none for a config that needs none.

    Raises:
        UserError: Too few GPUs for a config that needs them, too little memory in all or free, or no disk space.
    """
    gpus = check_gpus(config, processes) if needs_gpu(config) else ()
    shape = BaseModel.of(config).shape
    if shape:
        _check_main_memory(config, shape, processes, on_gpu=bool(gpus))
    needed = disk_gib(config, shape, gpu=bool(gpus)) if shape else UNKNOWN_DISK_GIB
    machine.require_disk(output, needed, "the training", "name another folder: --out")
    return gpus


def _check_main_memory(config: Mapping[str, Any], shape: ModelShape, processes: int, *, on_gpu: bool) -> None:
    """Refuse what takes more main memory than there is."""
    there = machine.memory_gib()
    if not on_gpu and there < (least := processes * _cpu_gib(config, shape, SHORT_ROW)):
        raise UserError(
            f"this machine has {there:.1f} GiB of memory, the training takes {least:.1f} GiB and more",
            "end other programs, or train a smaller model: --base-model",
        )
    if on_gpu and there < (least := processes * offloaded_gib(config, shape)):

        def fits(model: ModelShape, tokens: int) -> bool:
            return processes * offloaded_gib({**config, "sequence_len": tokens}, model) <= there

        raise UserError(
            f"this machine has {there:.1f} GiB of main memory, in which profile memory keeps what layers start from:"
            f" {least:.1f} GiB with {config['sequence_len']:,} tokens",
            f"{smaller(config, fits=fits)}; on a larger GPU --profile speed",
        )


def _cpu_gib(config: Mapping[str, Any], shape: ModelShape, tokens: int) -> float:
    return cpu_memory_gib(tokens, shape, int(config.get("lora_r") or 0))


def check_gpus(config: Mapping[str, Any], count: int) -> tuple[machine.Gpu, ...]:
    """The GPUs to train on: the first of `CUDA_VISIBLE_DEVICES`, else those with most free memory.

    Raises:
        UserError: There are too few, some are too small, or other programs hold too much of one.
    """
    found, named = machine.visible_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if not found and (hidden := len(machine.gpus())):
        raise UserError(
            f"this config needs a CUDA GPU; CUDA_VISIBLE_DEVICES={named!r} leaves none of the {hidden} of this machine",
            "name one by its number or UUID (nvidia-smi -L lists them), or: unset CUDA_VISIBLE_DEVICES",
        )
    if not found:
        raise UserError("this config needs a CUDA GPU, and this machine has none", NO_GPU_HINT)
    if len(found) < count:
        where = "this machine has" if named is None else f"CUDA_VISIBLE_DEVICES={named!r} leaves"
        raise UserError(f"--gpus {count}: {where} {len(found)}", f"--gpus {len(found)}, or fewer")
    chosen = tuple(found if named is not None else sorted(found, key=free_gib, reverse=True))[:count]
    shape = BaseModel.of(config).shape
    if shape is not None:
        for gpu in chosen:
            _check_memory(gpu, config, shape)
    return chosen


def _check_memory(gpu: machine.Gpu, config: Mapping[str, Any], shape: ModelShape) -> None:
    """Refuse a GPU that is too small, or that other programs hold too much of."""
    needed, free = gpu_memory_gib(config, shape), free_gib(gpu)
    asked = f"{config['base_model']} with {config['sequence_len']:,} tokens needs about {needed:.0f} GiB"
    if gpu.memory_gib < needed:
        raise UserError(f"{gpu.name} has {gpu.memory_gib:.0f} GiB, {asked}", _that_fits(config, shape, gpu.memory_gib))
    if free < needed:
        raise UserError(
            f"{free:.0f} of the {gpu.memory_gib:.0f} GiB of GPU {gpu.number}, {gpu.name}, are free, {asked}",
            f"end the programs that hold the rest (nvidia-smi names them), or {_that_fits(config, shape, free)}",
        )


def _that_fits(config: Mapping[str, Any], shape: ModelShape, gib: float) -> str:
    """The flags that fit a training into `gib` of GPU memory: first the profile that needs least."""
    least = {**config, "keepstate_profile": "memory"}
    fits = _on_gpu(least, gib)
    if config.get("keepstate_profile") != "speed":
        return smaller(config, fits=_on_gpu(config, gib))
    if fits(shape, int(config["sequence_len"])):
        return "layers that start from main memory: --profile memory"
    return f"--profile memory and {smaller(least, fits=fits)}"


def _on_gpu(config: Mapping[str, Any], gib: float) -> Callable[[ModelShape, int], bool]:
    """Whether a model fits into `gib` of GPU memory with rows of so many tokens."""
    return lambda shape, tokens: gpu_memory_gib({**config, "sequence_len": tokens}, shape) <= gib


def free_gib(gpu: machine.Gpu) -> float:
    """What is free of its memory; all of it where that is not told, as for a part of a GPU (MIG)."""
    free = machine.gpu_free_gib()
    known = len(free) == len(machine.gpus()) and not gpu.uuid.startswith("MIG-")
    return free[gpu.number] if known else gpu.memory_gib


def about_gpus(gpus: Sequence[machine.Gpu]) -> list[str]:
    """Which of several GPUs will train, and how a number that could mean two of them is read."""
    found, named = machine.gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if not gpus or len(found) < 2:
        return []
    numbers = ", ".join(str(gpu.number) for gpu in gpus)
    words = f"training on GPU {numbers} of {len(found)}: {gpus[0].name}"
    counted_by_pci = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({other.name for other in found}) == 1
    if named and named.strip()[0].isdecimal() and not counted_by_pci:
        words += f" (CUDA_VISIBLE_DEVICES={named} is read as nvidia-smi counts; a UUID has one meaning: {gpus[0].uuid})"
    return [words]


def about_cpu_memory(config: Mapping[str, Any], longest: int) -> list[str]:
    """A remark where a row of `longest` tokens may not fit into main memory."""
    shape, there = BaseModel.of(config).shape, machine.memory_gib()
    needed = _cpu_gib(config, shape, min(longest, int(config["sequence_len"]))) if shape else 0.0
    if needed <= there:
        return []
    flag = smaller(config, fits=lambda model, tokens: _cpu_gib(config, model, tokens) <= there)
    return [f"its longest row takes about {needed:.0f} GiB of memory, this machine has {there:.0f}: {flag}"]


def smaller(
    config: Mapping[str, Any], *, ran: bool = False, fits: Callable[[ModelShape, int], bool] | None = None
) -> str:
    """The flag that fits into less memory, the one that changes least first.

    Args:
        config: Axolotl's.
        ran: Memory ran out in a training, in which profile `speed` had spent what was free; it can go on with less.
        fits: Whether a model with so many tokens a row would fit; None where that is not known: half as many are named.
    """
    goes_on = "the same command goes on with " if ran else ""
    if ran and config.get("keepstate_profile") == "speed":
        return f"{goes_on}every layer recomputed: --profile memory"
    if int(config.get("micro_batch_size") or 1) > 1:
        return f"{goes_on}one row at once, the same rows a step: --batch-size 1 --grad-accum {rows_a_step(config)}"
    shape, tokens = BaseModel.of(config).shape, int(config["sequence_len"]) // 2
    while fits and shape and tokens > LEAST_CONTEXT and not fits(shape, tokens):
        tokens //= 2
    if fits and shape and not fits(shape, tokens):
        return _smaller_model(shape, int(config["sequence_len"]), fits)
    flag = f"a shorter context: --max-seq-length {tokens}"
    return f"{flag} --fresh (longer rows are dropped: another training, which begins anew)" if ran else flag


def _smaller_model(shape: ModelShape, tokens: int, fits: Callable[[ModelShape, int], bool]) -> str:
    """What fits where not even short rows of a model do: the largest known one, of its kind if there is one."""
    fitting = [name for name, known in KNOWN.items() if fits(known, tokens)]
    name = max(fitting, key=lambda name: (KNOWN[name].kind == shape.kind, KNOWN[name].parameters), default=None)
    return "a smaller model: --base-model" + (f" (of the size of {name} or less)" if name else " on a larger machine")


def check_place(config: Path, keys: Mapping[str, Any], runtime: str | None) -> None:
    """Refuse a config whose own folder is named after another runtime than the one that is trained.

    Raises:
        UserError: An adapter of one runtime would lie in a folder named after another.
    """
    folder = str(keys["output_dir"])
    named = {name for name in (*map(str, RuntimeName), MIXED) if name in re.split("[^a-z]+", Path(folder).name)}
    if runtime is not None and named and runtime not in named:
        raise UserError(
            f"the config {config} is for {', '.join(named)} ({folder}), this training is of {runtime}",
            "name the folder of the adapter: --out FOLDER",
        )


def check_data(
    dataset: Path, config: Mapping[str, Any], runtime: str | None = None, model: BaseModel | None = None
) -> tuple[Manifest, list[str]]:
    """The data set's manifest, and remarks.

    Args:
        dataset: Its folder.
        config: Axolotl's.
        runtime: What the adapter is for, a runtime or `mixed`; None: whatever the data is of.
        model: The base model where it is another one than the config was written for: its template is wanted then.

    Raises:
        UserError: No data set, built for another runtime, files changed since it was built or proven, or another chat
            template than the config's or the model's.
    """
    manifest = read_manifest(dataset)
    if runtime is not None and manifest.arm != runtime:
        raise UserError(
            f"{dataset} was built for the runtime {manifest.arm}, this training is of {runtime}",
            f"the same command with {manifest.arm} instead of {runtime}; or name a data set of {runtime}, "
            f"made by: {_build_command(dataset, manifest, runtime)}",
        )
    if changed := manifest.changed_files(dataset):
        raise UserError(
            f"{changed[0]} is not the file that the manifest names",
            f"build it again: {_build_command(dataset, manifest)}",
        )
    _check_template(dataset, manifest, config, model)
    if manifest.certificate is None:
        return manifest, [f"the data is not certified; prove it: keepstate dataset check {dataset}"]
    if any(manifest.certificate.data_sha256.get(name) != own for name, own in manifest.data_sha256.items()):
        raise UserError(
            f"{dataset}: the certificate is for other data", f"prove it again: keepstate dataset check {dataset}"
        )
    return manifest, []


def _check_template(dataset: Path, manifest: Manifest, config: Mapping[str, Any], model: BaseModel | None) -> None:
    """Refuse data built with another chat template than the config's; with another base model, than what fits that.

    A template of the user's own (no built-in one) was tried when the data was built, and is kept with any model.
    """
    held = load_template(dataset / TEMPLATE)
    if held.sha256 != manifest.template.sha256:
        raise UserError(
            f"{dataset / TEMPLATE} is not the chat template that the manifest names",
            f"build it again: {_build_command(dataset, manifest)}",
        )
    own = all(held.text != load_template(name).text for name in BUILT_IN)
    fitting = model.fitting_template() if model else None
    if model and own:
        return
    wanted = fitting or load_template(find(str(config["chat_template_jinja"])))
    if wanted.text != held.text:
        name = Path(wanted.name).stem if Path(wanted.name).resolve().parent == FOLDER else wanted.name
        whose = f"{model.name} needs" if model and fitting else "the config names"
        raise UserError(
            f"{dataset} was built with the chat template {manifest.template.name}, {whose} {name}",
            f"build it again: {_build_command(dataset, manifest, template=name, model=str(config['base_model']))}",
        )


def _build_command(
    dataset: Path,
    manifest: Manifest,
    runtime: str | None = None,
    *,
    template: str | None = None,
    model: str | None = None,
) -> str:
    """The command that builds such a data set anew, with another runtime, template or base model where named."""
    mix = ",".join(manifest.runtimes if manifest.arm == MIXED else (RuntimeName.PERSISTENT, RuntimeName.FORGET))
    command = f"keepstate dataset build --runtime {runtime or manifest.arm}"
    if (runtime or manifest.arm) == MIXED:
        command = f"keepstate dataset build --mix {mix}"
    if dataset.name == manifest.arm:
        command += f" --out {dataset.parent}"
    own = own_tokenizer(model) if model else None
    if own or model:
        command += f" --tokenizer {own[0] if own else 'FOLDER'}"
    elif Path(manifest.tokenizer.name).exists():
        command += f" --tokenizer {manifest.tokenizer.name}"
    command += f" --template {template or manifest.template.name}"
    return command if own or not model else f"{command}, where FOLDER holds the tokenizer of {model}"


def own_tokenizer(model: str) -> tuple[str, Path] | None:
    """What `--tokenizer` takes for a base model, and the file that it means, there or not.

    Of hubs' models those that were fetched, and Qwen3's.
    """
    if folder := model_folder(model):
        return str(folder), folder / "tokenizer.json"
    return ("qwen3", qwen3.folder() / "tokenizer.json") if ON_THE_HUB.match(model) else None


def find_model(name: str) -> Path | None:
    """The base model's folder; None where the name is a hub's.

    Raises:
        UserError: It is written as a folder that is not there, is no model's, or is the laptop's and half made.
    """
    found = absolute_model(name)
    if isinstance(found, Path):
        if not (found / "config.json").is_file():
            raise UserError(f"{found} is no model folder: config.json is missing", "name another: --base-model")
        if found == basemodel.folder() and not basemodel.is_ready():
            raise UserError(f"{found} is incomplete", f"make it again: {basemodel.COMMAND}")
        return found
    if name.startswith(("models/", ".", "/")):
        laptops = (home() / name).resolve() == basemodel.folder()
        hint = f"make it: {basemodel.COMMAND}" if laptops else "name another folder, or a hub name: --base-model"
        raise UserError(f"no such model folder: {name}", hint)
    return None


def about_model(name: str, manifest: Manifest, dataset: Path) -> list[str]:
    """Remarks on the base model that `find_model` found, and the data that is to train it.

    Raises:
        UserError: The data was proven with a tokenizer that makes other tokens of it than the model's.
    """
    there, shape = model_folder(name) is not None, read_shape(name)
    size = f" ({shape.weight_bytes / GIB:.1f} GiB)" if shape else ""
    remarks = [] if there else [f"{name} is fetched from the model hub first{size}"]
    option, tokenizer = own_tokenizer(name) or ("", Path())
    if not tokenizer.is_file() and option != "qwen3":
        return remarks
    proven = manifest.tokenizer
    if proven.sha256 == (file_hash(tokenizer) if tokenizer.is_file() else qwen3.FILES[tokenizer.name]):
        return remarks
    same = _same_tokens(Path(proven.name), tokenizer, dataset)
    if same is False:
        raise UserError(
            f"{dataset} was proven with the tokenizer {proven.name}; {tokenizer} makes other tokens of it: "
            "what is trained would not be what was proven",
            f"build it for this model: {_build_command(dataset, manifest, model=name)}",
        )
    if same is None:
        remarks.append(
            f"the data was counted and proven with {proven.name}, which is not the base model's tokenizer.json; "
            f"to be sure: keepstate dataset check {dataset} --tokenizer {option}"
        )
    return remarks


def _same_tokens(proven: Path, trained: Path, dataset: Path) -> bool | None:
    """Whether two tokenizers make the same tokens of the first rows; None where one is gone."""
    if not (proven.exists() and trained.exists()):
        return None
    ours, theirs, template = TextTokenizer(proven), TextTokenizer(trained), load_template(dataset / TEMPLATE)
    with (dataset / "train.jsonl").open(encoding="utf-8") as file:
        texts = [template.render(messages_of(line)) for line in islice(file, COMPARED_ROWS)]
    return all(ours.ids(text) == theirs.ids(text) for text in texts)
