"""One fault, put for real: what the suite made of it, and whether that is as it must be."""

from __future__ import annotations

import json
import re
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from fixtures.run.stages import DESCENDANT, Check, declared_checks
from tests.faults.fault import COMMAND_LINE, ROOT, Fault, Ground
from tests.lab.harness import SNAPSHOT, STAND_IN, TOP, Lab, Run

GPUS = (0, 1)
NEVER = {  # checks that nothing in the lab turns red, and why
    "test_surroundings_are_compared": "it only warns: another driver is no fault of the template",
    "test_server_is_fast_enough": "only a real GPU's speed is judged; tests/test_gpu_checks.py",
    "test_nothing_depends_on_the_snapshot": "btrfs has no dependents, ZFS has; tests/test_dependents.py",
}
MEMBER = 931  # of the family, in its faults
COPY = "/lxc-disks/.snapshots/ground"
# The image that starts in a second, and deadlines that suit it.
WORDS = (
    *STAND_IN,
    *("-o", "ready_deadline=12", "-o", "answer_deadline=4", "-o", "command_deadline=30"),
)
NOT_ACCEPTED = ("--deselect", "tests_920/test_090_accepted.py")
BOOTED = """
for _ in $(seq 200); do
  [ "$(pct exec 920 -- systemctl is-system-running)" = running ] && exit 0; sleep 0.2
done
exit 1
"""
LEFT = """
docker ps --all --quiet --filter label=phoenix-920 | sed 's/^/container /'
docker image ls --quiet --filter label=phoenix-920 | sed 's/^/image /'
pgrep --full --list-full nvidia-sm[i] | sed 's/^/process /'
true
"""


@dataclass
class Line:
    """What came of one fault; a line of the table.

    Attributes:
        stage: The first stage in which a check failed.
        seconds: From the start of the suite to its verdict.
        diagnoses: Ids that the record gives.
        sealed: "no", "not accepted" or, which must never be, "accepted".
        left: What the suite has left behind.
        state: The kind of state in which the lab was left, with the fault undone.
        green: Whether the next normal run was green; empty if that was not tried.
        wrong: What is not as it must be.
        occasion: When it was put, and on which commit.
    """

    fault: Fault
    stage: str = ""
    seconds: float = 0.0
    diagnoses: list[str] = field(default_factory=list)
    sealed: str = ""
    left: list[str] = field(default_factory=list)
    state: str = ""
    green: str = ""
    wrong: list[str] = field(default_factory=list)
    occasion: str = ""
    said: str = ""

    @classmethod
    def from_facts(cls, fault: Fault, facts: dict[str, Any]) -> Line:
        """A line of the state file; a trial that broke has little to say but why."""
        names = ("stage", "diagnoses", "sealed", "left", "state", "green", "wrong", "occasion")
        return cls(fault, seconds=facts.get("verdict", 0.0), **{name: facts[name] for name in names if name in facts})


def prepare(lab: Lab, ground: Ground) -> None:
    """Bring 920 into the state that a fault is put on, where no disk of that state is kept."""
    state = state_of(lab)
    if ground is Ground.NONE or state not in ("running", "off", "sealed", "accepted"):
        lab.destroy()
    if ground in (Ground.CLONE, Ground.SEALED) and state in ("sealed", "accepted"):
        for name in sorted(snapshots(lab)):
            lab.node("pct", "delsnapshot", "920", name)
    if ground is not Ground.NONE and state_of(lab) == "no 920":
        _make_clone(lab)
    if ground is not Ground.NONE and state_of(lab) == "off":
        start(lab)
    if ground is Ground.SEALED or (ground is Ground.ACCEPTED and state != "accepted"):
        make(lab, ground)


def _make_clone(lab: Lab) -> None:
    """A clone with the image in it: by the suite the first time, then a copy of that one."""
    if lab.node("sh", "-c", f"ls -d {COPY} 2>/dev/null || true"):
        lab.node("sh", "-ec", f"btrfs -q subvolume snapshot {COPY} {ROOT}; cp /root/ground.conf /etc/pve/lxc/920.conf")
        start(lab)
        return
    make(lab, Ground.CLONE)
    copy = f"btrfs -q subvolume snapshot {ROOT} {COPY}; cp /etc/pve/lxc/920.conf /root/ground.conf"
    lab.node("sh", "-ec", f"pct shutdown 920; {copy}")
    start(lab)


