"""Runs that are ended at random moments, by Ctrl-C, kill -9 or a loss of power, one after the other on one lab.

Each run goes on from what the one before it has left, and may be ended itself; the last one is not, and must be
green. In the fast loop the server is the stand-in, and an accepted template is proved anew, looked at or verified;
in the full loop 920 is built from nothing with the real vLLM. After each kill the invariants are checked, a list of
which `Watch.broken` is.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fixtures.stages import NOT_PROVED
from tests.faults.__main__ import ready
from tests.faults.trial import GPUS, declared, left_over, state_of
from tests.lab.harness import PARENT, SNAPSHOT, Lab

SNAPSHOT_ROOT = f"/lxc-disks/.snapshots/subvol-920-disk-0@{SNAPSHOT}"
BYSTANDER = "arch: amd64\\nhostname: bystander\\nmemory: 512\\nrootfs: lxc-disks:subvol-999-disk-0,size=1G\\n"
# What is not ours, so that its loss is seen; and a line that writes down the state of 920 at each snapshot.
PUT = f"""
printf '{BYSTANDER}' > /etc/pve/lxc/999.conf
btrfs -q subvolume create /lxc-disks/subvol-999-disk-0; touch /lxc-disks/subvol-999-disk-0/theirs
mkdir -p /var/lib/phoenix-920/records; touch /var/lib/phoenix-920/records/theirs
"""
TAKE = """
rm -f /etc/pve/lab-faults /run/at-snapshot /etc/pve/lxc/999.conf /var/lib/phoenix-920/records/theirs
btrfs -q subvolume delete /lxc-disks/subvol-999-disk-0
"""
LISTENER = "snapshot = sh pct status 920 >> /run/at-snapshot"
LISTEN = f"echo '{LISTENER}' > /etc/pve/lab-faults; touch /run/at-snapshot"
BYSTANDER_LEFT = "container 999.conf"  # in the list of what is left over
LOOK = f"""
cat /etc/pve/lxc/903.conf /etc/pve/lxc/999.conf
ls /lxc-disks/subvol-999-disk-0 /lxc-disks/.snapshots | grep -e theirs -e 903
ls /var/lib/phoenix-920/records/theirs
find {PARENT} -printf '%p %s %T@ %m %U\\n' | sha256sum
"""
DELETE = f"pct delsnapshot 920 {SNAPSHOT} --force >/dev/null 2>&1 || true"
ANEW = "--rebuild-clone clones it anew"  # what the report says where a pull was cut by a loss of power
CTRL_C = "Ctrl-C"
ROLLBACK = f"pct rollback 920 {SNAPSHOT} --start 1"  # the same of a rebuild that was killed while it sealed
BUSY = "pgrep --count --full '/usr/sbin/p(ct|vesh) ' || true"


@dataclass
class Kill:
    """One kill and what came of it.

    Attributes:
        what: "the suite", "suite and node" where the node's commands were killed with it, "power" where the whole
            node was ended, or "Ctrl-C".
        stage: The stage that was going on.
        seconds: Since the run was started.
        state: The kind of state that it left.
        broken: Invariants that do not hold.
    """

    number: int
    what: str
    stage: str
    seconds: float
    state: str
    broken: list[str] = field(default_factory=list)


class Watch:
    """The invariants, and what they are compared with."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.node("sh", "-c", PUT)
        self.listen()
        self.others = lab.node("sh", "-c", LOOK)

    def listen(self) -> None:
        """Write down from now on in which state 920 is when a snapshot is taken."""
        self.lab.node("sh", "-c", LISTEN)

    def end(self) -> None:
        """Take away what was put."""
        self.lab.node("sh", "-c", TAKE)

    def broken(self, record: dict[str, Any] | None) -> list[str]:
        """The invariants that do not hold now.

        Args:
            record: Of the run that was killed; None if it had no folder yet.
        """
        lab = self.lab
        found = []
        if lab.node("sh", "-c", LOOK) != self.others:
            found.append("903, or something without our label, has changed")
        states = lab.node("sort", "-u", "/run/at-snapshot").split("\n")
        if set(states) - {"status: stopped", ""}:
            found.append(f"a snapshot was taken of a container with {states}")
        snapshots = lab.snapshots()
        if set(snapshots) - {SNAPSHOT}:
            found.append(f"snapshots {sorted(snapshots)}")
        if SNAPSHOT in snapshots and "snapstate" not in snapshots[SNAPSHOT]:
            found += self._unproved()
        if record and record["outcome"] != "aborted":
            found.append(f"the record says {record['outcome']}")
        return found

    def _unproved(self) -> list[str]:
        """Checks before sealing that had not passed, as the record in the snapshot says, but for a simulated GPU's."""
        sealed = json.loads(self.lab.node("cat", f"{SNAPSHOT_ROOT}/etc/phoenix/record.json"))
        passed = {each["name"] for each in sealed["checks"] if each["verdict"] in ("passed", NOT_PROVED)}
        stages = list(dict.fromkeys(check.stage for check in declared(GPUS)))
        before = stages[: stages.index("seal")]
        missing = [check.name for check in declared(GPUS) if check.stage in before and check.name not in passed]
        return [f"sealed without {missing}"] if missing else []


