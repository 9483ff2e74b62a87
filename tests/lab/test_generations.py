"""A rebuild always leaves an accepted snapshot, and the way back is a clone of its generation: for real, in the lab."""

from __future__ import annotations

import pytest

from tests.faults.fault import node
from tests.lab.harness import SNAPSHOT, STAND_IN, Lab, says

pytestmark = pytest.mark.lab

WORDS = (*STAND_IN, "--no-clone")
# ends `pct snapshot 920 vllm-base-snapshot`, and not the one of the generation before it
NAMED = f'snapshot = sh tr "\\0" " " </proc/$PPID/cmdline | grep -q "snapshot 920 {SNAPSHOT} " && kill -9 $PPID'
EMPTIED = node("cd /etc/pve/lxc; cp 920.conf /root; : >920.conf", "mv /root/920.conf /etc/pve/lxc/920.conf")


def accepted(lab: Lab) -> list[str]:
    return sorted(name for name, row in lab.snapshots().items() if " accepted " in str(row["description"]))


def test_build_leaves_both_snapshots(lab: Lab) -> None:
    assert lab.build(*WORDS).outcome == "built"
    assert accepted(lab) == [SNAPSHOT, f"{SNAPSHOT}-g1"]


def test_file_that_says_nothing_is_no_build(lab: Lab) -> None:
    """It was taken for "to build", and a plain run deleted the accepted snapshot."""
    before = lab.snapshots()
    with EMPTIED(lab):
        run = lab.build(*WORDS)
    assert (run.status, run.outcome) == (1, "failed")
    assert "test_situation_is_known" in run.failed()
    says(run, "the state of 920 could not be read, so nothing is changed")
    assert lab.snapshots() == before


def test_rebuild_that_cannot_take_the_declared_name_says_what_to_clone(lab: Lab) -> None:
    with lab.fault(NAMED):
        run = lab.build(*WORDS, "--rebuild")
    assert (run.status, run.outcome) == (1, "failed")
    assert accepted(lab) == [f"{SNAPSHOT}-g1"]
    says(
        run, f"the accepted generation is 920@{SNAPSHOT}-g1, to clone from: pct clone 920 $(pvesh get /cluster/nextid) "
    )
    lab.node("pct", "clone", "920", "931", "--snapname", f"{SNAPSHOT}-g1", "--full", "1")
    lab.destroy(931)


def test_next_plain_run_proves_it_and_seals_the_next_generation(lab: Lab) -> None:
    assert lab.build(*WORDS).outcome == "built"
    assert accepted(lab) == [SNAPSHOT, f"{SNAPSHOT}-g3"]
    assert sorted(lab.snapshots()) == [SNAPSHOT, f"{SNAPSHOT}-g3"], "the earlier generations are gone"


def test_snapshot_that_its_owner_takes_meanwhile_is_not_destroyed(lab: Lab) -> None:
    """With `--rebuild-clone`, after preflight has read the list."""
    with lab.fault("stop = sh pct snapshot 920 mine"):
        run = lab.build(*WORDS, "--rebuild-clone")
    assert "test_container_is_cloned" in run.failed()
    assert "mine" in lab.snapshots()
    lab.node("pct", "delsnapshot", "920", "mine")
    lab.destroy()
