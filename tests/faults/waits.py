"""A pytest plugin: the run waits before one of its checks for as long as a file is there.

The environment's WAIT_BEFORE is `check=file`; the plugin makes the file, and whoever has waited for it removes it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

CHECK, _, FILE = os.environ.get("WAIT_BEFORE", "").partition("=")


def pytest_runtest_logstart(nodeid: str) -> None:
    """Wait before the check."""
    if CHECK and nodeid.endswith(CHECK):
        Path(FILE).touch()
        while Path(FILE).exists():
            time.sleep(0.05)
