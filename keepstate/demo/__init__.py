"""The whole loop on this machine, from a seed to a report, without GPU, account or model hub.

Run `keepstate demo`. Everything that it does is a stage of the pipeline; this room only puts them in a row.
"""

from keepstate.demo.folder import DemoFolder
from keepstate.demo.run import Demo

__all__ = ["Demo", "DemoFolder"]
