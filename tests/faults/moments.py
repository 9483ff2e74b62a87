"""Given moments of a run at which it is ended, or the node loses its power: between stages and inside sealing.

At each moment somebody waits until it was struck: the run itself, through the plugin `waits`, or one of the
node's commands (lab/pve/faults.py). After that nothing may be broken, and the next run must be green, or refuse
with a reason and be green when what it says was done.
"""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.faults.__main__ import ready
from tests.faults.fault import Ground
from tests.faults.kill_loop import (
    BYSTANDER_LEFT,
    CTRL_C,
    LISTENER,
    Watch,
    await_quiet,
    locked,
    mend,
    record_since,
    state,
)
from tests.faults.trial import GPUS, WORDS, declared, left_over, prepare, state_of
from tests.lab.harness import SNAPSHOT, Lab, Run

CONF = "/etc/pve/lxc/920.conf"
SEALED = rf"grep -q '^\[{SNAPSHOT}\]' {CONF}"
KILL, POWER, AWAY = "kill -9", "power", "power of the node alone"  # what is ended, and so how
REACHED = "/run/moment"  # on the node


@dataclass(frozen=True)
class Moment:
    """A moment of a run.

    Attributes:
        name: Of it, for the table.
        check: The run waits before it; empty if one of the node's commands waits.
        verb: The command, or the middle of one.
        when: A shell command that says whether this call is the one.
        ground: What there is of 920 before.
        clones: Whether the run tries a clone too.
    """

    name: str
    check: str = ""
    verb: str = ""
    when: str = "true"
    ground: Ground = Ground.CLONE
    clones: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """Words of the command line."""
        return (*WORDS, *(() if self.clones else ("--no-clone",)), "-p", "tests.faults.waits")


def _boundaries() -> Iterator[Moment]:
    seen: set[str] = set()
    for check in declared(GPUS):
        if check.stage not in seen:
            ground = Ground.NONE if check.stage in ("preflight", "clone") else Ground.CLONE
            yield Moment(
                f"before the stage {check.stage}", check.name, ground=ground, clones=check.stage == "clone acceptance"
            )
        seen.add(check.stage)


BOUNDARIES = tuple(_boundaries())
BEFORE_SHUTDOWN = Moment("sealing: before the shutdown", verb="shutdown")
BEFORE_SNAPSHOT = Moment("sealing: between shutdown and snapshot", verb="snapshot")
IN_SNAPSHOT = Moment("sealing: while the snapshot is taken", verb="snapshot-half")
BEFORE_RECORD = Moment("sealing: between snapshot and its record", verb="pvesh", when=SEALED)
BEFORE_START = Moment("sealing: between the record and the start", verb="start", when=SEALED)
BEFORE_ACCEPTED = Moment("before the snapshot is marked as accepted", verb="pvesh-set")
IN_CLONE = Moment("while a clone is copied", verb="clone-half", when="test -e /etc/pve/lxc/990.conf", clones=True)
SEALING = (BEFORE_SHUTDOWN, BEFORE_SNAPSHOT, IN_SNAPSHOT, BEFORE_RECORD, BEFORE_START, BEFORE_ACCEPTED)


@dataclass
class Strike:
    """What came of striking at a moment.

    Attributes:
        way: CTRL_C, KILL, POWER or AWAY.
        state: The kind of state that it left.
        then: What the next run came to; empty if that was not tried.
        wrong: What is not as it must be.
    """

    moment: str
    way: str
    state: str = ""
    then: str = ""
    wrong: list[str] = field(default_factory=list)


