"""Serving: one vLLM process with the base model and every adapter under its own name, on 127.0.0.1.

Run `keepstate serve`. From Python: `with serve(plan_serving(adapters=[...])) as server:`; see `keepstate.serve.launch`.
"""

from keepstate.serve.launch import Server, StartDisplay, Starting, serve
from keepstate.serve.serving_plan import ServingPlan, plan_serving

__all__ = ["Server", "ServingPlan", "StartDisplay", "Starting", "plan_serving", "serve"]
