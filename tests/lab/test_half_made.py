"""What a task that died leaves between configuration and storage, and how the next run ends from there: in the lab.

One run after the other on the same node, from a clone that died on an empty node to a torn deletion.
"""

from __future__ import annotations

import re

import pytest

from tests.lab.harness import SNAPSHOT, STAND_IN, Lab, says

pytestmark = pytest.mark.lab

WORDS = (*STAND_IN, "--no-clone")
LABEL = f"phoenix-920: throw-away container 990 cloned from 920@{SNAPSHOT}"
CLONE = ("pct", "clone", "903", "920", "--snapname", "docker-gpu-snapshot", "--full", "1")


def at(moment: str, what: str, snapshot: str) -> str:
    """A fault that strikes in the middle of one snapshot's verb, by the beginning of its name."""
    return f'{moment} = sh tr "\\0" " " </proc/$PPID/cmdline | grep -q "snapshot 920 {snapshot}" && {what}; sleep 1'


def died(lab: Lab, fault: str, *argv: str) -> None:
    """Let a task of the node die."""
    with lab.fault(fault):
        lab.node("sh", "-c", '"$@" >/dev/null 2>&1 || true', "sh", *argv)


def volumes(lab: Lab, ctid: int) -> list[str]:
    rows = lab.node("pvesm", "list", "lxc-disks", "--vmid", str(ctid)).splitlines()[1:]
    return [row.split()[0] for row in rows]


def locks(lab: Lab) -> str:
    return lab.node("sh", "-c", "grep -H ^lock: /etc/pve/lxc/*.conf || true")


def test_half_made_clone_of_somebody_else_is_only_named(lab: Lab) -> None:
    died(lab, "clone-copied = die", *CLONE, "--description", "by hand")
    before = lab.node("sh", "-c", "cat /etc/pve/lxc/*.conf"), volumes(lab, 920)
    run = lab.build(*WORDS)
    assert run.status == 1
    says(run, "container 920 is incomplete", "pct unlock 920; pct destroy 920")
    assert before == (lab.node("sh", "-c", "cat /etc/pve/lxc/*.conf"), volumes(lab, 920))
    lab.node("sh", "-c", f"pct unlock 920; pct destroy 920; pct unlock 903; pvesm free {before[1][0]}")
    assert locks(lab) == ""


def test_half_made_clone_of_ours_goes_with_its_volume_and_the_lock_on_its_parent(lab: Lab) -> None:
    """The run that makes it is told so; the next one builds."""
    with lab.fault("clone-copied = die"):
        run = lab.build(*WORDS)
    assert (run.status, run.failed()) == (1, {"test_container_is_cloned"})
    assert volumes(lab, 920) == ["lxc-disks:subvol-920-disk-0"]
    assert locks(lab).split() == ["/etc/pve/lxc/903.conf:lock:", "disk", "/etc/pve/lxc/920.conf:lock:", "create"]
    run = lab.build(*WORDS)
    assert (run.status, run.outcome) == (0, "built")
    says(run, "removed what an interrupted run left: container 920, whose clone was interrupted")
    assert (volumes(lab, 920), locks(lab)) == (["lxc-disks:subvol-920-disk-0"], "")


@pytest.mark.parametrize("moment", ["clone-half", "clone-copied"])
def test_half_made_throw_away_clone_goes_and_the_template_is_free_again(lab: Lab, moment: str) -> None:
    clone = ("pct", "clone", "920", "990", "--snapname", SNAPSHOT, "--full", "1")
    died(lab, f"{moment} = die", *clone, "--description", LABEL)
    verified = lab.build(*STAND_IN, "--verify")
    assert (verified.status, verified.failed()) == (1, {"test_nothing_holds_a_lock"})
    assert lab.containers() == [903, 920, 990], "nothing was changed"
    run = lab.build(*WORDS)
    assert (run.status, run.outcome) == (0, "existing")
    assert (lab.containers(), volumes(lab, 990), locks(lab)) == ([903, 920], [], "")


def test_half_made_generation_goes_and_the_accepted_snapshot_stays(lab: Lab) -> None:
    """Cut before that, in its middle: docs/kills.md."""
    before = {name: row["snaptime"] for name, row in lab.snapshots().items()}
    with lab.fault("snapshot-stored = die"):
        assert lab.build(*WORDS, "--rebuild").status == 1
    assert "snapstate: prepare" in lab.node("cat", "/etc/pve/lxc/920.conf")
    run = lab.build(*WORDS)
    assert (run.status, run.outcome) == (0, "existing")
    assert {name: row["snaptime"] for name, row in lab.snapshots().items()} == before
    assert (locks(lab), orphans(lab)) == ("", [])


def test_half_deleted_snapshot_goes_and_its_seal_is_finished(lab: Lab) -> None:
    """Cut before its volume is freed: docs/kills.md."""
    with lab.fault(at("delsnapshot-freed", "kill -9 $PPID", f"{SNAPSHOT} ")):
        assert lab.build(*WORDS, "--rebuild").status == 1
    assert "snapstate: delete" in lab.node("cat", "/etc/pve/lxc/920.conf")
    run = lab.build(*WORDS)
    assert (run.status, run.outcome) == (0, "built")
    assert (locks(lab), orphans(lab)) == ("", [])
    assert " accepted " in lab.snapshots()[SNAPSHOT]["description"]


@pytest.mark.parametrize(
    ("taken", "failed"), [(f"{SNAPSHOT}-g", {"test_container_carries_the_record"}), (f"{SNAPSHOT} ", set())]
)
def test_snapshot_on_the_storage_only_is_named_before_anything_is_built(lab: Lab, taken: str, failed: set[str]) -> None:
    """`pct snapshot` was told to end between the storage's snapshot and its property; the command named ends it.

    A rebuild that got no further than that has put its own record into the running container, which is named then.
    """
    with lab.fault(at("snapshot-stored", "kill $PPID", taken)):
        assert lab.build(*WORDS, "--rebuild").status == 1
    (orphan,) = orphans(lab)
    assert (locks(lab), orphan.startswith(taken.strip())) == ("", True)
    run = lab.build(*WORDS)
    assert (run.status, run.failed()) == (1, {"test_storage_agrees_with_the_configuration"})
    fix = re.search(r"run: (btrfs subvolume delete --subvolid \d+ [\w/-]+)", " ".join(run.output.split()))
    assert fix, run.output
    lab.node("sh", "-c", fix[1])
    assert lab.build(*WORDS).failed() == failed
    assert (locks(lab), orphans(lab)) == ("", [])


def orphans(lab: Lab) -> list[str]:
    """Snapshots of 920 that the storage has and the configuration does not."""
    names = lab.node("sh", "-c", "ls /lxc-disks/.snapshots | sed -n 's/^subvol-920-disk-0@//p'").split()
    return sorted(set(names) - set(lab.snapshots()))
