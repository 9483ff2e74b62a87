"""A change that is cut off runs to its end on the node, and the next run reads what came of it: in the lab."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fixtures.proxmox import tasks
from fixtures.proxmox.destination import open_channel
from fixtures.proxmox.tasks import LOST, RUNNING
from lab import vllm
from lab.__main__ import up
from tests.lab.harness import TOP, Lab, until

pytestmark = pytest.mark.lab
CTID = 931
GO = "/run/go"
# holds `pct snapshot` in its middle, where ending it leaves a half-made snapshot
HELD = f"snapshot-half = sh until [ -e {GO} ]; do sleep 0.1; done"
SUITE = """
import hashlib, sys
from fixtures.proxmox import tasks
from fixtures.proxmox.destination import open_channel
from fixtures.proxmox.run_lock import RunLock
node, ctid, name, deadline = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
channel = open_channel(node)
lock = RunLock(channel, ctid)
lock.acquire("the-run", shared=False, command="a test")
found = channel.run(["cat", f"/etc/pve/lxc/{ctid}.conf"], deadline=60).stdout
words = ["pct", "snapshot", str(ctid), name]
tasks.run(channel, ctid, words, deadline=deadline, lock=lock, expected=hashlib.sha256(found).hexdigest())
"""


@pytest.fixture(scope="module", autouse=True)
def container(lab: Lab) -> Iterator[None]:
    """A container whose snapshots are taken."""
    lab.node("pct", "clone", "903", str(CTID), "--snapname", "docker-gpu-snapshot", "--full", "1")
    yield
    lab.destroy(CTID)


@contextmanager
def cut_off(lab: Lab, name: str, node: str = "", deadline: float = 600) -> Iterator[subprocess.Popen[str]]:
    """A suite that takes a snapshot, held in its middle; it goes on when the block ends."""
    words = [node or f"lab:{lab.machine.name}", str(CTID), name, str(deadline)]
    lab.node("rm", "-f", GO)
    with lab.fault(HELD):
        suite = subprocess.Popen([sys.executable, "-c", SUITE, *words], cwd=TOP, text=True, stderr=subprocess.PIPE)
        try:
            lab.node("sh", "-c", until(f"grep -q 'snapstate: prepare' /etc/pve/lxc/{CTID}.conf", 60))
            yield suite
        finally:
            lab.node("touch", GO)
            suite.kill()
            suite.communicate(timeout=60)


def settled(lab: Lab) -> list[tuple[str, str]]:
    """What a later run reads: of each task its last word, and its state."""
    channel = open_channel(f"lab:{lab.machine.name}")
    try:
        found = [(task.argv[-1], task.state) for task in tasks.settle(channel, CTID, 60)]
        assert tasks.unheard(channel, CTID) == []
    finally:
        channel.close()
    return found


def whole(lab: Lab, name: str) -> bool:
    conf = lab.node("cat", f"/etc/pve/lxc/{CTID}.conf")
    return f"[{name}]" in conf and "snapstate" not in conf and "lock:" not in conf


def test_killed_suite(lab: Lab) -> None:
    with cut_off(lab, "killed") as suite:
        suite.kill()
        suite.wait(60)
        channel = open_channel(f"lab:{lab.machine.name}")
        (still,) = tasks.unheard(channel, CTID)
        channel.close()
        assert (still.state, still.invocation) == (RUNNING, "the-run")
    assert settled(lab) == [("killed", "0")]
    assert whole(lab, "killed")


def test_deadline(lab: Lab) -> None:
    with cut_off(lab, "late", deadline=1) as suite:
        _, said = suite.communicate(timeout=120)
        assert "It was not ended: it runs on as task /var/lib/phoenix-920/tasks/931/" in said
    assert settled(lab) == [("late", "0")]
    assert whole(lab, "late")


def test_cut_connection(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with lab.ssh(tmp_path, monkeypatch) as name, cut_off(lab, "cut", name) as suite:
        lab.node("sh", "-c", "for each in $(pgrep -P $(cat /run/dropbear.pid)); do kill -9 $each; done")
        _, said = suite.communicate(timeout=120)
        assert "the result is unknown" in said
    assert settled(lab) == [("cut", "0")]
    assert whole(lab, "cut")


def test_power_cut(lab: Lab) -> None:
    """The task dies with the node: what came of it is not noted, and is not guessed."""
    with cut_off(lab, "power") as suite:
        suite.kill()
        suite.wait(60)
        lab.machine.power_off()
        up(lab.machine)
        lab.machine.serve_stand_in(vllm.made() / "registry")
    assert settled(lab) == [("power", LOST)]
    lab.node("pct", "unlock", str(CTID))
    lab.node("pct", "delsnapshot", str(CTID), "power", "--force")
