"""vLLM's worker on the CPU, with as many threads as the processors have room for, found anew between steps.

The plugin beside this file names it to vLLM where `KEEPSTATE_ROOM` is set. Does not change what is computed but for the
order of sums.
"""

from __future__ import annotations

from typing import Any

import torch
from keepstate_room import ThreadRoom
from vllm.v1.worker.cpu_worker import CPUWorker

set_threads = torch.set_num_threads  # before the worker, which binds none here, puts a refusal in its place


class RoomyWorker(CPUWorker):  # type: ignore[misc]
    """Looks before each step, and takes a number of threads other than the last where there is other room."""

    def init_device(self) -> None:
        """Begin with the threads that the process was given: never more, vLLM has made room for so many."""
        super().init_device()
        self._room = ThreadRoom(torch.get_num_threads())
        print(f"keepstate: at most {self._room.most} threads, as the processors have room", flush=True)

    def execute_model(self, *arguments: Any, **options: Any) -> Any:
        """Compute a step."""
        threads = self._room.look()
        if threads is not None and threads != torch.get_num_threads():
            set_threads(threads)
        return super().execute_model(*arguments, **options)
