"""What must hold after every end of a run, and after the next run."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from fixtures.run.stages import INCONCLUSIVE
from tests.faults.trial import GPUS, declared, sections, snapshots
from tests.lab.harness import SNAPSHOT, Lab

BYSTANDER = "arch: amd64\\nhostname: bystander\\nmemory: 512\\nrootfs: lxc-disks:subvol-999-disk-0,size=1G\\n"
THEIRS = "999.conf"  # in the list of leftovers
# What is not ours, so that its loss is seen.
PUT = f"""
printf '{BYSTANDER}' > /etc/pve/lxc/{THEIRS}
btrfs -q subvolume create /lxc-disks/subvol-999-disk-0; touch /lxc-disks/subvol-999-disk-0/theirs
mkdir -p /var/lib/phoenix-920/records; touch /var/lib/phoenix-920/records/theirs
"""
TAKE = f"""
rm -f /etc/pve/lab-faults /run/seen /etc/pve/lxc/{THEIRS} /var/lib/phoenix-920/records/theirs
btrfs -q subvolume delete /lxc-disks/subvol-999-disk-0
"""
# Every command that changes a snapshot or the power notes first what there is: between two of them nothing changes.
SEE = (
    "{{ echo call {}; pct status 920; cat /etc/pve/lxc/920.conf; echo storage; ls /lxc-disks/.snapshots; echo end; }} "
    ">> /run/seen"
)
LISTENERS = tuple(
    f"{verb} = sh {SEE.format(verb)}" for verb in ("snapshot", "delsnapshot", "rollback", "destroy", "start")
)
CALL = re.compile(r"^call (\S+)\n(.*?)^storage\n(.*?)^end$", re.MULTILINE | re.DOTALL)
# 903 byte by byte: nothing in a file changes without its ctime.
LOOK = f"""
grep -v '^lock: disk$' /etc/pve/lxc/903.conf; cat /etc/pve/lxc/{THEIRS}
ls /lxc-disks/subvol-999-disk-0 /lxc-disks/.snapshots | grep -e theirs -e 903 -e 999
ls /var/lib/phoenix-920/records/theirs
cd /lxc-disks
find subvol-903-disk-0 .snapshots/subvol-903-disk-0@* -printf '%p %i %y %s %T@ %C@ %m %U %G %l\\n' | sha256sum
"""
OURS = r"--full '/usr/sbin/p(ct|vesh|vesm) |# phoenix-92[0]|phoenix-920/task[s]|lxc-attac[h]'"
BUSY = f"pgrep --count {OURS} || true"
WHO = f"pgrep --list-full {OURS} | cut -c1-160 || true"
DECLARED_MEMORY = 4096
LOCKS = """
for file in /run/lock/phoenix-920*.lock /run/lock/lxc/*; do
  [ ! -f "$file" ] || flock --nonblock "$file" true || echo "lock $file"
done
grep -H '^lock:' /etc/pve/lxc/*.conf | sed 's|.*/||'
true
"""
TASKS = "find /var/lib/phoenix-920/tasks -name task.json 2>/dev/null | sed 's/^/task /'; true"
DOCKER = """
docker ps --all --quiet | sed 's/^/Docker container /'
docker image ls --quiet --filter label=phoenix-920 | sed 's/^/Docker image /'
pgrep --full --list-full nvidia-sm[i] | sed 's/^/process /'
true
"""


def put(lab: Lab) -> None:
    """Put things on the node that are not ours."""
    lab.node("sh", "-c", PUT)


class Watch:
    """The invariants, and what they are compared with."""

    def __init__(self, lab: Lab, *, rebuilds: bool = False) -> None:
        """Begin to watch.

        Args:
            lab: The lab, with what `put` has put.
            rebuilds: Whether 920 is accepted now, so that an accepted snapshot has to exist from here on.
        """
        self.lab = lab
        self.rebuilds = rebuilds
        self.others = lab.node("sh", "-c", LOOK)
        self.listen()

    def listen(self, *, anew: bool = True) -> None:
        """Write down from now on what there is at each change.

        Args:
            anew: Whether to forget what was written down so far.
        """
        write = 'printf "%s\\n" "$@" > /etc/pve/lab-faults' + ("; : > /run/seen" if anew else "")
        self.lab.node("sh", "-c", write, "sh", *LISTENERS)

    def end(self) -> None:
        """Take away what was put."""
        self.lab.node("sh", "-c", TAKE)

    def broken(self, record: dict[str, Any] | None = None) -> list[str]:
        """The invariants that do not hold now.

        Args:
            record: Of a run that was ended just now; None if it had no folder yet, or came to its own end.
        """
        found = []
        if (now := self.lab.node("sh", "-c", LOOK)) != self.others:
            found.append(f"903, or something that is not ours, has changed: {_difference(self.others, now)}")
        calls = CALL.findall(self.lab.node("sh", "-c", "cat /run/seen 2>/dev/null || true"))
        if any(verb == "snapshot" and "status: running" in text for verb, text, _ in calls):
            found.append("a snapshot was taken of a running container")
        stored = self.lab.node("sh", "-c", "ls /lxc-disks/.snapshots || true")
        there = snapshots(self.lab)
        if self.rebuilds and not _accepted(there, stored):
            found.append(f"no accepted snapshot exists: {_names(there)}")
        found += [
            f"no accepted snapshot existed when `pct {verb}` was called: {_names(sections(text))}"
            for verb, text, on_storage in calls
            if self.rebuilds and not _accepted(sections(text), on_storage)
        ]
        for name in _accepted(there, stored):
            found += self._unproved(name)
        if record and record["outcome"] != "aborted":
            found.append(f"the record says {record['outcome']}")
        return found

    def _unproved(self, name: str) -> list[str]:
        """Checks before sealing that had not passed, as the record in the snapshot says, but for a simulated GPU's."""
        root = f"/lxc-disks/.snapshots/subvol-920-disk-0@{name}"
        sealed = json.loads(self.lab.node("cat", f"{root}/etc/phoenix/record.json"))
        passed = {
            each["name"] for each in sealed["checks"] if each["verdict"] in ("passed", INCONCLUSIVE, "inconclusive")
        }
        stages = list(dict.fromkeys(check.stage for check in declared(GPUS)))
        before = stages[: stages.index("seal")]
        missing = [check.name for check in declared(GPUS) if check.stage in before and check.name not in passed]
        return [f"{name} is accepted and was sealed without {missing}"] if missing else []


