"""What a vLLM log tells: how far a start has come, and why one failed. Reads text; knows no process."""

from __future__ import annotations

import re

from keepstate.errors import UserError
from keepstate.processes import log_end
from keepstate.serve.serving_plan import ServingPlan
from keepstate.setup import environments

STAGES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"non-default args"), "reading the configuration"),
    (re.compile(r"Resolved architecture"), "starting the engine's process"),
    (re.compile(r"Initializing a V1 LLM engine"), "starting the engine"),
    (re.compile(r"Starting to load model|Loading model from scratch"), "loading the weights"),
    (re.compile(r"Loading weights took"), "preparing the model"),
    (re.compile(r"Dynamo bytecode transform|Compiling a graph"), "compiling the model"),
    (re.compile(r"torch.compile took"), "measuring the memory"),
    (re.compile(r"KV cache size: (?P<detail>[\d,]+ tokens)"), "cache of"),
    (re.compile(r"Capturing CUDA graph"), "capturing CUDA graphs"),
    (re.compile(r"Graph capturing finished"), "warming up"),
    (re.compile(r"Loaded new LoRA adapter: name '(?P<detail>[^']+)'"), "loaded adapter"),
    (re.compile(r"Application startup complete"), "checking the answers"),
)
"""Lines of vLLM 0.24 and 0.32, in the order in which they come."""

_LOADED = re.compile(r"Loaded new LoRA adapter: name '([^']+)'")
_HEAD = re.compile(r"^(?:\([^)]*\) )?(?:[A-Z]+ [\d-]+ [\d:]+ \[[^\]]*\] ?)?")
_NOISE = re.compile(
    r"\s|$|Traceback|\[shutdown\]|Route: |nanobind|See https|.*resource_tracker|.*Parent process exited"
)
"""What follows the cause in a log: the frames of tracebacks, the end of processes, what libraries leak."""
_CAUSE = re.compile(r"^(?:\([^)]*\) )*(?P<what>[\w.]*(?:Error|Exception)\b: .+)$", re.MULTILINE)


KILLED = 137
"""The code of a process that the kernel killed, which it does where memory ends: it says nothing itself."""


def stage(log: str) -> str:
    """How far the start has come, in words; empty before the first line that tells."""
    found: list[tuple[int, str]] = []
    for pattern, words in STAGES:
        for match in pattern.finditer(log):
            detail = match.groupdict().get("detail")
            found.append((match.start(), f"{words} {detail}" if detail else words))
    return max(found, default=(0, ""))[1]


def failure(planned: ServingPlan, log: str, code: int) -> UserError:
    """Why the server ended before it answered, and what to do.

    Args:
        planned: What was to be served.
        log: All that it said.
        code: Its exit code.
    """
    cause, hint = _explain(planned, log, code)
    return UserError(f"{cause}; from the end of {planned.log}:\n{last_words(log)}", hint)


def last_words(log: str) -> str:
    """The last lines that say something."""
    lines = [line for line in log.splitlines() if not _NOISE.match(_HEAD.sub("", line, count=1))]
    return log_end("\n".join(lines))


def check_plugin(planned: ServingPlan, log: str) -> None:
    """Refuse a CPU server whose adapters are applied by vLLM's own code, which is wrong where models are mixed.

    Raises:
        UserError: vLLM did not take our plugin (`plugin/keepstate_vllm.py`).
    """
    if planned.device == "cpu" and planned.adapters and "Using GroupedLora" not in log:
        raise UserError(
            f"vLLM did not load keepstate's LoRA plugin: the base's answers would be wrong (log: {planned.log})",
            f"make the environment again: rm -r {environments.spec('serve').folder} && keepstate setup serve",
        )


def _explain(planned: ServingPlan, log: str, code: int) -> tuple[str, str]:
    """The cause, by what vLLM's log says, and the remedy."""
    lower = f"serve with a smaller --context than {planned.context}"
    beside = "end other programs that use it" + (f" (nvidia-smi), or {lower}" if planned.device == "cuda" else "")
    short = r"OutOfMemoryError|out of memory|Free memory on device|Available memory on node"
    fetch = "check its name and the network, or name a model folder: --base-model FOLDER"
    known = (
        (
            r"ddress already in use",
            f"port {planned.port} was taken meanwhile",
            f"choose another: --port {planned.port + 1}",
        ),
        (r"error: (?:unrecognized arguments: |argument --)", "vLLM does not take an option", "correct it: --vllm-arg"),
        (
            r"KV cache is (?:larger|needed)|KV cache memory|No available memory for the cache",
            "the memory left beside the weights holds too few tokens",
            lower,
        ),
        (
            r"No space left on device|Disk quota exceeded|Errno (?:28|122)\b",
            "no disk space left for what vLLM writes",
            "free some where it says above (caches lie in ~/.cache and in TMPDIR), then start it again",
        ),
        (short if code != KILLED else "", "the memory did not suffice", beside),
        (
            r"Repository Not Found|is not a valid model identifier|couldn't connect|LocalEntryNotFound",
            f"the model {planned.base_model} could not be fetched",
            fetch,
        ),
    )
    for pattern, cause, hint in known:
        if re.search(pattern, log):
            return cause, hint
    if "Application startup complete" not in log and (name := _unloaded(planned, log)):
        return (
            f"the adapter {name!r} could not be loaded",
            f"what vLLM says above names the cause; its layers fit {planned.base_model}'s. Or leave it out",
        )
    causes = _CAUSE.findall(log)
    words = f"vLLM ended with code {code}" + (f" ({causes[-1][:300]})" if causes else "")
    return words, "what it says above names the cause; keepstate doctor checks the environment"


def _unloaded(planned: ServingPlan, log: str) -> str | None:
    """The adapter whose loading failed: they are loaded in order, after the engine is up."""
    if "lora" not in log.lower().rpartition("init engine")[2]:
        return None
    loaded = set(_LOADED.findall(log))
    return next((adapter.name for adapter in planned.adapters if adapter.name not in loaded), None)
