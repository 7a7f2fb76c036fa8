"""How fast traces become a data set, and how much of that is the tokenizer: python benchmarks/dataset.py [--count N]

Makes traces of realistic size, then measures, in one process and alternating: tokenising each conversation's text once
(the floor); building, which reads, converts and proves every turn; the share of it inside the tokenizer; checking every
turn again against ids and labels, without Axolotl's own time. These are CPU seconds: what else runs on the machine
changes no ratio. Then the whole command with all cores, and its peak memory for N and 4N traces. Leaves nothing behind.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from keepstate.dataset.convert import Converter, Row
from keepstate.dataset.manifest import BuildOptions
from keepstate.dataset.parity import TrainingRow, compare, local_prompts
from keepstate.dataset.sample import prove
from keepstate.dataset.templates import ChatTemplate, load_template
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.models.base import Message
from keepstate.traces import read_trace
from keepstate.vocabulary import RuntimeName

ROUNDS = 5
TURNS = 6
ITEMS = 12
# ru_maxrss starts at the size of the process that started this one, VmHWM at zero.
BUILD = """
import resource, sys, time
from pathlib import Path
from keepstate.dataset import BuildOptions, build_datasets
from keepstate.vocabulary import RuntimeName
if __name__ == "__main__":
    root, out, template, tokenizer = sys.argv[1:]
    start = time.perf_counter()
    arms, folders = {RuntimeName.PERSISTENT: Path(root)}, {RuntimeName.PERSISTENT: Path(out)}
    build_datasets(arms, folders, template=template, tokenizer_path=Path(tokenizer), options=BuildOptions())
    seconds = time.perf_counter() - start
    own = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(seconds, own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


class Timed(TextTokenizer):
    """A tokenizer that counts the CPU seconds within it."""

    seconds = 0.0

    def _encode(self, text: str) -> tuple[int, ...]:
        start = time.process_time()
        ids = super()._encode(text)
        self.seconds += time.process_time() - start
        return ids


def make_traces(folder: Path, count: int) -> int:
    """Write `count` traces of a knapsack-like conversation and return their bytes."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from made_traces import make_trace, write_traces

    system = "You act by writing Python. " + " ".join(f"Tool {n}: does thing {n} and returns text." for n in range(60))
    for number in range(count):
        rng = random.Random(number)
        answers = [_answer(rng, turn) for turn in range(TURNS)]
        write_traces(folder, [make_trace(number, answers=answers, observation=_observation(rng), system=system)])
    return sum(path.stat().st_size for path in folder.glob("*.trace.json"))


def _answer(rng: random.Random, turn: int) -> str:
    ids = [f"item_{rng.randrange(16**12):012x}" for _ in range(ITEMS)]
    thought = f"Step {turn}: {ITEMS} more items, then the best by value per weight."
    return f"{thought}\n```python\nfor i in {ids}:\n    look(i)\n```"


def _observation(rng: random.Random) -> str:
    rows = [f'{{"class": "c{rng.randrange(9)}", "value": {rng.randrange(100)}}}' for _ in range(ITEMS)]
    return '{"output": "' + " ".join(rows).replace('"', '\\"') + '", "globals": ["items", "seen"]}'


def one_process(folder: Path, template: ChatTemplate, tokenizer_path: Path) -> None:
    """Print the floor, the build and their ratio, best of some rounds."""
    paths = sorted(folder.glob("*.trace.json"))
    talks = [read_trace(path).messages for path in paths]
    texts = [template.render(talk) for talk in talks]
    samples = _samples(talks, template, tokenizer_path)
    size = sum(path.stat().st_size for path in paths)
    once, built, checked, inside = [], [], [], []
    for _ in range(ROUNDS):
        raw = TextTokenizer(tokenizer_path).raw
        start = time.process_time()
        for text in texts:
            raw.encode_batch_fast([text], add_special_tokens=False)
        once.append(time.process_time() - start)
        tokenizer = Timed(tokenizer_path)
        converter = Converter(template, tokenizer, BuildOptions(), RuntimeName.PERSISTENT)
        start = time.process_time()
        rows = [converter.convert(path) for path in paths]
        built.append(time.process_time() - start)
        inside.append(tokenizer.seconds / built[-1])
        assert all(isinstance(row, Row) for row in rows)
        tokenizer = TextTokenizer(tokenizer_path)
        prompt_ids = local_prompts(template, tokenizer)
        start = time.process_time()
        for talk, sample in zip(talks, samples, strict=True):
            assert compare(talk, sample, prompt_ids, tokenizer, tokenizer.specials["<|im_end|>"]).good
        checked.append(time.process_time() - start)
    tokens = sum(row.tokens for row in rows if isinstance(row, Row))
    count, best = len(paths), min(built)
    print(f"one process, {count} traces of {size / count / 1000:.1f} kB, {tokens / count:.0f} tokens, {TURNS} turns:")
    print(f"  tokenise each once       {count / min(once):8.0f} traces/s  {size / min(once) / 1e6:6.1f} MB/s")
    print(f"  build and prove          {count / best:8.0f} traces/s  {size / best / 1e6:6.1f} MB/s")
    print(f"  check every turn again   {count / min(checked):8.0f} traces/s  {size / min(checked) / 1e6:6.1f} MB/s")
    print(f"  build : tokenise once    {best / min(once):8.2f}      (target: at most 1.5)")
    print(f"  build + check : once     {(best + min(checked)) / min(once):8.2f}")
    print(f"  inside the tokenizer     {max(inside):8.0%}      (target: at least 80 %)")


def _samples(talks: list[tuple[Message, ...]], template: ChatTemplate, tokenizer_path: Path) -> list[TrainingRow]:
    tokenizer = TextTokenizer(tokenizer_path)
    proven = (prove(talk, template, tokenizer) for talk in talks)
    return [TrainingRow(sample.ids, sample.labels()) for sample in proven]


def whole_command(folder: Path, count: int, template: str, tokenizer_path: Path) -> None:
    """Print the speed and peak memory of a build with all cores."""
    with tempfile.TemporaryDirectory() as out:
        script = Path(out) / "build.py"
        script.write_text(BUILD)
        command = [sys.executable, str(script), str(folder), out, template, str(tokenizer_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, own, child = map(float, done.stdout.split())
    cores = len(os.sched_getaffinity(0))
    print(
        f"{cores} processes, {count:6} traces: {count / seconds:6.0f} traces/s, "
        f"peak memory {own / 1024:.0f} MiB here, {child / 1024:.0f} MiB in a worker"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--template", default="chatml")
    parser.add_argument("--tokenizer", type=Path, default=Path("models/smollm2-135m-instruct"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as small, tempfile.TemporaryDirectory() as large:
        make_traces(Path(small), args.count)
        one_process(Path(small), load_template(args.template), args.tokenizer)
        make_traces(Path(large), 4 * args.count)
        whole_command(Path(small), args.count, args.template, args.tokenizer)
        whole_command(Path(large), 4 * args.count, args.template, args.tokenizer)


if __name__ == "__main__":
    main()
