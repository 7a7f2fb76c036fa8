"""What benchmarks/runtimes.py compares with: `exec` in a thread of the host, and an IPython kernel. Neither isolates.

The kernel runs in a throw-away environment, where this file runs as a script and prints its figures as JSON:

    python runtime_references.py FIRST STEPS
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

TRIVIAL = "x = 1\nprint(x)"
CALLS = "for n in range(30): nothing()"
KERNEL_CALLS = "for n in range(30): input()"
"""A kernel's only way back to the host is its stdin channel."""


class NaiveThread:
    """One interpreter in the host itself: a dictionary of globals, tools that are called directly, a thread a step."""

    _printing = threading.Lock()

    def __init__(self, environment: Any) -> None:
        self._globals: dict[str, Any] = {tool.name: self._tool(environment, tool) for tool in environment.tools}

    @staticmethod
    def _tool(environment: Any, tool: Any) -> Any:
        names = [parameter.name for parameter in tool.parameters]
        return lambda *values, **named: environment.call(tool.name, dict(zip(names, values, strict=False)) | named)

    def _execute(self, code: str) -> str:
        out = io.StringIO()
        with self._printing, contextlib.redirect_stdout(out):  # one sys.stdout serves all threads
            exec(compile(code, "<block>", "exec"), self._globals)
        return out.getvalue()

    async def run(self, code: str) -> str:
        """Execute a block; nothing can end it."""
        return await asyncio.to_thread(self._execute, code)


def ipykernel_figures(first: int, steps: int) -> dict[str, Any] | str:
    """Milliseconds of `first` first results and of steps, and MiB of a kernel; or why there are none."""
    with tempfile.TemporaryDirectory(prefix="keepstate-ipykernel-") as folder:
        python = str(Path(folder) / "bin" / "python")
        commands = (
            [sys.executable, "-m", "venv", folder],
            [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "ipykernel", "jupyter_client"],
            [python, __file__, str(first), str(steps)],
        )
        done = None
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return f"{' '.join(command[:4])} ... failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
        assert done is not None
        figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return figures


def _kernel_step(client: Any, code: str) -> float:
    started = time.perf_counter()
    client.execute_interactive(
        code,
        allow_stdin=True,
        stdin_hook=lambda _message: client.input(""),
        output_hook=lambda _message: None,
        timeout=30,
        store_history=False,
    )
    return 1000 * (time.perf_counter() - started)


def pss_mib(pid: int) -> float:
    """Memory of a process, shared pages divided among those who share them; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0) / 1024


def main() -> None:
    """Measure kernels and print."""
    from jupyter_client.manager import start_new_kernel

    first, steps = int(sys.argv[1]), int(sys.argv[2])
    figures: dict[str, Any] = {"first": [], "trivial": [], "calls": []}
    for _ in range(first):
        started = time.perf_counter()
        manager, client = start_new_kernel()
        _kernel_step(client, TRIVIAL)
        figures["first"].append(1000 * (time.perf_counter() - started))
        figures["trivial"] += [_kernel_step(client, TRIVIAL) for _ in range(steps)]
        figures["calls"] += [_kernel_step(client, KERNEL_CALLS) for _ in range(max(2, steps // 10))]
        figures["memory"] = pss_mib(manager.provisioner.pid)
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    print(json.dumps(figures), flush=True)
    os._exit(0)  # threads of the clients are left


if __name__ == "__main__":
    main()
