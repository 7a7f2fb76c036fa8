"""Reports: what the match or mismatch of training and runtime cost, with intervals, as tables, plots and one HTML file.

Run `keepstate report RUN` or `keepstate compare A B`. Plays nothing and changes no result.
"""

from keepstate.report.build import HTML_FILE, build_report, write_report
from keepstate.report.figures import MARGIN, Comparison, compare_cells
from keepstate.report.model import CellGroup, Report, make_report

__all__ = [
    "HTML_FILE",
    "MARGIN",
    "CellGroup",
    "Comparison",
    "Report",
    "build_report",
    "compare_cells",
    "make_report",
    "write_report",
]
