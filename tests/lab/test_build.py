"""The build for real, in the lab: what stops it, what it leaves, and that nothing seals by mistake.

The tests run in order, as a template lives: built, proved anew, and then spoiled in every way that a run can be.
Each leaves the lab so that a normal run succeeds. All serve with vLLM's stand-in, as the build in test_record.py
serves with vLLM itself; the faults themselves are in tests/faults.
"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.faults.catalogue import BY_NAME
from tests.faults.fault import stand_in
from tests.lab.harness import SNAPSHOT, STAND_IN, Lab, assert_built, declared, says

pytestmark = pytest.mark.lab


def test_build_over_ssh(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From nothing to accepted, with a clone that is tried."""
    with lab.ssh(tmp_path, monkeypatch) as node:
        assert_built(lab, lab.build(*STAND_IN, "--node", node))


def test_part_of_the_suite_never_seals(lab: Lab) -> None:
    """Other parts: tests/test_trust.py."""
    before = lab.snapshots()
    run = lab.build(*STAND_IN, "--rebuild", checks="tests_920/test_060_seal.py")
    assert run.status == 1
    says(run, "not sealed, because of earlier checks: ", " not run (")
    assert lab.snapshots() == before


def test_failed_rebuild_keeps_the_old_snapshot(lab: Lab) -> None:
    before = lab.snapshots()
    fault = BY_NAME["wrong-word"]
    run = lab.build(*STAND_IN, "--rebuild", "-o", "server_memory_mb=5000", *fault.words)
    assert (run.status, run.failed()) == (1, fault.checks())
    assert lab.snapshots() == before
    assert "memory: 4096" in lab.node("pct", "config", "920")  # raised while the server ran, and put back


def test_foreign_snapshot_is_left_alone(lab: Lab) -> None:
    """A snapshot that somebody else made: exit 0 and a plain word; a rebuild does not replace it."""
    lab.node("pct", "delsnapshot", "920", SNAPSHOT)
    lab.node("pct", "snapshot", "920", SNAPSHOT, "--description", "made by hand")
    before = lab.snapshots()
    run = lab.build()
    assert run.status == 0
    says(run, "outcome: existing, not proved by this suite")
    refused = {"--rebuild": "test_snapshot_may_be_replaced", "--rebuild-clone": "test_container_may_be_destroyed"}
    for words, check in refused.items():
        run = lab.build(words)
        assert run.failed() == {check}
        assert lab.snapshots() == before
    lab.node("pct", "delsnapshot", "920", SNAPSHOT)


def test_container_of_another_is_left_alone(lab: Lab) -> None:
    """A 920 that is not what is declared is neither changed, started nor destroyed."""
    description = json.loads(
        lab.node("pvesh", "get", f"/nodes/{lab.machine.name}/lxc/920/config", "--output-format", "json")
    )["description"].strip()
    lab.node("pct", "shutdown", "920")
    lab.node("pct", "set", "920", "--description", "somebody's", "--memory", "3000")
    conf = lab.node("cat", "/etc/pve/lxc/920.conf")
    run = lab.build()
    assert run.failed() == {"test_container_is_cloned"}
    says(run, "memory 3000 → 4096")
    run = lab.build("--rebuild-clone")
    assert run.failed() == {"test_container_may_be_destroyed"}
    says(run, "container 920 was not changed: it was not made by this suite")
    assert lab.node("cat", "/etc/pve/lxc/920.conf") == conf
    assert "stopped" in lab.node("pct", "status", "920")
    lab.node("pct", "set", "920", "--description", description, "--memory", "4096")


def test_what_waits_for_the_next_start_is_set_before_it(lab: Lab, tmp_path: Path) -> None:
    """Of a container that runs, some settings are changed when it starts again, and no snapshot has them until then."""
    stage = "tests_920/test_020_clone.py"
    for features in ("nesting=1", "nesting=1,keyctl=1"):
        run = lab.build(*declared(tmp_path, features=features), checks=stage)
        assert run.failed() == set()
        assert f"features: {features}\n" in lab.node("pct", "config", "920", "--current")
        assert "running" in lab.node("pct", "status", "920")


def test_interrupt_while_the_model_loads(lab: Lab) -> None:
    """Other signals: test_nodes.py."""
    process = lab.start(*STAND_IN, *stand_in("silent"))  # it loads for ever
    for _ in range(600):
        if process.poll() is not None or lab.serves():
            break
        time.sleep(0.2)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    run = lab.finish(process, 60)
    assert (run.status, run.outcome) == (2, "aborted")
    says(run, f"920@{SNAPSHOT} was not sealed")
    assert run.failed() == {"test_server_gets_ready[gpu0]"}
    says(run, "interrupted while it ran")
    assert "test_everything_passed" not in run.checks()
    assert SNAPSHOT not in lab.snapshots()
    assert lab.servers() == ""


def test_interrupt_while_docker_is_tried(lab: Lab) -> None:
    """The Docker container that is tried is removed, and its image."""
    process = lab.start(*STAND_IN)
    while process.poll() is None and not lab.servers("--filter", "label=phoenix-920=probe"):
        pass
    process.send_signal(signal.SIGINT)
    run = lab.finish(process, 60)
    assert (run.status, run.outcome) == (2, "aborted")
    assert lab.servers() == ""
    assert lab.inside("docker", "image", "ls", "--quiet", "--filter", "label=phoenix-920") == ""


def test_sealed_but_not_accepted_is_finished_by_the_next_run(lab: Lab) -> None:
    """A run that dies after the snapshot leaves 920 off; the next one starts it and repeats what is missing."""
    with lab.fault("start = die"):
        run = lab.build(*STAND_IN)
    assert (run.status, run.outcome) == (1, "failed")
    says(run, "was sealed but not accepted")
    assert "stopped" in lab.node("pct", "status", "920")
    assert_unaccepted(lab)
    verified = lab.build(*STAND_IN, "--verify")
    assert verified.failed() == {"test_snapshot_is_the_recorded_one"}
    says(verified, "was sealed, but never accepted")
    again = lab.build(*STAND_IN, "--no-clone")
    assert (again.status, again.outcome) == (0, "built")
    assert " accepted " in lab.snapshots()[SNAPSHOT]["description"]
    assert lab.build(*STAND_IN).outcome == "existing"


def assert_unaccepted(lab: Lab) -> None:
    description = lab.snapshots()[SNAPSHOT]["description"]
    assert description.startswith("phoenix-920: sealed")
    assert "accepted" not in description
