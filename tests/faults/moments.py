"""Given moments of a run at which it is ended, or the node loses its power: between stages and inside sealing.

At each moment somebody waits until the run has been ended: the run itself, through the plugin `waits`, or one of the
node's commands (lab/pve/faults.py). After that every invariant must hold, and the next run must finish, find 920
existing, or refuse with commands that fix it.
"""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.faults.fault import Ground
from tests.faults.grounds import ready
from tests.faults.invariants import LISTENERS, Watch, await_quiet, leftovers, record_since
from tests.faults.trial import GPUS, WORDS, declared, state, state_of
from tests.lab.harness import SNAPSHOT, Lab, Run

CTRL_C, SIGTERM, SIGHUP, KILL = "Ctrl-C", "SIGTERM", "SIGHUP", "kill -9"
KILL_ALL = "kill -9, also of the node's command"
POWER, AWAY = "power", "power of the node alone"
SIGNALS = {CTRL_C: signal.SIGINT, SIGTERM: signal.SIGTERM, SIGHUP: signal.SIGHUP}
REACHED = "/run/moment"  # on the node
KILL_COMMANDS = "pkill --signal KILL --full '/usr/sbin/p(ct|vesh) ' || true"
# What a refusal says can be pasted into a shell of the node.
FIX = re.compile(r"\bpct (?:unlock|start|stop|shutdown|destroy|delsnapshot|rollback|set|snapshot) \d+[^`;,:()\n]*")


@dataclass(frozen=True)
class Moment:
    """A moment of a run.

    Attributes:
        name: Of it, for the table.
        check: The run waits before it; empty if one of the node's commands waits.
        verb: The command, or the middle of one.
        when: A shell command that says whether this call is the one; `$words` has the words of the command.
        ground: What there is of 920 before.
        words: More words of the command line.
        clones: Whether the run tries a clone too.
    """

    name: str
    check: str = ""
    verb: str = ""
    when: str = "true"
    ground: Ground = Ground.CLONE
    words: tuple[str, ...] = ()
    clones: bool = False

    @property
    def command_line(self) -> tuple[str, ...]:
        """Words of the command line."""
        return (*WORDS, *self.words, *(() if self.clones else ("--no-clone",)), "-p", "tests.faults.waits")


def _boundaries() -> Iterator[Moment]:
    """Before each stage of a build, from the ground that is the shortest way there."""
    seen = {"family"}  # a run of its own, which no build comes to
    grounds = {"preflight": Ground.NONE, "clone": Ground.NONE}
    grounds |= dict.fromkeys(("sealed", "recorded", "clone acceptance", "accepted"), Ground.SEALED)
    for check in declared(GPUS):
        if check.stage not in seen:
            ground, clones = grounds.get(check.stage, Ground.CLONE), check.stage == "clone acceptance"
            yield Moment(f"before the stage {check.stage}", check.name, ground=ground, clones=clones)
        seen.add(check.stage)


BOUNDARIES = tuple(_boundaries())
CONF = "/etc/pve/lxc/920.conf"
GENERATION, DECLARED = (f"echo $words | grep -Eq '[ /]{SNAPSHOT}{end}'" for end in ("-g[0-9]", "( |/|$)"))
# both snapshots of the newest generation are there and whole, and not accepted yet
BOTH = (
    f"n=$(grep -o '^.{SNAPSHOT}-g[0-9]*' {CONF} | grep -o '[0-9]*$' | sort -n | tail -n 1); "
    f'[ "$(grep -c " generation $n " {CONF})" -eq 2 ] && ! grep -q ^snapstate {CONF} && '
    f'! grep -q " generation $n .* accepted " {CONF}'
)
BEFORE_SHUTDOWN = Moment("before the shutdown", verb="shutdown")
BEFORE_SNAPSHOT = Moment("before the generation's snapshot", verb="snapshot", when=GENERATION)
IN_SNAPSHOT = Moment("while the generation's snapshot is taken", verb="snapshot-half", when=GENERATION)
BEFORE_DELETION = Moment("between the two: before the old snapshot is deleted", verb="delsnapshot", when=DECLARED)
IN_DELETION = Moment("between the two: while the old snapshot is deleted", verb="delsnapshot-half", when=DECLARED)
BEFORE_DECLARED = Moment("between the two: before the declared snapshot", verb="snapshot", when=DECLARED)
IN_DECLARED = Moment("while the declared snapshot is taken", verb="snapshot-half", when=DECLARED)
BEFORE_RECORD = Moment("between the declared snapshot and its record", verb="snapshot-done", when=BOTH)
BEFORE_START = Moment("between the record and the start", verb="start", when=BOTH)
BEFORE_ACCEPTED = Moment("before the generation is accepted", verb="pvesh-set", when=GENERATION)
BETWEEN_ACCEPTED = Moment("between the accepting of the two", verb="pvesh-set", when=DECLARED)
BEFORE_REMOVAL = Moment("before the old generation is removed", verb="delsnapshot", when=GENERATION)
IN_REMOVAL = Moment("while the old generation is removed", verb="delsnapshot-half", when=GENERATION)
IN_CLONE = Moment(
    "while a clone is copied",
    verb="clone-half",
    when="test -e /etc/pve/lxc/990.conf",
    ground=Ground.SEALED,
    clones=True,
)
IN_FIRST_CLONE = Moment("while 920 is cloned", verb="clone-half", ground=Ground.NONE)
COPIED = Moment("after the volume of 920 is copied", verb="clone-copied", ground=Ground.NONE)
SEALING = (
    *(BEFORE_SHUTDOWN, BEFORE_SNAPSHOT, IN_SNAPSHOT, BEFORE_DELETION, IN_DELETION, BEFORE_DECLARED, IN_DECLARED),
    *(BEFORE_RECORD, BEFORE_START, BEFORE_ACCEPTED, BETWEEN_ACCEPTED, BEFORE_REMOVAL, IN_REMOVAL),
)
OF_A_REBUILD = (BEFORE_DELETION, IN_DELETION, BEFORE_REMOVAL, IN_REMOVAL)  # a first build has nothing to replace
REBUILDS = tuple(replace(moment, ground=Ground.ACCEPTED, words=("--rebuild",)) for moment in SEALING)
FIRST = tuple(moment for moment in SEALING if moment not in OF_A_REBUILD)
CLONING = (IN_FIRST_CLONE, COPIED, IN_CLONE)


