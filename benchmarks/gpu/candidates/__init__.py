"""What might make training faster, to be measured: nothing in here is used by the product.

    .venv-train/bin/python benchmarks/gpu/train_speed.py speed/16k fp8-backward/16k speed/traces norms-loss/traces
    .venv-train/bin/python benchmarks/gpu/gradients.py norms fp8-backward fp8

It is to decide whether a profile takes one of them: a step that is faster by more than two runs differ (1 %), gradients
that part from plain QLoRA no further than twice as far as Axolotl's kernels. Measured (results/README.md): FP8 both
ways is 1.25 times as fast and not admitted for its gradients, 9.8 times as far; norms save 13 ms of a row. Open: the
time of FP8 in the backward alone (2.6 times as far), and norms with longer chunks on rows that go through cuDNN.
"""
