"""keepstate: fine-tune an open-weight model into an agent that behaves in production as it did in training.

The pipeline, in order, is the layout: setup, tasks, models, traces, runtimes, agents, play, dataset, train, serve,
bench, report, demo. A package imports only from those before it, and from the small modules beside this file.
Importing keepstate does nothing else: no torch, no network, no files.
"""

__version__ = "0.1.0"