@dataclass
class Strike:
    """What came of ending a run at a moment.

    Attributes:
        way: How it was ended.
        state: The kind of state that this left.
        then: What the next run came to; empty if that was not tried.
        fixes: What that run's refusal said to run, which was run.
        wrong: What is not as expected.
    """

    moment: str
    way: str
    state: str = ""
    then: str = ""
    fixes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@contextmanager
def reached(lab: Lab, moment: Moment, *words: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Start a run, and hold it at a moment; with the file that the run waits for, if it is that which waits."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        file = Path(folder, "waits")
        patch.setenv("WAIT_BEFORE", f"{moment.check}={file}")
        # the shell's parent is the command that is held
        mine = "words=$(tr '\\0' ' ' < /proc/$PPID/cmdline)"
        hold = f"touch {REACHED}; while [ -e {REACHED} ]; do sleep 0.1; done"
        line = f"{moment.verb} = sh {mine}; ! {{ {moment.when}; }} || {{ {hold}; }}"
        with lab.fault(*LISTENERS, *([line] if moment.verb else [])):
            process = lab.start(*moment.command_line, *words)
            there = ["test", "-e", str(file)] if moment.check else [str(lab.machine.shim), "test", "-e", REACHED]
            while process.poll() is None and subprocess.run(there, check=False, timeout=60).returncode:
                time.sleep(0.1)
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
            output, _ = process.communicate(timeout=60)
            print(output)
            found.wrong.append("the run ended before it came so far")
        elif way in SIGNALS:
            process.send_signal(SIGNALS[way])
            file.unlink(missing_ok=True)
            watch.listen(anew=False)  # no other command waits
            lab.node("rm", "-f", REACHED)
            found.wrong += interrupted(lab, lab.finish(process, 180))
        elif way in (KILL, KILL_ALL):
            process.kill()
            if way == KILL_ALL:
                lab.node("sh", "-c", KILL_COMMANDS)
            lab.node("rm", "-f", REACHED)
        else:
            if way == POWER:
                process.kill()
            lab.machine.power_off()
            if way == AWAY:
                file.unlink(missing_ok=True)
                found.wrong += _must_be_red(lab, process)
    watch.listen(anew=False)
    found.wrong += await_quiet(lab)
    found.wrong += watch.broken(None if way == AWAY else record_since(lab, before))
    found.state = state(lab)
    return found


def interrupted(lab: Lab, run: Run) -> list[str]:
    """What is wrong with a run that was ended in order: it has to clean up behind itself."""
    wrong = [] if run.status == 2 else [f"the run ended with {run.status}"]
    return wrong + [f"left over: {left}" for left in leftovers(lab, ended=False)]


def _must_be_red(lab: Lab, process: subprocess.Popen[str]) -> list[str]:
    """What is wrong with a run whose node is gone: it has to end by itself, and to say so."""
    run = lab.finish(process, 300)
    wrong = [] if run.status == 1 else [f"the run without its node ended with {run.status}"]
    return wrong + (["it says that it has built"] if run.outcome == "built" else [])


def go_on(lab: Lab, found: Strike, watch: Watch, *words: str) -> Run:
    """Let the next run go on from there; where it refuses, run what it says, and let it run again."""
    run = lab.build(*WORDS, *words)
    found.then = "green" if run.outcome == "built" else run.outcome
    if run.status:
        failed = sorted(run.failed())
        found.fixes = fixes(run.output)
        found.wrong += [f"`{fix}`: {said}" for fix in found.fixes if (said := _ran(lab, fix))]
        more = ["--rebuild-clone"] if not found.fixes and "--rebuild-clone" in run.output else []
        found.fixes += more
        if not found.fixes:
            found.wrong.append(f"the next run failed, and says no command that fixes it: {failed}")
        run = lab.build(*WORDS, *words, *more)
        found.then = f"refused ({', '.join(failed)}); {run.outcome} after {', '.join(found.fixes) or 'nothing'}"
    if run.status or state_of(lab) != "accepted":
        found.wrong.append(f"the next run: {run.status} {run.outcome}, failed {sorted(run.failed())}")
    found.wrong += watch.broken()
    found.wrong += [f"left over: {left}" for left in leftovers(lab)]
    return run


def fixes(output: str) -> list[str]:
    """The commands of the node that a run's output says to run, each once, in their order."""
    text = re.sub(r"\n +", " ", output)  # long lines are broken
    return list(dict.fromkeys(found.strip(" .'\"") for found in FIX.findall(text)))


def _ran(lab: Lab, fix: str) -> str:
    """Run a command on the node; what it said if it failed."""
    try:
        lab.node(*shlex.split(fix))
    except Exception as error:
        return str(error)
    return ""
