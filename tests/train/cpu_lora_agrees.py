"""LoRA layers added in place beside peft's own, and what is left to peft. Runs in `.venv-train`.

PYTHONPATH=keepstate/train/plugin .venv-train/bin/python tests/train/cpu_lora_agrees.py
"""

import json
from typing import Any

import torch
from keepstate_axolotl import cpu_lora
from peft import LoraConfig, get_peft_model

WIDTH, TOKENS = 48, 70


class Net(torch.nn.Module):
    """Two layers, the second with a bias."""

    def __init__(self, *, bias: bool = False) -> None:
        super().__init__()
        self.first = torch.nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.second = torch.nn.Linear(2 * WIDTH, WIDTH, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of (rows, tokens, width) the same."""
        return self.second(torch.nn.functional.silu(self.first(x)))


def adapted(dtype: torch.dtype, *, bias: bool = False, **config: Any) -> Any:
    """Always the same weights, the adapter in float32 as Axolotl trains it."""
    torch.manual_seed(0)
    net = Net(bias=bias).to(torch.bfloat16).to(dtype)
    model = get_peft_model(net, LoraConfig(r=4, lora_alpha=8, target_modules=["first", "second"], **config))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape).bfloat16().float() * 0.25
    return model


torch.manual_seed(1)
x0, weights = torch.randn(2, TOKENS, WIDTH).bfloat16(), torch.randn(2, TOKENS, WIDTH)


def found(dtype: torch.dtype, *, ours: bool) -> list[torch.Tensor]:
    """Output, and gradients of the input and of A and B of both layers."""
    model = adapted(dtype)
    if ours:
        assert cpu_lora.install(model) == 2
    x = x0.to(dtype, copy=True).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        out = model(x)
    (out.float() * weights).sum().backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(grad.dtype is torch.float32 for grad in grads.values())
    return [out.detach(), x.grad, *grads.values()]


exact = found(torch.float32, ours=False)


def errors(values: list[torch.Tensor]) -> list[float]:
    """Relative, to peft's in float32."""
    return [float((one.float() - other).norm() / other.norm()) for one, other in zip(values, exact, strict=True)]


def taken(**options: Any) -> int:
    """How many layers are taken over."""
    return cpu_lora.install(adapted(torch.float32, **options))


switched = adapted(torch.float32)
cpu_lora.install(switched)
x1 = x0.float()
with torch.no_grad(), switched.disable_adapter():
    off = switched(x1)
two = adapted(torch.float32)
two.add_adapter("other", LoraConfig(r=4, target_modules=["first", "second"]))
print(
    "RESULT"
    + json.dumps(
        {
            "float32": errors(found(torch.float32, ours=True)),
            "bfloat16": errors(found(torch.bfloat16, ours=True)),
            "peft's bfloat16": errors(found(torch.bfloat16, ours=False)),
            "adapter off": float(
                (
                    off
                    - switched.get_base_model().second.base_layer(
                        torch.nn.functional.silu(switched.get_base_model().first.base_layer(x1))
                    )
                )
                .abs()
                .max()
            ),
            "taken": {
                "bias": taken(bias=True),
                "dropout": taken(lora_dropout=0.1),
                "dora": taken(use_dora=True),
                "two adapters": cpu_lora.install(two),
            },
        }
    )
)
