"""Unsloth on the rows that a project's variant was trained on, from the same weights: one process of train_speed.py.

    PYTHON benchmarks/gpu/unsloth_speed.py MODEL ROWS RESULT --checkpointing unsloth

Matched: NF4 with double quantisation, rank 64, scale 2, factors in float32 and drawn alike, no dropout, bf16 autocast,
a row a step, clipping at 1 and torch's AdamW in every step. Its own kernels, its fused loss, and for packed rows its
padding-free attention (`packed_seq_lengths`). A loop without a trainer, which costs it nothing. Does not save anything.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GIB = 2**30


def load(unsloth: Any, folder: Path, sequence: int, checkpointing: Any) -> Any:
    """The model with an adapter that starts as the project's does."""
    import torch
    from weights import draw_factors

    model, _ = unsloth.FastLanguageModel.from_pretrained(
        str(folder), max_seq_length=sequence, dtype=torch.bfloat16, load_in_4bit=True, local_files_only=True
    )
    model = unsloth.FastLanguageModel.get_peft_model(
        model,
        r=64,
        lora_alpha=128,
        lora_dropout=0,
        bias="none",
        use_gradient_checkpointing=checkpointing,
        target_modules=TARGETS,
    )
    draw_factors(model.named_parameters())
    unsloth.FastLanguageModel.for_training(model, use_gradient_checkpointing=checkpointing)
    return model


def inputs_of(row: dict[str, Any]) -> dict[str, Any]:
    """A row as Unsloth's own packing hands it over: where it holds several documents, with their lengths."""
    import torch

    inputs = {name: row[name].cuda() for name in ("input_ids", "labels")}
    starts = torch.nonzero(row["position_ids"].flatten() == 0).flatten() if "position_ids" in row else torch.zeros(1)
    if len(starts) > 1:
        ends = torch.cat([starts[1:], torch.tensor([row["input_ids"].numel()])])
        inputs["position_ids"] = row["position_ids"].cuda()
        inputs["packed_seq_lengths"] = (ends - starts).to(torch.int32)
    return inputs


def train(model: Any, rows: list[dict[str, Any]], result: Path, about: dict[str, Any]) -> None:
    """A step a row; writes everything so far after each."""
    import torch

    factors = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(factors, lr=2e-4, weight_decay=0.0)
    data: dict[str, Any] = about | {"seconds": [], "allocated": [], "reserved": [], "losses": [], "kept": ["-"]}
    data["factors"] = sorted({str(factor.dtype) for factor in factors})
    for row in rows:
        inputs = inputs_of(row)
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(factors, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        data["seconds"].append(time.perf_counter() - start)
        data["allocated"].append(torch.cuda.max_memory_allocated() / GIB)
        data["reserved"].append(torch.cuda.max_memory_reserved() / GIB)
        data["losses"].append(loss.item())
        print(f"step {len(data['seconds'])}: {data['seconds'][-1]} s, loss {data['losses'][-1]}", flush=True)
        result.write_text(json.dumps(data))


def attention_of(sys_modules: Any) -> str:
    """Which kernels Unsloth has found."""
    dispatch = sys_modules["unsloth.utils.attention_dispatch"]
    return "flash-attn" if dispatch.HAS_FLASH_ATTENTION else "xformers" if dispatch.HAS_XFORMERS else "SDPA"


def main() -> None:
    """Import, wait for the word, train. Does not end regularly: what compiles in the background is not waited for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder with weights")
    parser.add_argument("rows", type=Path, help="what TIMING_ROWS named")
    parser.add_argument("result", type=Path, help="JSON file to write")
    parser.add_argument("--checkpointing", choices=["no", "unsloth"], default="no")
    parser.add_argument("--sdpa", action="store_true", help="without xformers or flash-attn, if they are there")
    given = parser.parse_args()
    os.environ |= {"UNSLOTH_DISABLE_STATISTICS": "1", "UNSLOTH_COMPILE_LOCATION": str(given.result.parent / "unsloth")}
    if given.sdpa:
        sys.modules |= dict.fromkeys(("xformers", "flash_attn"))
    import unsloth

    if sys.stdin.readline().strip() != "go":
        return
    import torch

    rows = torch.load(given.rows)
    checkpointing = given.checkpointing if given.checkpointing == "unsloth" else False
    model = load(unsloth, given.model, rows[0]["input_ids"].numel(), checkpointing)
    about = {"unsloth": unsloth.__version__, "attention": attention_of(sys.modules)}
    train(model, rows, given.result, about)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
