#!/usr/bin/env bash
# Makes every lock file in this folder from the *.in files and pyproject.toml. Run: bash locks/compile.sh
# Needs uv (0.13 or newer), and an index or UV_FIND_LINKS folder that has torch 2.13.0+cpu.
# Does not install anything. It resolves to what the index holds today: look at the diff before you commit it.
set -euo pipefail
cd "$(dirname "$0")/.."

lock() { # lock OUTPUT ARGUMENT...: resolve into locks/OUTPUT
    local output=locks/$1
    shift
    uv pip compile --quiet --generate-hashes --python-version 3.11 \
        --custom-compile-command "bash locks/compile.sh  (uv pip compile --generate-hashes $*)" \
        --output-file "$output" "$@"
    echo "$output: $(grep -c '^[a-z].*==' "$output") packages" >&2
}

# The core runs on Python 3.11 to 3.13 and on every platform. dev is core and the tools of the test suite.
lock core.txt --universal pyproject.toml locks/core.in
lock dev.txt --universal --constraints locks/core.txt --group dev pyproject.toml locks/core.in
lock browser.txt --universal --constraints locks/dev.txt locks/browser.in
lock ray.txt --universal --constraints locks/dev.txt locks/ray.in
lock docs.txt --universal --constraints locks/dev.txt locks/docs.in

# The CPU environments: Python 3.11 on x86-64 Linux. Torch is left to torch-cpu.txt, which is installed with them.
# torchvision, torchaudio and torchcodec are left out for good: their builds clash with the CPU torch.
cpu=(--python-platform x86_64-manylinux_2_28)
no_torch=(--no-emit-package torch --no-emit-package torchvision --no-emit-package torchaudio --no-emit-package torchcodec)
lock train-cpu.txt "${cpu[@]}" "${no_torch[@]}" locks/train-cpu.in
lock serve-cpu.txt "${cpu[@]}" "${no_torch[@]}" locks/serve-cpu.in

# The CUDA environments, resolved only.
lock train-cuda.txt --universal locks/train-cuda.in
lock serve-cuda.txt --universal locks/serve-cuda.in
