"""Serving: one vLLM process with the base model and every adapter under its own name, on 127.0.0.1.

Run `keepstate serve`. From Python: `with serve(plan(adapters=[...])) as server:`; see `keepstate.serve.launch`.
"""

from keepstate.serve.launch import Server, Starting, serve
from keepstate.serve.plan import Plan, plan

__all__ = ["Plan", "Server", "Starting", "plan", "serve"]