def make(lab: Lab, ground: Ground) -> None:
    """Let the suite bring 920 from the state before into this one."""
    if ground is Ground.CLONE:
        run = lab.build(*WORDS, "--no-clone", "-o", "expected_word=Berlin")
        assert run.failed() == {f"test_server_answers[gpu{index}]" for index in GPUS}, "no ground: see above"
        return
    lab.build(*WORDS, "--no-clone", *(NOT_ACCEPTED if ground is Ground.SEALED else ()))
    assert state_of(lab) == ("sealed" if ground is Ground.SEALED else "accepted"), "no ground: see above"


def start(lab: Lab) -> None:
    """Start 920 and wait until it has booted: one that is booting can't be shut down."""
    lab.node("pct", "start", "920")
    lab.node("sh", "-c", BOOTED)


def state_of(lab: Lab) -> str:
    """The kind of state that 920 is in."""
    if "920.conf" not in lab.node("ls", "/etc/pve/lxc/"):
        return "no 920"
    if "lock:" in lab.node("sh", "-c", "cat /etc/pve/lxc/920.conf"):
        return "locked"
    snapshot = snapshots(lab).get(SNAPSHOT)
    if snapshot is None:
        return "running" if "running" in lab.node("pct", "status", "920") else "off"
    if "\nsnapstate:" in snapshot:
        return "half made"
    return "accepted" if " accepted " in snapshot else "sealed"


def state(lab: Lab) -> str:
    """The kind of state that 920 is in, and whether it is off though it should not be."""
    found = state_of(lab)
    if found in ("sealed", "accepted", "half made") and "running" not in lab.node("pct", "status", "920"):
        return f"{found}, off"
    return found


def snapshots(lab: Lab) -> dict[str, str]:
    """The sections of 920's snapshots, read without the node's commands: these may be what is broken."""
    return sections(lab.node("sh", "-c", "cat /etc/pve/lxc/920.conf 2>/dev/null || true"))


