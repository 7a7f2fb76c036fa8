"""vLLM's command line and environment for a plan: on a GPU with 40,960 tokens, or its CPU build on few cores."""

from __future__ import annotations

import json
import os
from pathlib import Path

from keepstate import machine
from keepstate.models.endpoint import KEY
from keepstate.places import caches
from keepstate.serve.adapters import max_rank, target_modules
from keepstate.serve.capacity import GPU_MEMORY
from keepstate.serve.fitting import TUNED
from keepstate.serve.over_nodes import as_told
from keepstate.serve.serving_plan import ServingPlan
from keepstate.serve.vllm_arguments import GPU_SHARE, drafted
from keepstate.setup import environments
from keepstate.setup.ray import ray_environment
from keepstate.vocabulary import BASE

CPU_BLOCK = 32
"""Tokens of a block of the prefix cache, the least that vLLM's CPU kernels are made for: a turn recomputes the last,
half-filled block. vLLM's own: 128."""
CPU_ANSWERS = 256
"""Answers that may be under way while a prompt of the whole context is read in one step."""
SEQUENCES = 256
"""Answers under way at once on a GPU, where the user does not say; others wait. vLLM's own, on a large card: 1,024."""
GRAPH_SIZES = (1, 2, 4, 8, *range(16, 64, 16), 64, 96, 128, 192, 256, 384, 512)
"""Tokens of a step for which a CUDA graph is kept; a step is padded to the next one. vLLM's own: 51 sizes."""
DRAFTING, MOST_DRAFTED = (1, 2, 4, 6, 8, 12, 16, 24, 32, 40, 48, 56, 64, 72, 96, 128), 648
"""Answers of a step for which one is kept where each has drafts, up to so many tokens: vLLM takes whole answers only.
Without one for 64 answers of nine tokens a step of them took 54 ms instead of 23."""
PLUGIN_FOLDER = Path(__file__).resolve().parent / "plugin"
PLUGIN = "keepstate"
INSIDE = Path(__file__).resolve().parent / "inside"
GUARD = "keepstate_key.KeyEverywhere"


def command(planned: ServingPlan, python: Path) -> list[str]:
    """Program and arguments of the server.

    Args:
        planned: What to serve.
        python: Of `.venv-serve`.
    """
    arguments = {
        "--model": planned.base_model,
        "--served-model-name": BASE,
        "--host": planned.host,
        "--port": str(planned.port),
        "--dtype": planned.dtype,
        "--max-model-len": str(planned.context),
        "--chat-template": str(planned.template),
    }
    if planned.nothink:
        arguments["--default-chat-template-kwargs"] = json.dumps({"enable_thinking": False})
    if planned.generation is not None:
        arguments["--generation-config"] = str(planned.generation_folder)
    flags = ["--enable-prefix-caching", "--enable-prompt-tokens-details"]
    if planned.wants_key:
        flags += ["--middleware", GUARD]
    if planned.device == "cuda":
        arguments[f"--{GPU_SHARE}"] = str(GPU_MEMORY)
        arguments["--max-num-seqs"] = str(SEQUENCES)
        if not planned.argument("compilation-config"):  # vLLM refuses sizes in both places
            flags += ["--cudagraph-capture-sizes", *map(str, graph_sizes(planned))]
    else:
        arguments["--block-size"] = str(CPU_BLOCK)
    if planned.device == "cpu":
        flags.append("--enforce-eager")  # as vLLM does with adapters; without any it would compile for minutes
        # A prompt that is read in parts, of a request with a seed, ends vLLM 0.32's engine on the CPU, whose generators
        # have no offset to turn back (gpu_model_runner._bookkeeping_sync): none is ever split.
        arguments["--max-num-batched-tokens"] = str(planned.context + CPU_ANSWERS)
        flags.append("--no-enable-chunked-prefill")
    if planned.adapters:
        arguments["--max-loras"] = str(len(planned.adapters))
        arguments["--max-lora-rank"] = str(max_rank(planned.adapters))
        loras = [f"{adapter.name}={adapter.folder}" for adapter in planned.adapters]
        flags += ["--enable-lora", "--lora-modules", *loras]
        # Without embeddings and logits: on the CPU 228 tokens/s for 12 instead of 194.
        flags += ["--lora-target-modules", *target_modules(planned.adapters)]
    words = [*(word for pair in arguments.items() for word in pair), *flags, *planned.vllm_arguments]
    # -P: a folder named like a module in the current folder must not be imported
    if planned.nodes is not None:
        told = json.dumps(as_told(planned, planned.nodes, words, own_environment(planned)))
        return [str(python), "-P", str(INSIDE / "keepstate_ray.py"), told]
    return [str(python), "-P", "-m", "vllm.entrypoints.openai.api_server", *words]


