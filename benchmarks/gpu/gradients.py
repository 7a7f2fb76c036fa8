"""Does speed change the mathematics? Gradients of one step under each profile, against QLoRA without any kernel.

    .venv-train/bin/python benchmarks/gpu/gradients.py            # about 3 minutes on one GPU of 80 GB
    .venv-train/bin/python benchmarks/gpu/gradients.py norms fp8  # candidates, too
    .venv-train/bin/python benchmarks/gpu/gradients.py --tiny     # a rehearsal on a CPU

Real Axolotl on four layers of Qwen3-8B's shape, packed rows of which half the tokens are trained, factors B drawn at
random. The reference isolates documents with a 4D mask and runs PyTorch's own modules. All of them compute in bf16, so
they differ by its rounding: `stock` (Axolotl's kernels) shows how much is usual. Prints relative errors over all LoRA
tensors; exit code 1 where a profile's or a candidate's median is more than twice stock's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path

from shapes import ROWS, write_documents, write_model
from train_speed import CANDIDATES, Options, finish, start

KINDS = ("exact", "stock", "memory", "speed")
LAYERS = 4


def gradients(kind: str, options: Options) -> Path:
    """Train a few steps with a learning rate of nearly 0 and return the file with the last step's gradients."""
    target = options.out / f"{kind}.pt"
    os.environ["TIMING_GRADIENTS"] = str(target)
    code = finish(start(f"{kind}/traces", options), options.budget)
    if not target.is_file():
        log = (options.out / f"{kind}-traces.log").read_text(errors="replace")
        sys.exit(f"{kind}: no gradients (code {code}):\n{log[-3000:]}")
    return target


def relative_errors(path: Path, reference: Path) -> list[float]:
    """Of every tensor, the norm of the difference over the reference's norm."""
    import torch

    found, wanted = torch.load(path), torch.load(reference)
    assert found.keys() == wanted.keys()
    return [float((found[name] - grad).norm() / grad.norm()) for name, grad in wanted.items()]


def main() -> int:
    """Run each kind, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/gradients"), help="folder for results and logs")
    parser.add_argument("--tiny", action="store_true", help="a small model: rehearse without a GPU")
    parser.add_argument("candidates", nargs="*", help=f"beside the profiles: {', '.join(CANDIDATES)}")
    given = parser.parse_args()
    if unknown := set(given.candidates) - set(CANDIDATES):
        parser.error(f"no such candidate: {', '.join(sorted(unknown))}; there are {', '.join(CANDIDATES)}")
    kinds = (*KINDS, *given.candidates)
    options = Options([], given.out.resolve(), given.tiny, kernels=False, budget=100.0 * len(kinds))
    work = options.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    write_model(work / "model", tiny=options.tiny, layers=LAYERS)
    write_documents(work / "traces.parquet", ROWS["traces"], count=15, tiny=options.tiny)
    files = {kind: gradients(kind, options) for kind in kinds}
    report = {}
    for kind in kinds[1:]:
        errors = relative_errors(files[kind], files["exact"])
        report[kind] = {"median": statistics.median(errors), "most": max(errors), "tensors": len(errors)}
        print(f"{kind:12} relative error of gradients: median {report[kind]['median']:.2e}, most {max(errors):.2e}")
    (options.out / "gradients.json").write_text(json.dumps(report, indent=1))
    for path in files.values():
        path.unlink()
    usual = report["stock"]["median"]
    return int(any(not report[kind]["median"] <= 2 * usual for kind in kinds[2:]))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
