"""Axolotl plugin of train_speed.py: random weights made on the device, and the time and memory of every step.

    plugins: [timing_plugin.TimingPlugin]     with TIMING_RESULT naming the JSON file to write

With TIMING_CAP the process gets so many GiB of the GPU and no more, and reads the model's files as a training does.
Of several processes the first writes TIMING_RESULT, the others write beside it.
TIMING_ROWS names a file for the rows that were trained. Not for training: it saves nothing and ends the process after
the last step.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from axolotl.integrations.base import BasePlugin
from step_kernels import gaps
from torch.autograd import DeviceType
from transformers import Qwen3ForCausalLM, TrainerCallback
from weights import DEVICE, draw_factors, random_weights

GIB = 2**30
ROW = ("input_ids", "labels", "position_ids")


def load_random(loader: Any, model_loader_class: Any = None) -> Any:
    """Instead of reading weights from files."""
    weights = random_weights(loader.model_config)
    arguments = {name: value for name, value in loader.model_kwargs.items() if name != "trust_remote_code"}
    model = Qwen3ForCausalLM.from_pretrained(None, state_dict=weights, config=loader.model_config, **arguments)
    del weights
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
    return model


class Clock(TrainerCallback):  # type: ignore[misc]
    """Times each step with the device idle before and after; with TIMING_KERNELS, profiles the last."""

    def __init__(self, result: Path) -> None:
        self._result = result
        self._kernels = bool(os.environ.get("TIMING_KERNELS")) and DEVICE == "cuda"
        self._profiler: Any = None
        self._data: dict[str, Any] = {"seconds": [], "allocated": [], "reserved": [], "kept": [], "losses": []}
        self._rows: list[dict[str, torch.Tensor]] = []
        self._start = 0.0

    def noting_rows(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """A trainer's step that also notes what it is given."""

        def noted(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            self._rows.append({name: inputs[name].cpu() for name in ROW if name in inputs})
            return step(model, inputs, *args, **kwargs)

        return noted

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        if self._kernels and state.global_step == state.max_steps - 1:
            from torch.profiler import ProfilerActivity, profile

            self._profiler = profile(activities=[ProfilerActivity.CUDA])
            self._profiler.__enter__()
        self._wait()
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self._start = time.perf_counter()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Note the peak before callbacks of the step's end reset it; in the last step, keep the gradients if asked."""
        self._peak()
        target = os.environ.get("TIMING_GRADIENTS")
        if target and state.global_step == state.max_steps - 1:
            torch.save({name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}, target)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Stop the clock, write everything so far."""
        self._wait()
        data = self._data
        data["seconds"].append(time.perf_counter() - self._start)
        self._peak()
        layers = [m for m in model.modules() if type(m).__name__.endswith("DecoderLayer")]
        data["kept"].append(sum(not layer.gradient_checkpointing for layer in layers))
        if self._profiler is not None:
            self._profiler.__exit__(None, None, None)
            events = [e for e in self._profiler.key_averages() if e.self_device_time_total > 0]
            rows = sorted(((e.self_device_time_total / 1e3, e.count, e.key[:160]) for e in events), reverse=True)
            data["kernels"] = rows[:60]
            ran = [(e.name, e.time_range) for e in self._profiler.events() if e.device_type == DeviceType.CUDA]
            ran.sort(key=lambda event: event[1].start)
            between = gaps((name, time.start, time.end - time.start) for name, time in ran)
            data["idle_ms"] = sum(length for length, *_ in between) / 1e3
            data["longest_gaps_us"] = [(us, a[:80], b[:80]) for us, a, b in sorted(between, reverse=True)[:40]]
            data["seconds"].pop()
        print(f"step {state.global_step}: {data['seconds'][-1:]} s, kept {data['kept'][-1]}", flush=True)
        self._result.write_text(json.dumps(data))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Keep the loss."""
        if logs and "loss" in logs:
            self._data["losses"].append(float(logs["loss"]))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End here: what Axolotl does after the last step is not measured."""
        if self._rows:
            torch.save(self._rows, os.environ["TIMING_ROWS"])
        self._data["finished"] = True
        self._result.write_text(json.dumps(self._data))
        sys.stdout.flush()
        os._exit(0)

    def _wait(self) -> None:
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    def _peak(self) -> None:
        if DEVICE == "cuda":
            self._data["allocated"].append(torch.cuda.max_memory_allocated() / GIB)
            self._data["reserved"].append(torch.cuda.max_memory_reserved() / GIB)


class TimingPlugin(BasePlugin):  # type: ignore[misc]
    """Random weights instead of a model's files, and the clock."""

    def pre_model_load(self, cfg: Any) -> None:
        """Replace the reading of weights, or read them within the cap."""
        if cap := os.environ.get("TIMING_CAP"):
            total = torch.cuda.get_device_properties(0).total_memory / GIB
            torch.cuda.set_per_process_memory_fraction(float(cap) / total)
            return
        from axolotl.loaders.model import ModelLoader

        ModelLoader._load_model_from_pretrained = load_random

    def post_model_load(self, cfg: Any, model: Any) -> None:
        """Start from the same factors; where gradients are compared, with B not 0, or A had no gradient."""
        draw_factors(model.named_parameters(), b=0.01 if os.environ.get("TIMING_GRADIENTS") else 0.0)

    def get_training_args(self, cfg: Any) -> dict[str, Any] | None:
        """Rehearsals run on the CPU."""
        return None if DEVICE == "cuda" else {"use_cpu": True}

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        """Add the clock, before other callbacks of a step's begin."""
        result, number = Path(os.environ["TIMING_RESULT"]), int(os.environ.get("RANK", "0"))
        clock = Clock(result.with_suffix(f".{number}.json") if number else result)
        trainer.add_callback(clock)
        if os.environ.get("TIMING_ROWS"):
            trainer.training_step = clock.noting_rows(trainer.training_step)
