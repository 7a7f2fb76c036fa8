"""What benchmarks/gpu/candidates would put into the product computes what it should. Asserts; prints what ran.

    .venv-train/bin/python tests/train/candidates_agree.py        # started by test_plugin_kernels.py

Without a GPU its kernels run in Triton's interpreter, which cuts numbers off where a GPU rounds them.
"""

import os
import sys
import types
from pathlib import Path

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # before a kernel is defined

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "gpu"))

from candidates import chunks, fp8, norms  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402


def check_norms() -> None:
    """Norm of a sum, the sum, and every gradient; with and without something to add. A whole layer as before."""
    x, more = (torch.randn(2, 5, 96, device=DEVICE, requires_grad=True) for _ in range(2))
    norm = types.SimpleNamespace(weight=torch.rand(96, device=DEVICE) + 0.5, variance_epsilon=1e-6)
    for inputs in ([x], [x, more]):
        total = sum(inputs, torch.zeros_like(x))
        wanted = [total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + 1e-6) * norm.weight, total]
        ours = list(norms.add_norm(norm, *inputs))
        grads = [torch.randn_like(x) for _ in wanted]
        found, expected = (torch.autograd.grad(outputs, inputs, grads) for outputs in (ours, wanted))
        torch.testing.assert_close((*ours, *found), (*wanted, *expected))
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=16, num_hidden_layers=2, **shape)).to(DEVICE)
    assert norms.install(model) == 0  # a weight that is trained needs its gradient
    model.requires_grad_(False)
    embedded = torch.randn(1, 6, 32, device=DEVICE, requires_grad=True)
    results = []
    for layers in (0, 2):
        assert layers == 0 or norms.install(model) == layers
        logits = model(inputs_embeds=embedded).logits
        results.append((logits, torch.autograd.grad(logits.sum(), embedded)[0]))
    torch.testing.assert_close(results[1], results[0])


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The norm of the difference over that of what is wanted."""
    return float((found.float() - wanted).norm() / wanted.norm())


def check_fp8() -> None:
    """Outputs and gradients of one to three projections of one input: FP8's error, and none where nothing is FP8."""
    usual = 0.05 if DEVICE == "cuda" else 0.12
    for widths in ([48], [48, 32], [64, 32, 16]):
        x = torch.randn(32, 64, device=DEVICE).bfloat16()
        a = [torch.randn(16, 64, device=DEVICE) / 8 for _ in widths]
        b = [torch.randn(width, 16, device=DEVICE) / 4 for width in widths]
        weights = [torch.randn(width, 64, device=DEVICE).bfloat16() for width in widths]
        projections = [types.SimpleNamespace(weight=w, state=None, scale=1.5) for w in weights]
        whole = [w.float() + 1.5 * up @ down for w, up, down in zip(weights, b, a, strict=True)]
        outputs, low = fp8.project(x, projections, a, b)
        assert error(low, torch.cat([x.float() @ down.t() for down in a], dim=1)) < 0.01
        for output, matrix in zip(outputs, whole, strict=True):
            assert 0.001 < error(output, x.float() @ matrix.t()) < usual
        grads = [torch.randn_like(output) for output in outputs]
        grad_x, grad_low, grads_b = fp8.pull_back(grads, low, projections, a, b)
        assert 0.001 < error(grad_x, sum(g.float() @ m for g, m in zip(grads, whole, strict=True))) < usual
        assert error(grad_low, torch.cat([1.5 * g.float() @ up for g, up in zip(grads, b, strict=True)], dim=1)) < 0.01
        for found, grad, down in zip(grads_b, grads, a, strict=True):
            assert error(found, 1.5 * grad.float().t() @ (x.float() @ down.t())) < 0.01


def check_chunks() -> None:
    """Loss and gradient of Liger's fused loss are the same in longer chunks, of which there are fewer."""
    from liger_kernel.ops import fused_linear_cross_entropy as liger

    hidden, weight = torch.randn(24, 32, device=DEVICE), torch.randn(100, 32, device=DEVICE)
    target = torch.randint(100, (24,), device=DEVICE)

    def found() -> tuple[torch.Tensor, ...]:
        x = hidden.clone().requires_grad_()
        loss, *_ = liger.LigerFusedLinearCrossEntropyFunction.apply(x, weight, target)
        return loss, torch.autograd.grad(loss, x)[0]

    usual = found()
    chunks.install()
    assert liger.triton.next_power_of_2(5) == 8 * chunks.LONGER
    torch.testing.assert_close(found(), usual)


if __name__ == "__main__":
    for check in (check_norms, check_fp8, check_chunks):
        check()
        print(f"agrees: {check.__name__}")