def sections(text: str) -> dict[str, str]:
    """The sections of the snapshots in a container's configuration."""
    parts = re.split(r"^\[(.+)\]$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], map(urllib.parse.unquote, parts[1::2]), strict=True))


def try_fault(lab: Lab, fault: Fault, look: Callable[[Run], None] = lambda _: None) -> Line:
    """Put a fault on a lab that is on its ground, run the suite, undo the fault, and judge; `look`: at the run too."""
    line = Line(fault)
    with fault.put(lab) as words:
        before = snapshots(lab)
        run = lab.build(*WORDS, *([] if fault.clones else ["--no-clone"]), *fault.words, *words)
        line.seconds = run.seconds
        judge(line, run)
        look(run)
        line.sealed = _sealed(before, snapshots(lab))
    line.left = left_over(lab)
    line.state = state_of(lab)
    if line.sealed not in _allowed(fault):
        line.wrong.append(f"sealed: {line.sealed}")
    if line.left:
        line.wrong.append(f"left over: {', '.join(line.left)}")
    return line


def judge(line: Line, run: Run) -> None:
    """Whether the right checks have failed, and what was said."""
    text = " ".join(run.output.split())
    line.wrong += [f"not said: {each}" for each in line.fault.said if each not in text]
    if line.fault.stage == COMMAND_LINE:
        line.stage = COMMAND_LINE
        line.wrong += [] if run.status == 4 else [f"exit status {run.status}"]
        return
    fault, failed = line.fault, {name for name in run.failed() if not name.startswith("sealing[")}
    stages = {short(check.name): check.stage for check in declared(GPUS)}
    line.stage = next((stage for name, stage in stages.items() if name in failed), "none")
    if (run.status, run.outcome) != (1 if fault.failed else 0, fault.outcome):
        line.wrong.append(f"exit status {run.status}, outcome {run.outcome}")
    if line.stage != fault.stage:
        line.wrong.append(f"found by {line.stage}")
    if failed != fault.checks(GPUS):
        line.wrong.append(f"failed {sorted(failed)}")
    line.wrong += sorted(blocked_by_another(fault.stage, run))
    line.wrong += unexplained(run)
    line.diagnoses = diagnoses(run)
    if fault.diagnosis and fault.diagnosis not in line.diagnoses:
        line.wrong.append(f"diagnosis {line.diagnoses or 'none'}")
    if fault.diagnosis and "no known failure mode matches" in run.output:
        line.wrong.append("a failure that the catalogue knows has no failure mode")


def blocked_by_another(stage: str, run: Run) -> set[str]:
    """Why checks were blocked, other than by the stage that has failed or by what a failed check claims."""
    checks = json.loads((run.folder / "record.json").read_text())["checks"]
    why = {check["reason"] for check in checks if check["reason"].startswith("blocked by")}
    return why - {f"blocked by {stage}", *(f"blocked by: {check['title'].rstrip('.')}" for check in failed_of(checks))}


def unexplained(run: Run) -> list[str]:
    """The failures whose first line does not say what was seen, what was expected and what to run."""
    checks = json.loads((run.folder / "record.json").read_text())["checks"]
    return [f"unexplained: {check['reason']}" for check in failed_of(checks) if not explains(check["reason"])]


def explains(first: str) -> bool:
    """Whether a failure's first line has what was seen and expected, a command, and neither code nor a function."""
    seen, expected, rest = first.partition("; expected ")
    names = {short(check.name).partition("[")[0] for check in declared(GPUS)}
    command = rest.rpartition("; run: ")[2]
    return bool(seen and expected and command) and "assert" not in first and not any(name in first for name in names)


def failed_of(checks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The checks of a record that have failed."""
    return [check for check in checks if check["verdict"] == "failed"]


def diagnoses(run: Run) -> list[str]:
    """The ids of the diagnoses in a run's record."""
    record = json.loads((run.folder / "record.json").read_text())
    return list(dict.fromkeys(each for check in record["checks"] for each in check.get("diagnosis") or []))


@cache
def declared(gpus: tuple[int, ...]) -> list[Check]:
    """Every check of the build, and those of a family that consists of one container."""
    found = declared_checks(TOP / "tests_920/CHECKS", gpus)
    return [replace(check, name=check.name.replace(DESCENDANT, f"[{MEMBER}]")) for check in found]


def short(name: str) -> str:
    """A check's name without its file and class."""
    return name.rpartition("::")[2]


def _sealed(before: dict[str, str], after: dict[str, str]) -> str:
    snapshot = after.get(SNAPSHOT)
    if snapshot is None or snapshot == before.get(SNAPSHOT):
        return "no"
    if "\nsnapstate:" in snapshot:
        return "half made"
    return "accepted" if " accepted " in snapshot else "not accepted"


def _allowed(fault: Fault) -> tuple[str, ...]:
    if fault.outcome == "built":
        return ("accepted",)
    return ("no", "half made", *(("not accepted",) if fault.seals else ()))  # none of which counts as done


def left_over(lab: Lab) -> list[str]:
    """What the suite has made and not removed: in 920's Docker and processes, in its configuration, on the node."""
    found = []
    for _ in range(20):  # a command that was ended with its deadline lives some seconds longer inside
        found = [] if state_of(lab) in ("no 920", "off", "locked") else _inside(lab)
        found += lab.node("sh", "-c", "pgrep --list-full lxc-attach | grep -v pgrep || true").splitlines()
        if not found:
            break
        time.sleep(0.5)
    conf = lab.node("sh", "-c", "cat /etc/pve/lxc/920.conf 2>/dev/null || true").partition("[")[0]
    if conf and "memory: 4096" not in conf:
        found.append("another memory")
    containers = lab.node("ls", "/etc/pve/lxc/").split()
    return found + [f"container {name}" for name in containers if name not in ("903.conf", "920.conf")]


def _inside(lab: Lab) -> list[str]:
    if "running" not in lab.node("pct", "status", "920"):
        return []
    return lab.inside("sh", "-c", LEFT).splitlines()
