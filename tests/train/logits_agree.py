"""Loss and gradients with logits of trained tokens only, beside those with all logits.

python tests/train/logits_agree.py FOLDER        # in .venv-train, FOLDER of tiny_model.py; prints JSON
"""

import json
import sys
from pathlib import Path

import torch
from keepstate_axolotl import loss as trained_only
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM


def step(folder: Path, *, fewer: bool) -> tuple[float, list[torch.Tensor], int]:
    """Loss, gradients of the adapter, and how many positions the vocabulary projection saw."""
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16), config).train()
    if fewer:
        trained_only.install_on_cpu(model)
    seen: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda _, args, out: seen.append(out.shape[1]))
    ids = torch.randint(5, 60, (2, 40), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, :20] = labels[0, 30:] = -100
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=ids, labels=labels, attention_mask=torch.ones_like(ids)).loss
    loss.backward()
    return loss.item(), [p.grad for p in model.parameters() if p.requires_grad], seen[0]


if __name__ == "__main__":
    all_logits, few = (step(Path(sys.argv[1]), fewer=fewer) for fewer in (False, True))
    apart = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(all_logits[1], few[1], strict=True))
    print("RESULT" + json.dumps({"losses": [all_logits[0], few[0]], "apart": apart, "seen": [all_logits[2], few[2]]}))
