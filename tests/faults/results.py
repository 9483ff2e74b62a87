"""The state file of a campaign: one JSON line for each trial, so that a second call resumes and a table covers both.

It lies outside the checkout, in the cache, under a name made of the content of what is tried: another engine begins
anew, a changed README does not.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import subprocess
import time
from pathlib import Path
from typing import Any

from lab import cache

TOP = Path(__file__).parent.parent.parent
TRIED = ("fixtures", "tests_920", "lab", "conftest.py", "pytest.ini")  # what a result depends on


def folder() -> Path:
    """The folder of state files, logs and stores."""
    path = cache.root() / "trials"
    path.mkdir(exist_ok=True)
    return path


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=TOP, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout


def content_key() -> str:
    """A short name of the content of what is tried, committed or not."""
    digest = hashlib.sha256()
    for name in sorted(set(_git("ls-files", "-z", "-co", "--exclude-standard", *TRIED).split("\0")) - {""}):
        if (path := TOP / name).is_file():
            digest.update(f"{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def occasion() -> str:
    """The day and the commit, for the head of a table."""
    commit = _git("describe", "--always", "--dirty").strip() or "unknown"
    return f"{time.strftime('%Y-%m-%d', time.gmtime())}, commit {commit}"


def add(file: Path, facts: dict[str, Any]) -> None:
    """Add one result; several workers write into one file."""
    with file.open("a", encoding="utf-8") as lines:
        fcntl.flock(lines, fcntl.LOCK_EX)
        lines.write(json.dumps(facts) + "\n")


def read(file: Path) -> list[dict[str, Any]]:
    """All results, of a trial that was repeated the last one; none if there is no file."""
    if not file.exists():
        return []
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return list({facts["id"]: facts for facts in lines}.values())
