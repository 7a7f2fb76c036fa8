"""What might make training faster, to be measured: nothing in here is used by the product.

    .venv-train/bin/python benchmarks/gpu/train_speed.py speed/16k norms/16k fp8-backward/16k fp8/16k
    .venv-train/bin/python benchmarks/gpu/gradients.py norms fp8-backward fp8

It is to decide whether a profile takes one of them: a step that is faster by more than two runs differ (1 %), gradients
that part from plain QLoRA no further than twice as far as Axolotl's kernels. What is known so far, losses among it,
stands in results/README.md; what has been decided leaves this folder.
"""