def graph_sizes(planned: ServingPlan) -> list[int]:
    """Of the CUDA graphs that the planned load needs: up to twice the answers at once, as vLLM has it (a step that also
    reads prompts has more tokens than answers), each with its drafts."""
    told = planned.argument("max-num-seqs") or ""
    sequences = int(told) if told.isdecimal() else SEQUENCES  # vLLM says itself what is no number
    if not (drafts := drafted(planned.vllm_arguments)):
        return [size for size in GRAPH_SIZES if size <= 2 * sequences]
    sizes = [answers * (1 + drafts) for answers in DRAFTING if answers <= 2 * sequences]
    return [size for size in sizes if size <= MOST_DRAFTED] or sizes[:1]


def own_environment(planned: ServingPlan) -> dict[str, str]:
    """The variables that the server gets beside ours: no telemetry, and no network where nothing is needed from it."""
    own = {**environments.NO_TELEMETRY}
    if planned.is_local:
        own["HF_HUB_OFFLINE"] = "1"
    if planned.device == "cpu":
        if "OMP_NUM_THREADS" not in os.environ:  # a number that somebody set stays
            # At most so many: a thread more than there is room for costs the others more than it brings.
            own["OMP_NUM_THREADS"] = str(max(1, machine.cores() // max(1, len(planned.replicas))))
            own["KEEPSTATE_ROOM"] = "1"
        # OpenMP threads spin before they sleep: so long by libgomp's default that they keep a busy processor busy.
        own |= environments.unless_set({"GOMP_SPINCOUNT": "10000"})
        # The search for drafts asks for one thread each time, of the same OpenMP as the model, which then makes its
        # threads anew: 36 tokens per CPU second instead of 93 (20 at once, one thread).
        own["NUMBA_NUM_THREADS"] = "1"
        own["VLLM_CPU_KVCACHE_SPACE"] = str(planned.cpu_cache_gib)
        # Wherever they find room: vLLM would bind its threads to the first cores, beside whatever runs there.
        own["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        # Not for the model, which runs eagerly: for two small functions, the first answer with log-probabilities waited
        # 41 s for a C++ compiler (beside other programs), where the next took .6 s.
        own["TORCHDYNAMO_DISABLE"] = "1"
        own["VLLM_PLUGINS"] = PLUGIN
    else:
        # The engine begins as a copy of the process that has imported vLLM; vLLM's own way imports all of it again.
        own["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
        # Else torch chooses another place when it compiles than when it finds all compiled, and the second start
        # compiles the kernels of sampling and LoRA once more, for 15 s.
        home = caches(planned.log.parent / "home").get("HOME") or str(Path.home())
        own["TRITON_CACHE_DIR"] = os.environ.get("TRITON_CACHE_DIR") or f"{home}/.triton/cache"
        if planned.kernels:
            own[TUNED] = str(planned.kernels)
    if planned.gpu:
        own |= machine.only([planned.gpu])
    places = [PLUGIN_FOLDER] + [environments.ROOM_FOLDER] * (planned.device == "cpu") + [INSIDE] * planned.wants_key
    return own | {"PYTHONPATH": os.pathsep.join(map(str, places))}


def environment(planned: ServingPlan) -> dict[str, str]:
    """The server's whole environment, with the key that it asks for: on a command line every user could read it."""
    key = {"VLLM_API_KEY": os.environ[KEY]} if planned.wants_key else {}
    if planned.nodes is not None:
        key |= ray_environment(alone=planned.nodes.address is None)
    return os.environ | caches(planned.log.parent / "home") | own_environment(planned) | key
