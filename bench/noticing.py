"""A plugin that notes how long after a server was ready that was noticed: seconds, a line each, in $NOTICED."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Generator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

LOGS = "docker logs --timestamps {} 2>&1 | grep --max-count 1 'Application startup complete'"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Compare the two moments by one clock, the machine's: node and container have no other in the lab.

    A check ends later where servers start together: each is waited for before the first is asked.
    """
    done = yield
    if item.name.startswith("test_server_gets_ready"):
        since, server = time.time() - time.monotonic(), item.funcargs["server"]  # type: ignore[attr-defined]
        said = server.container.ask("sh", "-c", LOGS.format(server.name)).split()[0]
        ready = datetime.fromisoformat(re.sub(r"(\.\d{6})\d*Z", r"\1+00:00", said)).timestamp()
        noticed = since + server._startup.begun + server.record.healthy
        with Path(os.environ["NOTICED"]).open("a", encoding="utf-8") as file:
            file.write(f"{noticed - ready:.3f}\n")
    return done
