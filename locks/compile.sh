#!/usr/bin/env bash
# Makes the lock files in this folder from the *.in files and pyproject.toml, at the newest versions that the package index
# holds, and tells what changed:
#   bash locks/compile.sh              # all but the measured engines, whose figures are of just these versions
#   bash locks/compile.sh --measured   # those too
# Needs uv (0.13 or newer). Installs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(command -v python3.11 || command -v python3)

lock() { # lock OUTPUT PYTHON ARGUMENT...: resolve into locks/OUTPUT for PYTHON and newer, and for every platform
    local output=locks/$1 oldest=$2 before
    shift 2
    before=$(mktemp)
    if [ -e "$output" ]; then cp "$output" "$before"; fi
    uv pip compile --quiet --upgrade --generate-hashes --universal --python-version "$oldest" \
        --custom-compile-command "bash locks/compile.sh" \
        --output-file "$output" "$@"
    "$python" locks/changes.py "$before" "$output"
    rm "$before"
}

# The core. dev is core and the tools of the test suite.
lock core.txt 3.11 pyproject.toml locks/core.in
lock dev.txt 3.11 --constraints locks/core.txt --group dev pyproject.toml locks/core.in
lock browser.txt 3.11 --constraints locks/dev.txt locks/browser.in
lock ray.txt 3.11 --constraints locks/dev.txt locks/ray.in
lock docs.txt 3.11 --constraints locks/dev.txt locks/docs.in
lock audit.txt 3.11 locks/audit.in

# PyPI's torch without what the CPU locks hold themselves.
own=(filelock fsspec jinja2 markupsafe mpmath networkx setuptools sympy triton typing-extensions)
lock torch-pypi.txt 3.11 "${own[@]/#/--no-emit-package=}" locks/torch-pypi.in

# The CPU environments: torch comes from a file of its own, so neither it nor what PyPI's brings stands in them.
# torchvision, torchaudio and torchcodec are left out for good: their builds clash with the CPU torch.
mapfile -t cuda < <(grep -oE '^(cuda|nvidia)-[a-z0-9-]+' locks/torch-pypi.txt)
left_out=(torch torchvision torchaudio torchcodec "${cuda[@]}")
cpu=(--overrides locks/torch-pypi.in "${left_out[@]/#/--no-emit-package=}")
lock train-cpu-current.txt 3.12 "${cpu[@]}" locks/train-cpu-current.in
lock serve-cpu-current.txt 3.11 "${cpu[@]}" locks/serve-cpu-current.in

# The CUDA environments, resolved only.
lock train-cuda-current.txt 3.12 locks/train-cuda-current.in
lock serve-cuda-current.txt 3.11 locks/serve-cuda-current.in

if [ "${1:-}" = --measured ]; then
    lock train-cpu.txt 3.11 "${cpu[@]}" locks/train-cpu.in
    lock serve-cpu.txt 3.11 "${cpu[@]}" locks/serve-cpu.in
    lock train-cuda.txt 3.11 locks/train-cuda.in
    lock serve-cuda.txt 3.11 locks/serve-cuda.in
    for device in cpu cuda; do
        lock serve-ray-$device.txt 3.11 --constraints locks/serve-$device.txt locks/serve-ray-$device.in
    done
fi
