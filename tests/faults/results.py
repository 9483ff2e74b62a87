"""What came of faults and of kills: a JSON line each in a file, so that one table can tell of several runs."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

TOP = Path(__file__).parent.parent.parent


def occasion() -> str:
    """The day and the commit, for the head of a table."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=TOP, capture_output=True, text=True, timeout=30, check=False
    )
    return f"{time.strftime('%Y-%m-%d', time.gmtime())}, commit {commit.stdout.strip() or 'unknown'}"


def add(file: Path, facts: dict[str, Any]) -> None:
    """Add one to the file."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(facts) + "\n")


def read(file: Path) -> list[dict[str, Any]]:
    """All of them; none if there is no file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
