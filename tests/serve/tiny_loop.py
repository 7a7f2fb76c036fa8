"""Trains and serves one tiny model on the CPU and prints as JSON what came of it: python tiny_loop.py FOLDER

FOLDER has `model` and `traces`. What it learns is worth nothing: the way there is tested.
"""

import json
import sys
from functools import partial
from pathlib import Path

import httpx2

from keepstate.bench.checkpoints import plan_evaluation
from keepstate.dataset import BuildOptions, build_datasets
from keepstate.dataset.sample import end_of_turn
from keepstate.dataset.templates import load_template
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.serve import plan_serving, serve
from keepstate.train import TrainingRequest, plan_training, train
from keepstate.train.axolotl_config import config_path
from keepstate.train.scores import read_scores
from keepstate.vocabulary import RuntimeName, Tracker

RUNTIME = RuntimeName.PERSISTENT
EPOCHS = 40
"""Times six traces are so many steps that the first checkpoint is played before the training is over."""
PLAYED = 120
"""Steps of that one, the half."""


def loop(folder: Path) -> dict[str, object]:
    """Data, training, server; `serve` itself compares the server's prompts with ours."""
    model, data, adapter = folder / "model", folder / "data", folder / "adapter"
    options = BuildOptions(val_fraction=0)
    build_datasets({RUNTIME: folder / "traces"}, {RUNTIME: data}, template=None, tokenizer_path=model, options=options)
    config, epochs = config_path(RUNTIME, laptop=True), {"num_epochs": EPOCHS}
    request = TrainingRequest(config, data, output=adapter, base_model=model, runtime=RUNTIME, overrides=epochs)
    planned = plan_training(request)
    # One of the two: more servers would only take time. As soon as there is a checkpoint, whatever that costs.
    evaluate = partial(plan_evaluation, cell="mini:1", steps=PLAYED, share=1e6) if folder.name == "llama3" else None
    say = lambda words: print(words, file=sys.stderr, flush=True)  # noqa: E731
    done = train(request, tracker=Tracker.NONE, evaluate=evaluate, on_remark=say)
    scores = read_scores(adapter)
    serving = plan_serving(adapters=[adapter], port=0, context=1024, log=folder / "vllm.log")
    end = end_of_turn(load_template(serving.template), TextTokenizer(model))
    made: dict[str, object] = {"template": serving.template.stem, "steps": done.steps, "loss": done.final_loss}
    made |= {"stood": done.evaluation_seconds, "card": (adapter / "README.md").read_text()}
    made |= {"scores": [(point.step, point.known) for point in scores.points] if scores else None}
    made |= {"eot_tokens": planned.config.get("eot_tokens"), "same_base": serving.base_model == done.base_model}
    bias = {str(TextTokenizer(model).specials[end or ""]): 100}
    ask = {"messages": [{"role": "user", "content": "Task 0."}], "max_tokens": 20, "temperature": 0}
    with serve(serving) as server:
        for name in server.names:
            url, body = f"{server.base_url}/chat/completions", ask | {"model": name}
            free, ended = (httpx2.post(url, json=body | more, timeout=60, trust_env=False).json()["choices"][0]
                           for more in ({}, {"logit_bias": bias}))  # fmt: skip
            made[name] = [free["message"]["content"], ended["finish_reason"], ended["message"]["content"] or ""]
    return made


if __name__ == "__main__":
    print(json.dumps(loop(Path(sys.argv[1]))))
