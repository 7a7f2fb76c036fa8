"""What the plugin puts in the place of Axolotl's and Liger's functions computes the same. Asserts; prints what ran.

    .venv-train/bin/python tests/train/kernels_agree.py        # started by test_plugin_kernels.py

On the CPU: LoRA layers against PEFT's own, in double precision; weights in NF4 with an adapter in them, by Triton's
interpreter; the loss of trained tokens; where documents begin; which attention is chosen; how many layers fit; what
profile `memory` moves away. On a GPU, also norm with rotation against its formula (attention:
benchmarks/gpu/attention.py).
"""

import contextlib
import os
import sys
import types
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before a kernel is defined
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "keepstate" / "train" / "plugin"))


def swiglu_forward(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """In the place of Axolotl's kernel, which needs a GPU."""
    return F.silu(gate) * up


def swiglu_backward(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As above: the product, and the gradients of gate and up."""
    share = torch.sigmoid(gate)
    silu = gate * share
    return silu * up, grad * up * share * (1 + gate * (1 - share)), grad * silu


fake = types.ModuleType("axolotl.kernels.swiglu")
fake.swiglu_forward, fake.swiglu_backward = swiglu_forward, swiglu_backward  # type: ignore[attr-defined]
sys.modules["axolotl.kernels.swiglu"] = fake

from bitsandbytes.functional import dequantize_4bit, quantize_4bit  # noqa: E402
from keepstate_axolotl import attention, cudnn, documents, flash, lora, loss, memory, merge  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS  # noqa: E402

GIB = 2**30
NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def lora_layer(dropout: float = 0.0) -> torch.nn.Module:
    """A model of one layer in double precision, with an adapter whose scale is no power of two and whose B is not 0."""
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=16, num_hidden_layers=1, **shape))
    adapter = LoraConfig(r=4, lora_alpha=6, lora_dropout=dropout, target_modules=NAMES)
    wrapped = get_peft_model(model, adapter).to(torch.float64)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return wrapped


def gradients(model: torch.nn.Module, outputs: list[torch.Tensor], x: torch.Tensor) -> list[torch.Tensor]:
    """Of the input and of all adapter weights that have a part in the outputs."""
    torch.manual_seed(1)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(
        outputs, [x, *trained], [torch.randn_like(output) for output in outputs], allow_unused=True
    )
    return [gradient for gradient in found if gradient is not None]


def check_lora() -> None:
    """Projections and feed-forward, outputs and every gradient."""
    model = lora_layer()
    layer = model.get_base_model().model.layers[0]
    attention, mlp = layer.self_attn, layer.mlp
    attention.apply_qkv = attention.apply_o = None
    x = torch.randn(2, 5, 24, dtype=torch.float64, requires_grad=True)
    own = {
        "qkv": lambda: [attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)],
        "o": lambda: [attention.o_proj(x)],
        "mlp": lambda: [mlp(x)],
    }
    wanted = {name: (function(), gradients(model, function(), x)) for name, function in own.items()}
    assert lora.install(model) == 1
    ours = {
        "qkv": lambda: list(attention.apply_qkv(x)),
        "o": lambda: [attention.apply_o(x)],
        "mlp": lambda: [mlp(x)],
    }
    for name, function in ours.items():
        torch.testing.assert_close((function(), gradients(model, function(), x)), wanted[name])
    dropped = lora_layer(dropout=0.1)
    dropped.get_base_model().model.layers[0].self_attn.apply_qkv = None
    assert lora.install(dropped) == 0


def check_merged() -> None:
    """Projections of NF4 weights, of which one has scales that are not quantised: outputs and every gradient.

    In float32, since Triton's interpreter cuts bf16 off where a GPU rounds.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    x = torch.randn(5, 192, device=device, requires_grad=True)
    shapes, projections, weights = ((200, 8), (136, 20), (64, 4)), [], []
    for number, (outputs, _) in enumerate(shapes):
        weight = torch.randn(outputs, 192, device=device, dtype=torch.bfloat16) / 50
        packed, state = quantize_4bit(weight, quant_type="nf4", blocksize=64, compress_statistics=number != 1)
        state.dtype = torch.float32
        projections.append(lora.Projection(packed, state, 1.5))
        weights.append(dequantize_4bit(packed, state).float())
    assert [merge.fits(projection.state) for projection in projections] == [True, False, True]
    assert not merge.fits(None)
    factors = [
        torch.randn(shape, device=device, requires_grad=True)
        for outputs, rank in shapes
        for shape in ((rank, 192), (outputs, rank))
    ]
    summed = [w + 1.5 * b @ a for w, a, b in zip(weights, factors[::2], factors[1::2], strict=True)]
    wanted = [x @ matrix.t() for matrix in summed]
    grads = [torch.randn_like(output) for output in wanted]
    plain = mock.patch.object(lora, "dequantize", lambda packed, state: dequantize_4bit(packed, state).float())
    with plain:
        found = lora.Projections.apply(x, projections, *factors)
        torch.testing.assert_close(list(found), wanted, rtol=1e-4, atol=1e-4)
        ours = torch.autograd.grad(found, [x, *factors], grads)
    torch.testing.assert_close(ours, torch.autograd.grad(wanted, [x, *factors], grads), rtol=1e-4, atol=1e-3)


def check_loss() -> None:
    """Only trained rows reach the loss, and value and gradient are those of all rows."""
    seen: list[int] = []

    def fused(
        hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, items: int, ignored: int
    ) -> torch.Tensor:
        seen.append(len(target))
        return F.cross_entropy(hidden @ weight.t(), target, ignore_index=ignored, reduction="sum") / items

    torch.manual_seed(0)
    hidden, weight = torch.randn(6, 4, requires_grad=True), torch.randn(9, 4)
    target = torch.tensor([-100, 3, -100, 8, 0, -100])
    results = []
    for function in (fused, loss.on_trained_tokens(fused)):
        value = function(hidden, weight, target, 3, -100)
        results.append((value, torch.autograd.grad(value, hidden)[0]))
    torch.testing.assert_close(results[0], results[1])
    loss.on_trained_tokens(fused)(hidden, weight, torch.full((6,), -100), 1, -100)
    assert seen == [6, 3, 6]


def check_documents() -> None:
    """Offsets of two rows laid end to end; what fills a row up is one document."""
    found = documents.find_documents(torch.tensor([[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]]))
    assert (found.number, found.offsets.tolist(), found.longest) == (4, [0, 3, 5, 6, 10], 4)
    filled = documents.find_documents(torch.tensor([[0, 1, 0, 0, 0], [0, 0, 0, 1, 2], [0, 0, 0, 0, 0]]))
    assert (filled.number, filled.offsets.tolist(), filled.longest) == (6, [0, 2, 5, 6, 7, 10, 15], 5)


def check_places() -> None:
    """Where cuDNN's kernels look for the documents: in elements, with empty ones behind the last."""
    shape = cudnn.Shape(0, torch.bfloat16, 10, 4, 2, 8, 1.0, documents=8, longest=256)
    plan = object.__new__(cudnn.Plan)
    plan._shape, plan._placed = shape, None
    found = documents.find_documents(torch.tensor([[0, 1, 2, 0, 1, 2, 3, 0, 1, 2]]))
    place = {uid: tensor.flatten().tolist() for uid, tensor in plan.place(found).items()}
    assert place[cudnn.LENGTHS] == [3, 4, 3, 0, 0, 0, 0, 0]
    assert place[cudnn.AT_STATISTICS] == [0, 12, 28, 40, 40, 40, 40, 40, 40]
    assert place[cudnn.AT_QUERY] == [8 * number for number in place[cudnn.AT_STATISTICS]]
    assert place[cudnn.AT_KEY] == [4 * number for number in place[cudnn.AT_STATISTICS]]
    assert [cudnn.size_class(count, 8) for count in (1, 8, 9, 16, 17)] == [8, 8, 16, 16, 32]
    assert not cudnn.available() or torch.cuda.is_available()


def check_choice() -> None:
    """FlashAttention 4 for packed rows and single documents where its trial finds nothing; else as without it."""
    before, asked = ALL_ATTENTION_FUNCTIONS["sdpa"], list[tuple[object, ...]]()
    config = LlamaConfig(hidden_size=24, num_attention_heads=4, num_key_value_heads=2)
    assert attention.choose(config) == "what Axolotl chose"
    packed = attention.PackedAttention(before, before)
    ALL_ATTENTION_FUNCTIONS.register("sdpa", packed)
    try:
        with mock.patch.object(flash, "trial", return_value="it broke"):
            assert attention.choose(config).endswith(" (FlashAttention 4: it broke)")
        assert (packed.attend, packed.single) == (attention.attend, before)
        with mock.patch.object(flash, "trial", side_effect=lambda *heads: asked.append(heads) or ""):
            assert attention.choose(config) == "FlashAttention 4"
        assert asked == [(4, 2, 6, attention.attend_by_torch)]
        assert (packed.attend, packed.single) == (flash.attend, packed.several)
        packed.attend = lambda query, key, value, found, scaling: query * (key.shape[1] + found.number)
        states = [torch.ones(2, heads, 5, 6) for heads in (4, 2, 2)]
        output, _ = packed.single(None, *states, position_ids=torch.arange(5).expand(2, 5))
        assert output.shape == (2, 5, 4, 6)
        assert output.unique().tolist() == [4]
    finally:
        ALL_ATTENTION_FUNCTIONS.register("sdpa", before)


def check_trial() -> None:
    """What is not there, does not run or computes something else is not used, and why is said."""
    if not torch.cuda.is_available():
        assert flash.trial(32, 8, 128, attention.attend_by_torch) == "no Hopper GPU"
    cuda = mock.patch.multiple(torch.cuda, is_available=lambda: True, get_device_capability=lambda: flash.HOPPER)
    for result, words in (
        (ImportError("No module named 'flash_attn'"), "not installed: No module named 'flash_attn'"),
        (RuntimeError("no such tile\nat line 3"), "RuntimeError: no such tile"),
        ([0.3], "its results are 0.300 from PyTorch's"),
        ([float("nan")], "its results are nan from PyTorch's"),
        ([0.003], ""),
    ):
        with cuda, mock.patch.object(flash, "_apart", side_effect=result):
            assert flash.trial(32, 8, 128, attention.attend_by_torch) == words


def check_memory() -> None:
    """As many layers as the budget holds, none too many."""
    fit = memory.layers_that_fit
    assert fit(36, budget=70, base=10, probed=18, probe=4) == 30
    assert fit(36, budget=500, base=10, probed=18, probe=4) == 36
    assert fit(36, budget=9, base=10, probed=18, probe=4) == 0
    assert fit(36, budget=70, base=10, probed=10, probe=4) == 36


def check_rows() -> None:
    """Three rows decide: all recomputed, four kept, then as many as the GPU holds with Adam's state to come.

    Fewer layers than that are probed by as many as there are; without any that is recomputed there is nothing to keep.
    """
    assert kept_layers(20) == [0, 4, 16, 16]
    assert kept_layers(2) == [0, 2, 2, 2]
    assert kept_layers(0) == [0, 0, 0, 0]


def kept_layers(count: int) -> list[int]:
    """How many of `count` layers are kept after each of four rows, on a GPU of 80 GiB."""
    peaks = iter([0, 10 * GIB, 18 * GIB])
    gpu = types.SimpleNamespace(
        is_available=lambda: True,
        max_memory_allocated=lambda: next(peaks),
        mem_get_info=lambda: (30 * GIB, 80 * GIB),
        memory_reserved=lambda: 20 * GIB,
        empty_cache=lambda: None,
        reset_peak_memory_stats=lambda: None,
    )
    real, memory.torch = memory.torch, types.SimpleNamespace(cuda=gpu)
    layers = [torch.nn.Module() for _ in range(count)]
    for layer in layers:
        layer.self_attn, layer.gradient_checkpointing = torch.nn.Identity(), True
    callback = memory.FewerCheckpoints(reserve_gib=8.0)
    optimizer = types.SimpleNamespace(state={})
    kept = []
    for ends in (callback.on_substep_end, callback.on_substep_end, callback.on_step_end, callback.on_step_end):
        ends(None, None, None, model=torch.nn.ModuleList(layers), optimizer=optimizer)
        kept.append(sum(not layer.gradient_checkpointing for layer in layers))
    memory.torch = real
    return kept


def check_offloading() -> None:
    """Profile `memory`: what a recomputed layer starts from, and nothing else, is taken; gradients are the same.

    Axolotl's manager moves it away on a GPU only: on a CPU it counts it and leaves it.
    """
    from axolotl.monkeypatch.checkpoint_activation_offload import CheckpointHiddenStatesOffload

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=16, num_hidden_layers=3, **shape)).to(device).train()
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=NAMES)).to(torch.float64)
    wrapped.enable_input_require_grads()
    ids = torch.randint(16, (1, 20), device=device)
    found = []
    for recomputed, offloaded in ((False, False), (True, False), (True, True)):
        if recomputed:
            wrapped.gradient_checkpointing_enable({"use_reentrant": False})
        manager = CheckpointHiddenStatesOffload(use_streams=device == "cuda")
        with manager if offloaded else contextlib.nullcontext():
            wrapped.zero_grad()
            wrapped(input_ids=ids, labels=ids).loss.backward()
            found.append([p.grad.clone() for p in wrapped.parameters() if p.grad is not None])
            taken = manager.stats.offloaded_tensors if device == "cuda" else manager.stats.skipped_marked_tensors
            assert (manager.stats.marked_tensors, taken) == ((3, 3) if offloaded else (0, 0)), manager.stats
    assert len(found[0]) == 42
    for grads in found[1:]:
        for grad, wanted in zip(grads, found[0], strict=True):
            torch.testing.assert_close(grad, wanted, rtol=1e-12, atol=1e-12)


def check_norm_rope() -> None:
    """Norm and rotation against the formula; GPU only."""
    from keepstate_axolotl import rope

    for heads in (8, 3):
        x = torch.randn(2, 7, heads, 16, device="cuda", requires_grad=True)
        weight, (cos, sin) = torch.randn(16, device="cuda"), torch.randn(2, 1, 7, 16, device="cuda")
        ours = rope.over(torch.add)(x, weight, cos, sin)
        normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight
        turned = torch.cat([-normed[..., 8:], normed[..., :8]], dim=-1)
        wanted = normed * cos[:, :, None] + turned * sin[:, :, None]
        grad = torch.randn_like(x)
        torch.testing.assert_close(ours, wanted)
        torch.testing.assert_close(*(torch.autograd.grad(y, x, grad)[0] for y in (ours, wanted)))


def main() -> None:
    """Run every check that this machine can."""
    checks = [
        check_lora,
        check_merged,
        check_loss,
        check_documents,
        check_places,
        check_choice,
        check_trial,
        check_memory,
        check_rows,
    ]
    checks.append(check_offloading)
    for check in checks + [check_norm_rope] * torch.cuda.is_available():
        check()
        print(f"agrees: {check.__name__}")


if __name__ == "__main__":
    main()
