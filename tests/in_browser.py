"""A real browser for tests marked `browser`: Chromium, driven by Playwright, which notes all that a page must not do.

A missing browser fails such a test with the command that brings it. `make test-browser` runs them.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def started() -> "Iterator[Browser]":
    """A browser of this machine's, else the one that Playwright installs."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        pytest.fail("playwright is not installed: make setup-browser")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, chromium_sandbox=os.geteuid() != 0)
        except Error as error:
            pytest.fail(f"no Chromium that starts: make setup-browser\n{error}")
        yield browser
        browser.close()


@contextmanager
def visiting(browser: "Browser", here: str, **settings: Any) -> "Iterator[Page]":
    """A page in a window of its own; afterwards nothing may have been complained of, asked for elsewhere, or popped up.

    Args:
        browser: Which.
        here: What every address must begin with.
        settings: Of the window, such as `color_scheme`.
    """
    faults: list[str] = []
    with browser.new_context(**settings) as window:
        page = window.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda told: faults.append(told.text) if told.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda asked: None if asked.url.startswith((here, "data:,")) else faults.append(asked.url))
        yield page
        assert faults == []


def address(path: Path) -> str:
    """Of a file."""
    return path.resolve().as_uri()