@contextmanager
def reached(lab: Lab, moment: Moment, *words: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Start a run, and hold it at a moment; with the file that the run waits for, if it is that which waits."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        file = Path(folder, "waits")
        patch.setenv("WAIT_BEFORE", f"{moment.check}={file}")
        hold = f"touch {REACHED}; while [ -e {REACHED} ]; do sleep 0.1; done"
        line = f"{moment.verb} = sh ! {{ {moment.when}; }} || {{ {hold}; }}"
        with lab.fault(LISTENER, *([line] if moment.verb else [])):
            process = lab.start(*moment.words, *words)
            there = ["test", "-e", str(file)] if moment.check else [str(lab.machine.shim), "test", "-e", REACHED]
            while process.poll() is None and subprocess.run(there, check=False, timeout=60).returncode:
                time.sleep(0.2)
            try:
                yield process, file
            finally:
                process.kill()
                process.communicate(timeout=60)
                file.unlink(missing_ok=True)
                if not lab.machine.pid():
                    ready(lab.machine, lab.reports, fresh=False)


def strike(lab: Lab, moment: Moment, way: str, watch: Watch, *words: str) -> Strike:
    """End a run at a moment, put the power on again, and look at what is there."""
    found = Strike(moment.name, way)
    before = set(lab.reports.iterdir())
    with reached(lab, moment, *words) as (process, file):
        if process.poll() is not None:
            found.wrong.append("the run ended before it came so far")
        elif way == CTRL_C:
            process.send_signal(signal.SIGINT)
            file.unlink(missing_ok=True)
            watch.listen()  # no other command waits
            lab.node("rm", "-f", REACHED)
            found.wrong += interrupted(lab, lab.finish(process, 180))
        elif way == KILL:
            process.kill()
            lab.node("rm", "-f", REACHED)
        else:
            if way == POWER:
                process.kill()
            lab.machine.power_off()
            if way == AWAY:
                file.unlink(missing_ok=True)
                found.wrong += _must_be_red(lab, process)
    watch.listen()
    found.wrong += await_quiet(lab)
    found.wrong += watch.broken(None if way == AWAY else record_since(lab, before))
    found.state = state(lab)
    return found


def interrupted(lab: Lab, run: Run) -> list[str]:
    """What is wrong with a run that was ended by Ctrl-C: it has to clean up behind itself."""
    wrong = [] if run.status == 2 else [f"the run ended with {run.status}"]
    return wrong + [f"left over: {left}" for left in left_over(lab) if left != BYSTANDER_LEFT]


def _must_be_red(lab: Lab, process: subprocess.Popen[str]) -> list[str]:
    """What is wrong with a run whose node is gone: it has to end by itself, and to say so."""
    run = lab.finish(process, 300)
    wrong = [] if run.status == 1 else [f"the run without its node ended with {run.status}"]
    return wrong + (["it says that it has built"] if run.outcome == "built" else [])


def go_on(lab: Lab, found: Strike, watch: Watch, *words: str) -> Run:
    """Let the next run go on from there."""
    run = lab.build(*WORDS, *words)
    found.then = "green"
    if run.status and "pct unlock" in run.output and (locked(lab) or state_of(lab) == "half made"):
        mend(lab)
        run = lab.build(*WORDS, *words)
        found.then = "refused, green when what it says was done"
    if run.status or state_of(lab) != "accepted":
        found.wrong.append(f"the next run: {run.status} {run.outcome}, failed {sorted(run.failed())}")
    found.wrong += watch.broken(None)
    found.wrong += [f"left over: {left}" for left in left_over(lab) if left != BYSTANDER_LEFT]
    return run


def strike_all(lab: Lab) -> Iterator[Strike]:
    """Every moment, in each way; between stages the next run is tried once for each state that is left in a way."""
    watch, tried = Watch(lab), set[tuple[str, str]]()
    for moment in (*BOUNDARIES, IN_CLONE, *SEALING):
        for way in (CTRL_C, KILL, POWER, *((AWAY,) if moment in SEALING else ())):
            lab.destroy(990)  # what has gone wrong at one moment must not spoil the next
            prepare(lab, moment.ground)
            found = strike(lab, moment, way, watch)
            if moment not in BOUNDARIES or (found.state, way) not in tried:
                go_on(lab, found, watch, *(() if moment.clones else ("--no-clone",)))
                tried.add((found.state, way))
            yield found
