"""Runs model-written code in confined processes that hold nothing of the host: `Sandbox`, `probe`.

    host  -- starts by exec, empty environment -->  zygote  -- forks, confines -->  one worker an interpreter
          <------------------------- frames over a socket pair ------------------------->

The host's side is in this folder, what runs on the other side in `guest/`. See docs/sandbox.md for what is guaranteed.
"""

from keepstate.runtimes.sandbox.sandbox import Sandbox, probe
from keepstate.runtimes.sandbox.selftest import Check, RungReport

__all__ = ["Check", "RungReport", "Sandbox", "probe"]