def await_quiet(lab: Lab) -> list[str]:
    """Wait for what a killed run has started on the node: it goes on there by itself. Says if it does not end."""
    for _ in range(120):
        if lab.node("sh", "-c", BUSY).strip() == "0":
            return []
        time.sleep(0.5)
    return ["a command of a killed run is still busy after a minute"]


def record_since(lab: Lab, before: set[Path]) -> dict[str, Any] | None:
    """The record of the run that has just ended; None if it had no folder yet.

    Args:
        before: The folders that there were when it began.
    """
    new = [path for path in lab.reports.iterdir() if path not in before and not path.name.startswith(".")]
    folders = [path for path in new if path.is_dir() and not path.is_symlink()]
    return json.loads((folders[0] / "record.json").read_text()) if folders else None


def state(lab: Lab) -> str:
    """The kind of state that 920 is in, and whether it is off though it should not be."""
    found = state_of(lab)
    if found in ("sealed", "accepted", "half made") and "running" not in lab.node("pct", "status", "920"):
        return f"{found}, off"
    return found


def locked(lab: Lab) -> bool:
    """Whether a container of the node is locked."""
    return "lock:" in lab.node("sh", "-c", "cat /etc/pve/lxc/*.conf")


def mend(lab: Lab) -> None:
    """What the report says where a task of the node has died: unlock, and remove what is half made."""
    if state_of(lab) not in ("locked", "half made") and not locked(lab):
        return
    numbers = " ".join(map(str, lab.containers()))
    lab.node("sh", "-c", f"for ctid in {numbers}; do pct unlock $ctid; done >/dev/null 2>&1; true")
    if state_of(lab) == "half made":
        lab.node("sh", "-c", DELETE)
    if "subvol-920" not in lab.node("ls", "/lxc-disks/"):
        lab.destroy()


