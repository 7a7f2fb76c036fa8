"""The vocabulary projection and loss only where a token is trained: context tokens have no part in either.

    keepstate_loss.install()           # before the model is loaded; needs Liger's fused linear cross-entropy

Observations, instructions and padding are about half of a trace. Their rows of the last hidden state add exactly
nothing to the loss and its gradient, and cost two products with the vocabulary each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def on_trained_tokens(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap Liger's fused loss so that it sees only rows whose target is not ignored."""

    def selected(
        hidden_states: torch.Tensor,
        lm_head_weight: torch.Tensor,
        target: torch.Tensor,
        num_items_in_batch: Any = None,
        ignore_index: int = -100,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        trained = torch.nonzero(target != ignore_index).flatten()
        if 0 < len(trained) < len(target) and not kwargs.get("return_predicted_tokens"):
            hidden_states, target = hidden_states.index_select(0, trained), target[trained]
        return loss(hidden_states, lm_head_weight, target, num_items_in_batch, ignore_index, *args, **kwargs)

    return selected


def install() -> None:
    """Wrap the function that every Liger model's loss goes through."""
    from liger_kernel.transformers.model import loss_utils

    loss_utils.fixed_fused_linear_cross_entropy = on_trained_tokens(loss_utils.fixed_fused_linear_cross_entropy)


def without_logits(model: Any) -> None:
    """Evaluate by the fused loss too: Liger makes logits there, 15 GiB for 16,384 tokens of Qwen3's vocabulary."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    forward = causal.forward

    @wraps(forward)
    def fused(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("labels") is not None:
            kwargs.setdefault("skip_logits", True)
        return forward(*args, **kwargs)

    causal.forward = fused