def _accepted(there: dict[str, str], stored: str) -> list[str]:
    """Names of the whole snapshots of 920 that say they are accepted and are on the storage."""
    ours = re.compile(rf"{SNAPSHOT}(-g\d+)?")
    names = [name for name, text in there.items() if " accepted " in text and "\nsnapstate:" not in text]
    return [name for name in names if ours.fullmatch(name) and f"subvol-920-disk-0@{name}\n" in stored + "\n"]


def _names(there: dict[str, str]) -> str:
    return ", ".join(f"{name}{' half made' if 'snapstate:' in text else ''}" for name, text in there.items()) or "none"


def _difference(before: str, now: str) -> str:
    lines = set(before.splitlines()) ^ set(now.splitlines())
    return "; ".join(sorted(line[:120] for line in lines))[:500]


def await_quiet(lab: Lab) -> list[str]:
    """Wait for what a killed run has started on the node: it goes on there by itself. Says if it does not end."""
    for _ in range(120):
        if lab.node("sh", "-c", BUSY).strip() == "0":
            return []
        time.sleep(0.5)
    return [f"still busy after a minute: {lab.node('sh', '-c', WHO)}"]


def record_since(lab: Lab, before: set[Path]) -> dict[str, Any] | None:
    """The record of the run that has just ended; None if it had no folder yet.

    Args:
        before: The folders that there were when it began.
    """
    new = [path for path in lab.reports.iterdir() if path not in before and not path.name.startswith(".")]
    folders = [path for path in new if path.is_dir() and not path.is_symlink()]
    return json.loads((folders[0] / "record.json").read_text()) if folders else None


def leftovers(lab: Lab, *, ended: bool = True) -> list[str]:
    """What runs have made and not removed, on the node, on its storage and in 920.

    Args:
        lab: The lab.
        ended: Whether a run has come to its own end since: before that a snapshot may be unfinished, and a command that
            runs on by itself is noted for the next run.
    """
    found = lab.node("sh", "-c", LOCKS).splitlines() + lab.node("sh", "-c", WHO).splitlines()
    confs = lab.node("ls", "/etc/pve/lxc/").split()
    found += [f"container {name}" for name in confs if name not in ("903.conf", "920.conf", THEIRS)]
    if "920.conf" in confs:
        found += _of_920(lab)
    return found + (_on_storage(lab, confs) + lab.node("sh", "-c", TASKS).splitlines() if ended else [])


def _of_920(lab: Lab) -> list[str]:
    head = lab.node("sh", "-c", "cat /etc/pve/lxc/920.conf").partition("\n[")[0]
    memory = re.search(r"^memory: (\d+)$", head, re.MULTILINE)
    found = ["more memory than declared"] if memory and int(memory[1]) > DECLARED_MEMORY else []  # a server's
    if "running" not in lab.node("pct", "status", "920"):
        return found
    for _ in range(20):  # a command that was ended with its deadline lives some seconds longer inside
        if not (inside := lab.inside("sh", "-c", DOCKER).splitlines()):
            break
        time.sleep(0.5)
    return found + inside


def _on_storage(lab: Lab, confs: list[str]) -> list[str]:
    """Volumes and snapshots that no configuration knows, and those that a configuration knows alone."""
    known, text = set(), ""
    for conf in confs:
        text = lab.node("cat", f"/etc/pve/lxc/{conf}")
        volumes = re.findall(r"^(?:rootfs|mp\d+|unused\d+): \S+?:([^,\s]+)", text.partition("\n[")[0], re.MULTILINE)
        known |= set(volumes)
        known |= {f"{volume}@{name}" for volume in volumes for name in re.findall(r"^\[(.+)\]$", text, re.MULTILINE)}
    stored = set(lab.node("sh", "-c", "cd /lxc-disks; ls -d subvol-*; ls .snapshots").split())
    stored = {name for name in stored if name.startswith("subvol-")}
    return [f"{name} on the storage, in no configuration" for name in sorted(stored - known)] + [
        f"{name} in a configuration, not on the storage" for name in sorted(known - stored)
    ]
