"""A cache of slow builds, outside the checkout, each under a name derived from its recipe."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path


def root() -> Path:
    """The folder of the cache: `PHOENIX_CACHE`, or ~/.cache/phoenix-920."""
    path = Path(os.environ.get("PHOENIX_CACHE") or Path.home() / ".cache/phoenix-920")
    path.mkdir(parents=True, exist_ok=True)
    return path.resolve()


def built(name: str, recipe: str, build: Callable[[Path], None]) -> Path:
    """A folder from the cache, made first if it is missing.

    A recipe that has changed gives another name, so what is there is never out of date. It appears
    under its name only when it is complete, and two builders of the same thing wait for each other.

    Args:
        name: What it is, for people.
        recipe: Everything that its content depends on.
        build: Fills the empty folder it is given.

    Returns:
        The folder.
    """
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    path = root() / f"{name}-{digest}"
    if path.exists():
        return path
    with (root() / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return path
        for leftover in root().glob(f".{name}-new-*"):  # of a builder that was killed; we hold its lock
            shutil.rmtree(leftover, ignore_errors=True)
        print(f"lab: building {name} (only once)", file=sys.stderr, flush=True)
        begun = time.monotonic()
        new = Path(tempfile.mkdtemp(prefix=f".{name}-new-", dir=root()))
        try:
            build(new)
            new.chmod(0o755)
            new.rename(path)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        print(f"lab: built {name} in {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return path
