"""A pytest plugin: the clock of the machine that the suite runs on jumps back by a day while it runs."""

from __future__ import annotations

import time

import pytest

DAY = 86400
REAL = time.time


def pytest_runtest_logstart(nodeid: str) -> None:
    """Jump when the image is to be pulled."""
    if "test_image_is_pulled" in nodeid:
        pytest.MonkeyPatch().setattr(time, "time", lambda: REAL() - DAY)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say that it has jumped, lest the fault pass without it."""
    if time.time is not REAL:
        terminalreporter.write_line("the clock has jumped back by a day")
