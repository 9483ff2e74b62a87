"""What a trial starts from: the disk of a lab node in a known state, kept once and copied back in a moment.

The disks lie in a btrfs of their own (a sparse file, mounted), where a copy shares its blocks with the original. A
node that is switched on with such a copy is as it was when the copy was kept: containers, snapshots, records, tasks.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from lab import vllm
from lab.__main__ import up
from lab.errors import LabError
from lab.machine import RESERVE_GIB, Machine
from tests.faults import results
from tests.faults.fault import Ground
from tests.faults.trial import make, start, state
from tests.lab.harness import Lab

STATES = {Ground.NONE: "no 920", Ground.CLONE: "running", Ground.SEALED: "sealed", Ground.ACCEPTED: "accepted"}


def ready(machine: Machine, reports: Path, *, fresh: bool) -> Lab:
    """A lab node that serves the stand-in too."""
    if fresh:
        machine.erase()
    up(machine)
    machine.serve_stand_in(vllm.made() / "registry")
    return Lab(machine, reports)


def _run(*words: str | Path) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(map(str, words))}: {done.stderr.strip() or done.stdout.strip()}")


class Grounds:
    """One lab node, and its disk in each state that trials start from."""

    def __init__(self, node: str, furnish: Callable[[Lab], None] | None = None) -> None:
        """Begin with nothing made.

        Args:
            node: Name of the lab node.
            furnish: Puts more on the node before the first state is kept.
        """
        self.store = results.folder() / node
        self._furnish = furnish
        self.machine = Machine(node)
        self._file = self.store.with_suffix(".btrfs")
        self._now: Ground | None = None
        self._reports = Path()
        self.lab: Lab

    def __enter__(self) -> Grounds:
        """Make the store and the node."""
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self) -> None:
        self._remove()
        free = shutil.disk_usage(self.store.parent).free // 2**30 - RESERVE_GIB
        if free < 12:
            raise LabError(f"{self.store.parent}: {free} GiB free, 12 are needed; set PHOENIX_CACHE to a larger disk")
        with self._file.open("wb") as file:
            file.truncate(free * 2**30)
        self.store.mkdir()
        _run("mkfs.btrfs", "-q", "-f", self._file)
        _run("mount", "-o", "loop,noatime,nodatasum", self._file, self.store)
        os.environ["PHOENIX_LAB_STATE"] = str(self.store)  # the suite that is started finds its node there too
        self._reports = Path(tempfile.mkdtemp(prefix="reports-", dir=self.store))
        self.lab = ready(self.machine, self._reports, fresh=True)
        if self._furnish:
            self._furnish(self.lab)
        self._keep(Ground.NONE)

    def __exit__(self, *_: object) -> None:
        """Remove both."""
        self.machine.erase()
        self._remove()

    def _remove(self) -> None:
        """Remove the store, and that of a call which was killed."""
        subprocess.run(["umount", self.store], capture_output=True, timeout=60, check=False)
        shutil.rmtree(self.store, ignore_errors=True)
        self._file.unlink(missing_ok=True)

    def spoil(self) -> None:
        """Let nothing be taken over from the trial before."""
        self._now = None

    def use(self, ground: Ground, *, fresh: bool = False) -> Lab:
        """The lab on this ground.

        Args:
            ground: What there is of 920.
            fresh: Whether it has to be the kept one, and not one that a trial has left in this state.
        """
        lab = self.lab
        if not fresh and self._now is not None and state(lab) == STATES[ground]:
            return lab
        if not self._kept(ground).exists():
            make(self.use(_BEFORE[ground], fresh=True), ground)
            self._keep(ground)
        self.machine.power_off()
        _run("cp", "--reflink=always", self._kept(ground), self.machine.pool)
        with contextlib.redirect_stderr(io.StringIO()):
            ready(self.machine, self._reports, fresh=False)
        if ground is not Ground.NONE:
            start(lab)
        self._now = ground
        return lab

    def _kept(self, ground: Ground) -> Path:
        return self.store / f"{ground.name}.btrfs"

    def _keep(self, ground: Ground) -> None:
        self.lab.node(
            "sh", "-c", "! pct status 920 2>/dev/null | grep -q running || pct shutdown 920; sync -f /lxc-disks"
        )
        self.machine.power_off()
        _run("cp", "--reflink=always", self.machine.pool, self._kept(ground))


_BEFORE: dict[Ground, Ground] = {
    Ground.CLONE: Ground.NONE,
    Ground.SEALED: Ground.CLONE,
    Ground.ACCEPTED: Ground.SEALED,
}
