"""Traces: write, read, check, count and show the records of episodes.

Run `keepstate traces --help`. The schema is `keepstate.traces.record.Trace`; nothing here plays an episode.
"""

from keepstate.traces.reader import BadTrace, iter_traces, parse_trace, read_trace
from keepstate.traces.record import Failure, StepEvent, TaskRef, Trace, TraceError
from keepstate.traces.writer import trace_path, verdict_path, write_trace

__all__ = [
    "BadTrace",
    "Failure",
    "StepEvent",
    "TaskRef",
    "Trace",
    "TraceError",
    "iter_traces",
    "parse_trace",
    "read_trace",
    "trace_path",
    "verdict_path",
    "write_trace",
]