class Loop:
    """Runs that are killed one after the other.

    Attributes:
        kills: Every kill.
        ended: Runs that had come to their end before they were to be killed, by outcome.
        wrong: What was not as it must be besides the invariants.
        last: What the last run came to.
    """

    def __init__(self, lab: Lab, chance: random.Random, words: Sequence[str], *, full: bool) -> None:
        self.lab, self.chance, self.words, self.full = lab, chance, tuple(words), full
        self.watch = Watch(lab)
        self.left: list[str] = []  # by the runs so far
        self.kills: list[Kill] = []
        self.ended: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.last = "green"
        self.longest = {"build": 90.0 if full else 40.0, "look": 8.0}  # seconds; learned from runs that ended
        self._begun = time.monotonic()

    def run(self, kills: int) -> None:
        """Kill so many runs, and let the last one be green."""
        with contextlib.suppress(KeyboardInterrupt):
            while len(self.kills) < kills:
                self._one()
        mend(self.lab)
        last = self.lab.build(*self.words, seconds=900)  # with a clone
        if last.status and ANEW in " ".join(last.output.split()):
            self.last = "refused for what a pull that was cut has left, and green with --rebuild-clone, as it said"
            last = self.lab.build(*self.words, "--rebuild-clone", seconds=900)
        if last.status or state_of(self.lab) != "accepted":
            self.wrong.append(f"the last run: {last.status} {last.outcome}, failed {sorted(last.failed())}")
        if (left := left_over(self.lab)) and left != [BYSTANDER_LEFT]:
            self.wrong.append(f"left over in the end: {left}")

    def _one(self) -> None:
        accepted = state_of(self.lab) == "accepted"
        if accepted and self.full:
            self.lab.destroy()
        more: list[str] = []
        if accepted and not self.full:
            more = self.chance.choice([["--rebuild"], ["--rebuild"], ["--rebuild"], [], ["--verify"]])
        kind = "look" if accepted and not self.full and more != ["--rebuild"] else "build"
        before = set(self.lab.reports.iterdir())
        self.left = left_over(self.lab)
        if "--verify" not in more and self.chance.random() < (0.5 if self.full else 0.75):
            more = [*more, "--no-clone"]  # else it may be killed while a clone is tried
        process = self.lab.start(*self.words, *more)
        begun = time.monotonic()
        limit = self.chance.uniform(0.3, self.longest[kind])
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            self._kill(process, limit, before)
            return
        except KeyboardInterrupt:
            process.kill()
            process.communicate(timeout=60)
            raise
        took = time.monotonic() - begun
        self.longest[kind] = 0.5 * self.longest[kind] + 0.6 * took
        outcome = output.partition("outcome: ")[2].partition(" ")[0]
        self.ended[outcome] += 1
        if process.returncode:
            self._refused(output)

    def _kill(self, process: subprocess.Popen[str], seconds: float, before: set[Path]) -> None:
        what = self.chance.choices(("the suite", "suite and node", "power", CTRL_C), (60, 15, 5, 20))[0]
        process.send_signal(signal.SIGINT if what == CTRL_C else signal.SIGKILL)
        if what == "suite and node":
            self.lab.node("sh", "-c", "pkill --signal KILL --full '/usr/sbin/p(ct|vesh) ' || true")
        if what == "power":
            self.lab.machine.power_off()
            ready(self.lab.machine, self.lab.reports, fresh=False)
            self.watch.listen()
        process.communicate(timeout=180)  # after Ctrl-C it removes what it has started
        self.wrong += await_quiet(self.lab)
        record = record_since(self.lab, before)
        if record and record["finished"] and record["outcome"] != "aborted":  # struck while Python ended
            self.ended[record["outcome"]] += 1
            self.wrong += self.watch.broken(None)
            return
        stage = _stage(record)
        kill = Kill(len(self.kills) + 1, what, stage, seconds, state(self.lab), self.watch.broken(record))
        if what == CTRL_C:
            kill.broken += self._uncleaned(process.returncode, record)
        self.kills.append(kill)
        said = f"BROKEN: {'; '.join(kill.broken)}" if kill.broken else kill.state
        now = time.monotonic() - self._begun
        print(f"{now:6.0f} s kill {kill.number:3} of {what} after {seconds:.1f} s, {stage}: {said}", flush=True)

    def _uncleaned(self, status: int, record: dict[str, Any] | None) -> list[str]:
        """What is wrong after Ctrl-C; what a kill before it has left is removed by those runs that come so far."""
        begun = record and any(each["verdict"] != "not run" for each in record["checks"])
        broken = [f"it ended with {status}"] if begun and status != 2 else []
        left = [left for left in left_over(self.lab) if left != BYSTANDER_LEFT]
        return broken + [f"left over: {each}" for each in left if each not in self.left]

    def _refused(self, output: str) -> None:
        """A run that was let be has failed: it must say why, and what it says must mend it."""
        text = " ".join(output.split())
        if ANEW in text:
            self.lab.destroy()
        elif ROLLBACK in text:
            self.lab.node("sh", "-c", ROLLBACK)
        elif not (locked(self.lab) or state_of(self.lab) == "half made") or "pct unlock" not in text:
            self.wrong.append(f"a run after kill {len(self.kills)} failed: {text[-600:]}")
            print(output, flush=True)
        mend(self.lab)


def _stage(record: dict[str, Any] | None) -> str:
    """The stage that was going on when a record was last written."""
    if record is None:
        return "before the first check"
    done = {each["name"] for each in record["checks"] if each["verdict"] != "not run"}
    return next((check.stage for check in declared(GPUS) if check.name not in done), "the end")
