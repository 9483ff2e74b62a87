"""A cache of slow builds, outside the checkout, each under a name derived from its recipe."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

SHOWN_EACH = 15.0  # seconds


def root() -> Path:
    """The folder of the cache: `PHOENIX_CACHE`, or ~/.cache/phoenix-920."""
    path = Path(os.environ.get("PHOENIX_CACHE") or Path.home() / ".cache/phoenix-920")
    path.mkdir(parents=True, exist_ok=True)
    return path.resolve()


def built(name: str, recipe: str, build: Callable[[Path], None], about: str = "a minute") -> Path:
    """A folder from the cache, made first if it is missing.

    A recipe that has changed gives another name, so what is there is never out of date. It appears
    under its name only when it is complete, and two builders of the same thing wait for each other.

    Args:
        name: What it is, for people.
        recipe: Everything that its content depends on.
        build: Fills the empty folder it is given.
        about: How long that takes.

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
        print(f"lab: building {name} (only once; about {about})", file=sys.stderr, flush=True)
        begun, done = time.monotonic(), threading.Event()
        new = Path(tempfile.mkdtemp(prefix=f".{name}-new-", dir=root()))
        shows = threading.Thread(target=_show_growth, args=(name, new, begun, done), daemon=True)
        shows.start()
        try:
            build(new)
            new.chmod(0o755)
            new.rename(path)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        finally:
            done.set()
            shows.join()
        print(f"lab: built {name} in {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return path


def _show_growth(name: str, folder: Path, begun: float, done: threading.Event) -> None:
    """Say each quarter of a minute how long something has been built, and how large it is."""
    while not done.wait(SHOWN_EACH):
        said = subprocess.run(["du", "-sk", folder], capture_output=True, text=True, check=False).stdout
        kib = said.partition("\t")[0]  # a few while mmdebstrap works in a folder of its own
        size = f"{int(kib) / 1024:,.0f} MB so far, " if kib.isdigit() and int(kib) >= 1024 else ""
        print(f"lab: {name}: {size}{time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)


class Steps:
    """The steps of a build, each said when it begins, with its number and how long all that is left takes."""

    def __init__(self, name: str, steps: Mapping[str, float]) -> None:
        """Take the steps in their order, each with the seconds that it took on two cores."""
        self._name, self._steps, self._at = name, list(steps.items()), 0

    def next(self) -> None:
        """Say that the next step begins."""
        (what, _), left = self._steps[self._at], sum(seconds for _, seconds in self._steps[self._at :])
        self._at += 1
        about = f"about {max(1, round(left / 60))} min left"
        print(f"lab: {self._name} {self._at}/{len(self._steps)}: {what}; {about}", file=sys.stderr, flush=True)
