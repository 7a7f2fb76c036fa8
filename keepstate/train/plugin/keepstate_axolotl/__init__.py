"""What Axolotl's YAML has no key for, as a plugin: bf16 on the CPU, progress, one order, a GPU's speed and memory.

    plugins: [keepstate_axolotl.KeepstatePlugin]      # with this folder on PYTHONPATH

Runs inside the training environment and imports nothing of keepstate. What it switches on lies in the modules beside
it. Does not touch data or optimiser.
"""

from __future__ import annotations

import os
from typing import Any, Literal

import torch
from accelerate import PartialState
from axolotl.integrations.base import BasePlugin
from axolotl.loaders.model import ModelLoader
from axolotl.utils import trainer as axolotl_trainer
from axolotl.utils.collators import DataCollatorForSeq2Seq
from pydantic import BaseModel
from transformers import TrainerCallback, set_seed

from . import attention, callbacks, cpu_attention, cpu_lora, loss, order
from .memory import FewerCheckpoints

COUNT_TOKENS = ("llama", "qwen3")
"""Models whose loss, transformers' and Liger's, divides by the number of tokens of the whole step."""
EVAL_MULTIPLE = 64
"""Tokens; Axolotl's own where it does not pad to the whole context."""


class KeepstateArgs(BaseModel):
    """The keys that this plugin adds to Axolotl's configuration."""

    keepstate_profile: Literal["speed", "memory"] | None = None


class KeepstatePlugin(BasePlugin):  # type: ignore[misc]
    """Axolotl's hooks, in the order in which it calls them. Without a profile, a GPU trains by Axolotl's own parts."""

    def register(self, cfg: Any) -> None:
        """Set the order of packed rows, by which steps are counted before there is a model; put `memory` into keys.

        What a recomputed layer starts from waits in main memory: 16,384 tokens of Qwen3-8B take 10.9 GiB of the GPU
        instead of 14.6, 1.1 % of the speed and 4.5 GiB of the machine (H200).
        """
        if not torch.cuda.is_available() and "RANK" in os.environ:
            together_on_cpu()
        if cfg.get("seed") is not None:
            order.install(int(cfg["seed"]), int(cfg["sequence_len"]))
        recomputes = cfg.get("gradient_checkpointing") is True
        if cfg.get("keepstate_profile") == "memory" and recomputes and cfg.get("activation_offloading") is None:
            cfg["activation_offloading"] = "hidden_states"

    def get_input_args(self) -> str:
        """Add our keys to Axolotl's schema."""
        return "keepstate_axolotl.KeepstateArgs"

    def get_training_args(self, cfg: Any) -> dict[str, Any] | None:
        """`use_cpu` lets the trainer accept `bf16: true` without a GPU.

        A loss that is no number is logged as it is: to look for one after each row, the trainer waits for the GPU,
        which then waits for clipping and optimiser to be launched (50 of 1,130 ms, one row of 16,384 tokens a step).
        """
        return {"logging_nan_inf_filter": False} if torch.cuda.is_available() else {"use_cpu": True}

    def pre_model_load(self, cfg: Any) -> None:
        """Put in what is faster and computes the same; on a GPU, where some of it needs Triton, with either profile."""
        if not torch.cuda.is_available():
            cpu_attention.install()
            return
        if cfg.keepstate_profile is None:
            return
        if cfg.sample_packing and cfg.attn_implementation == "sdpa":
            attention.install()
        if cfg.liger_fused_linear_cross_entropy:
            loss.install()
        if cfg.fused_attn_kernel and cfg.model_config_type == "qwen3":
            from . import rope

            rope.install()

    def pre_lora_load(self, cfg: Any, model: Any) -> None:
        """Let the seed cover the adapter's first weights, which Axolotl draws before it seeds."""
        if cfg.seed is not None:
            set_seed(cfg.seed)

    def post_lora_load(self, cfg: Any, model: Any) -> None:
        """Without a GPU, compute logits only where they count, and low-rank parts in place."""
        if not torch.cuda.is_available():
            loss.install_on_cpu(model)
            cpu_lora.install(model)

    def post_model_load(self, cfg: Any, model: Any) -> None:
        """The same for what is done to the model itself, after Axolotl's own kernels."""
        if cfg.keepstate_profile is None or not torch.cuda.is_available():
            return
        if cfg.sample_packing and cfg.attn_implementation == "sdpa":
            print(f"keepstate: attention of packed rows by {attention.choose(model.config)}", flush=True)
        if cfg.lora_qkv_kernel and cfg.lora_o_kernel and cfg.lora_mlp_kernel:
            from . import lora

            print(f"keepstate: LoRA of {lora.install(model)} layers with shared products", flush=True)
        if cfg.liger_fused_linear_cross_entropy:
            loss.without_logits(model)

    def get_collator_cls_and_kwargs(self, cfg: Any, is_eval: bool = False) -> tuple[type, dict[str, Any]] | None:
        """Evaluate unpacked traces at their own length: padded as training rows are, each would cost 16,384 tokens."""
        if is_eval and cfg.pad_to_sequence_len and not cfg.eval_sample_packing:
            return DataCollatorForSeq2Seq, {"pad_to_multiple_of": EVAL_MULTIPLE}
        return None

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        """Let no tracker's fault end the training, and every trained token of a step count the same.

        Axolotl 0.19.0 averages the means of a step's batches for every model that takes the number of tokens as a
        keyword it does not name: a short trace's tokens would weigh more, and other ones with the step divided
        otherwise (losses of two rows .0026 apart).
        """
        callbacks.shelter(trainer.callback_handler.callbacks)
        callbacks.mend_epochs(trainer)
        if cfg.model_config_type in COUNT_TOKENS:
            trainer.model_accepts_loss_kwargs = True
            trainer.args.average_tokens_across_devices = trainer.args.world_size > 1  # Axolotl averages their means
            order.count_each_row_once(trainer)

    def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[TrainerCallback]:
        """Progress, saving and tracking as the launcher asked for; `speed` spends free memory.

        Only where rows have one length: a longer one later would not find the memory that the first ones left.
        """
        asked: list[TrainerCallback] = callbacks.from_environment()
        if cfg.keepstate_profile == "speed" and cfg.pad_to_sequence_len:
            asked.append(FewerCheckpoints())
        return asked


def together_on_cpu() -> None:
    """Let processes without a GPU train together, where Axolotl lets each train alone and names a GPU for its model.

    accelerate would name the processor `cpu:0`, to which torch does not load an optimiser's checkpoint. And
    Axolotl asks whether their GPUs reach each other, where a torch with CUDA ends for want of a driver.
    """
    os.environ |= {"ACCELERATE_USE_CPU": "true", "ACCELERATE_TORCH_DEVICE": "cpu"}  # for what starts anew later
    PartialState._reset_state()
    PartialState(cpu=True)
    axolotl_trainer.check_cuda_p2p_ib_support = lambda: True
    set_place = ModelLoader._set_device_map_config

    def nowhere_else(loader: Any) -> None:
        loader.cfg.device_map = None
        set_place(loader)

    ModelLoader._set_device_map_config = nowhere_else
