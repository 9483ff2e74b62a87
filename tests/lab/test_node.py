"""The lab's node comes and goes without a trace on the machine that it runs on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import rootfs
from lab.errors import LabError
from lab.machine import CHECKOUT as TOP
from lab.machine import Machine

pytestmark = pytest.mark.lab
NAME = "pve-trace"


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine(NAME)
    machine.erase()
    yield machine
    machine.erase()


def words(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout


def traces() -> list[str]:
    """What a node could leave on the host: mounts, loop devices, cgroups, processes and files of its name."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    loops = words("losetup", "--list", "--noheadings", "--output", "BACK-FILE").splitlines()
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob("**/phoenix-lab/*")]
    own = [str(path) for path in Path("/var/lib").glob("phoenix-lab/*")]
    return [line for line in (*mounts, *loops, *groups, *own, *processes()) if NAME in line]


def processes() -> list[str]:
    lines = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has just ended
        if int(folder.name) != os.getpid():
            lines.append(line)
    return lines


def network() -> str:
    """The host's interfaces, addresses, routes and firewall rules, which a node must never touch."""
    shown = [words("ip", "-o", "link"), words("ip", "-o", "address"), words("ip", "route"), words("iptables-save")]
    return "\n".join(line for text in shown for line in text.splitlines() if not line.startswith(("#", ":")))


def test_node_leaves_no_trace(machine: Machine) -> None:
    before = network()
    machine.power_on()
    assert "pve-manager/" in machine.run("pveversion")
    assert "vmbr0" in machine.run("ip", "-o", "link")
    assert traces() != []
    assert network() == before
    machine.erase()
    assert traces() == []
    assert network() == before


def test_running_container_leaves_no_trace(machine: Machine) -> None:
    """The disk is let go only when the last process has gone, which takes longer with a whole system in it."""
    machine.power_on()
    network = "name=eth0,bridge=vmbr0,ip=10.0.0.9/24,gw=10.0.0.1"
    create = ["pct", "create", "909", str(rootfs.parent()), "--rootfs", "lxc-disks:4", "--unprivileged", "0"]
    machine.run(*create, "--hostname", "busy", "--features", "nesting=1", "--net0", network, seconds=120)
    machine.run("pct", "start", "909")
    machine.run("sh", "-c", "until pct exec 909 -- docker info >/dev/null 2>&1; do sleep 0.2; done", seconds=60)
    machine.erase()
    assert traces() == []


def test_power_on_and_off_again_do_no_harm(machine: Machine) -> None:
    machine.power_on()
    pid = machine.pid()
    machine.power_on()
    assert machine.pid() == pid
    machine.power_off()
    machine.power_off()
    assert machine.pid() is None


def test_disk_outlives_a_power_cut(machine: Machine) -> None:
    machine.power_on()
    machine.run("sh", "-c", "echo kept > /etc/pve/note && sync")
    pid = machine.pid()
    assert pid
    os.kill(pid, signal.SIGKILL)
    for _ in range(100):
        if machine.pid() is None:
            break
        time.sleep(0.05)
    machine.power_on()
    assert machine.run("cat", "/etc/pve/note") == "kept\n"


def test_two_nodes_live_side_by_side(machine: Machine) -> None:
    other = Machine(f"{NAME}-2")
    try:
        machine.power_on()
        other.power_on()
        assert {machine.run("hostname"), other.run("hostname")} == {f"{NAME}\n", f"{NAME}-2\n"}
        other.erase()
        assert machine.run("hostname") == f"{NAME}\n"
    finally:
        other.erase()


def test_lab_of_a_checkout_that_was_made_again_is_restarted(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commands were removed with the first checkout, though the folder of that name is there."""
    checkout = tmp_path / "checkout"
    monkeypatch.setattr("lab.machine.CHECKOUT", checkout)
    for _ in range(2):
        shutil.copytree(TOP / "lab", checkout / "lab")
        machine.power_on()
        assert "node-init" in machine.run("ls", "/usr/share/pve-lab/lab")
        shutil.rmtree(checkout)


def test_lab_of_another_checkout_is_not_restarted(machine: Machine, tmp_path: Path) -> None:
    """Somebody may build in it; one whose checkout is gone is nobody's."""
    machine.power_on()
    first = machine.pid()
    (machine.state / "checkout").write_text(str(tmp_path))
    with pytest.raises(LabError, match=f"runs the commands of {tmp_path}; .*: make lab-up TAKE=1"):
        machine.power_on()
    assert machine.pid() == first
    machine.power_on(take_over=True)
    assert machine.pid() != first
    (machine.state / "checkout").write_text(str(tmp_path / "gone"))
    second = machine.pid()
    machine.power_on()
    assert machine.pid() not in (None, second)
