"""vLLM's own layers with LoRA, folded, against products in float32; Triton's kernel in its interpreter (no bf16 there).

Run by test_fold.py in the server's environment, with `TRITON_INTERPRET=1` and the plugin's folder on the path.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import keepstate_expand
import keepstate_fold
import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.config.lora import LoRAConfig
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.lora.layers import (
    MergedColumnParallelLinearWithLoRA,
    MergedQKVParallelLinearWithLoRA,
    RowParallelLinearWithLoRA,
)
from vllm.lora.ops.triton_ops.lora_kernel_metadata import LoRAKernelMeta
from vllm.model_executor.layers.linear import MergedColumnParallelLinear, QKVParallelLinear, RowParallelLinear

ADAPTERS, INPUTS = 3, 64
BATCHES = (
    [-1, -1],
    [1],
    [0, 1, 2, -1, 2] * 7,
    [2] * 70,
    [1] * 100 + [-1] * 60 + [2, 0] * 10,  # more rows than are taken at once
)
META = LoRAKernelMeta.make(ADAPTERS, 200, "cpu")


def layers(bias: bool) -> list:
    """One of each kind that Qwen3's blocks have."""
    how = {"bias": bias, "params_dtype": torch.float16}
    return [
        MergedQKVParallelLinearWithLoRA(QKVParallelLinear(INPUTS, 64, 16, 4, **how)),
        MergedColumnParallelLinearWithLoRA(MergedColumnParallelLinear(INPUTS, [512, 512], **how)),
        RowParallelLinearWithLoRA(RowParallelLinear(INPUTS, 512, **how)),
    ]


def load(layer, rank: int) -> dict[int, list]:
    """Adapters into its slots as vLLM puts them: one twice, one without its second slice, one taken out again."""
    widths = [matrix.shape[2] for matrix in layer.lora_b_stacked]
    loaded = {}
    for slot in (0, 1, 2, 1):
        a = [torch.randn(rank, INPUTS) / 8 for _ in widths]
        b = [torch.randn(width, rank) / 4 for width in widths]
        if slot == 2 and len(widths) > 1:
            a[1] = b[1] = None
        loaded[slot] = list(zip(a, b, widths, strict=True))
        layer.set_lora(slot, *((a, b) if len(widths) > 1 else (a[0], b[0])))
    layer.reset_lora(0)
    return loaded | {0: []}


def wanted(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, asked: list[int], loaded: dict):
    """What the layer is, in float32."""
    outputs = x.float() @ weight.float().t() + (0 if bias is None else bias.float())
    for row, slot in enumerate(asked):
        left = 0
        for a, b, width in loaded.get(slot, []):
            if a is not None:
                outputs[row, left : left + width] += b.float() @ (a.float() @ x[row].float())
            left += width
    return outputs


def check(layer, rank: int, folds: bool) -> None:
    """Its outputs for every batch."""
    base = layer.base_layer
    base.weight.data.normal_(0, 1 / 8)
    if base.bias is not None:
        base.bias.data.normal_()
    weight = base.weight.data.clone()
    layer.create_lora_weights(ADAPTERS, LoRAConfig(max_lora_rank=rank, max_loras=ADAPTERS, lora_dtype=torch.float16))
    layer.set_mapping(SimpleNamespace(token_mapping_meta=META))
    assert (layer.folded is not None) == folds, (rank, layer)
    assert torch.equal(base.weight, weight)
    if not folds:
        return
    loaded = load(layer, rank)
    for asked in BATCHES:
        META.prepare_tensors(torch.tensor(asked))
        x = torch.randn(len(asked), INPUTS)
        outputs = layer(x)[0]
        assert outputs.is_contiguous()
        torch.testing.assert_close(outputs.float(), wanted(x, weight, base.bias, asked, loaded), rtol=0.01, atol=0.03)


def main() -> None:
    """Check all kinds with several ranks."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)
    keepstate_fold.fold_layers()
    keepstate_expand.FEW = 64
    rendezvous = f"file://{Path(sys.argv[1]) / 'rendezvous'}"
    with set_current_vllm_config(VllmConfig()):
        init_distributed_environment(1, 0, rendezvous, 0, backend="gloo")
        initialize_model_parallel()
        for rank, bias, folds in ((16, False, True), (32, True, True), (8, False, False), (128, False, False)):
            for layer in layers(bias):
                check(layer, rank, folds)
    print("as they should be")


if __name__ == "__main__":
    main()
