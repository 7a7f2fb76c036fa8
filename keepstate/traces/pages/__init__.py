"""Traces as pages for a browser: plain HTML files that need no server, and one that serves them on this machine.

    written = write_pages([Path("runs/bench")], Path("view"))    # writes view/index.html and a page an episode

A page is complete without its script, which only moves between turns, sorts and filters. Text that a model wrote is
escaped while the page is made; nothing builds a page from it in the browser.
"""

from keepstate.traces.pages.build import INDEX, Written, page_of, write_pages
from keepstate.traces.pages.serving import PageServer

__all__ = ["INDEX", "PageServer", "Written", "page_of", "write_pages"]
