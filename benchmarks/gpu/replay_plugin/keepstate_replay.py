"""vLLM plugin for measuring: answers are those of a file (`replay.py pack`), whatever the weights.

Just before a token is picked, the logit of the one that stands in the recorded answer is raised beyond all others; the
model computes what it always does, and drafts are accepted where they are what stands there. A prompt that the file
does not have is said in the log, and its answer ends with its first token: random weights would write until the context
is full, minutes for one episode. Both of vLLM's model runners are wrapped; costs some .1 ms a step.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

FILE = "KEEPSTATE_REPLAY"
SLOTS = 2048
BEYOND = 10_000.0


class Replay:
    """The recorded answers, and where each open request stands in its own.

    A request has a row of `tokens`; row 0 is that of those which came before the device was known.
    """

    def __init__(self, path: str) -> None:
        found = np.load(path)
        ends = np.cumsum(found["lengths"])
        answers = np.split(found["tokens"], ends[:-1])
        self._answers = dict(zip(found["keys"].tolist(), answers, strict=True))
        self._longest = int(found["lengths"].max())
        self._end = found["tokens"][ends[:1] - 1]
        self._rows: dict[str, int] = {}
        self._free = list(range(SLOTS - 1, 0, -1))
        self._device: torch.device | None = None

    @torch.inference_mode()
    def follow(self, scheduled: Any) -> None:
        """New requests get rows, ended ones give theirs back."""
        for name in scheduled.finished_req_ids:
            if row := self._rows.pop(name, 0):
                self._free.append(row)
        for new in scheduled.scheduled_new_reqs:
            prompt = new.prompt_token_ids
            if new.req_id in self._rows:  # it was preempted
                continue
            answer = self._answers.get(_key(prompt)) if prompt else None
            if answer is None:
                print(f"replay: {new.req_id} is not known, {len(prompt or ())} tokens", flush=True)
            if self._device is not None:
                row = self._rows[new.req_id] = self._free.pop()
                whole = np.full(self._longest, -1, np.int64)
                whole[: 1 if answer is None else len(answer)] = self._end if answer is None else answer
                self._tokens[row] = torch.from_numpy(whole).to(self._device)
                self._begins[row] = len(prompt or ())

    @torch.inference_mode()
    def force(self, logits: torch.Tensor, names: Sequence[str], counts: Sequence[int], places: torch.Tensor) -> None:
        """Raise the recorded tokens' logits.

        Args:
            logits: A row for every token to pick.
            names: The requests, in order.
            counts: How many rows each has.
            places: Of the last token before each row, in its request.
        """
        if self._device is None:
            self._device = logits.device
            self._tokens = torch.full((SLOTS, self._longest), -1, dtype=torch.int64, device=logits.device)
            self._begins = torch.zeros(SLOTS, dtype=torch.int64, device=logits.device)
        if not self._rows:
            return
        rows = torch.tensor(np.repeat([self._rows.get(name, 0) for name in names], counts))
        rows = rows.to(logits.device, non_blocking=True)
        at = places[: len(rows)].long() + 1 - self._begins[rows]
        tokens = self._tokens[rows, at.clamp(0, self._longest - 1)]
        known = (tokens >= 0) & (at >= 0) & (at < self._longest)
        raised = torch.where(known, BEYOND, 0.0).to(logits.dtype)
        logits[: len(rows)].scatter_add_(1, tokens.clamp(min=0)[:, None], raised[:, None])


def _key(prompt: Sequence[int]) -> int:
    return int.from_bytes(hashlib.blake2b(np.asarray(prompt, np.int32).tobytes(), digest_size=8).digest())


def register() -> None:
    """Wrap the runners, where a file is told of.

    On a GPU only in the engine's own process, a fork of the one that loads plugins, which must not touch the GPU.
    """
    if not (path := os.environ.get(FILE)):
        return
    from vllm.platforms import current_platform

    if not current_platform.is_cuda():
        _wrap_first(Replay(path))
        return
    from vllm.v1.engine.core import EngineCore

    begin = EngineCore.__init__

    def begun(self: Any, *rest: Any, **more: Any) -> None:
        replay = Replay(path)
        _wrap_first(replay)
        _wrap_second(replay)
        begin(self, *rest, **more)

    EngineCore.__init__ = begun


def _wrap_first(replay: Replay) -> None:
    """vLLM's older runner, which drafts by n-grams."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    execute, sample = GPUModelRunner.execute_model, GPUModelRunner._sample

    def executed(self: Any, scheduled: Any, *rest: Any, **more: Any) -> Any:
        replay.follow(scheduled)
        return execute(self, scheduled, *rest, **more)

    def sampled(self: Any, logits: Any, drafted: Any) -> Any:
        names = self.input_batch.req_ids[: self.input_batch.num_reqs]
        if logits is not None:
            if drafted is None:
                counts, places = [1] * len(names), self.query_start_loc.gpu[1 : len(names) + 1] - 1
            else:
                counts, places = [count + 1 for count in drafted.num_draft_tokens], drafted.logits_indices
            replay.force(logits, names, counts, self.positions[places])
        return sample(self, logits, drafted)

    GPUModelRunner.execute_model, GPUModelRunner._sample = executed, sampled


def _wrap_second(replay: Replay) -> None:
    """vLLM's newer runner, on a GPU."""
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner
    from vllm.v1.worker.gpu.sample.sampler import Sampler

    execute, sample = GPUModelRunner.execute_model, Sampler.__call__

    def executed(self: Any, scheduled: Any, *rest: Any, **more: Any) -> Any:
        replay.follow(scheduled)
        return execute(self, scheduled, *rest, **more)

    def sampled(self: Any, logits: Any, batch: Any) -> Any:
        counts = np.diff(batch.cu_num_logits_np[: batch.num_reqs + 1])
        replay.force(logits, batch.req_ids[: batch.num_reqs], counts, batch.positions[batch.logits_indices])
        return sample(self, logits, batch)

    GPUModelRunner.execute_model, Sampler.__call__ = executed, sampled
