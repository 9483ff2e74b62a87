"""What preflight finds before anything is made: each fault turns its own check red, and nothing is touched."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fixtures.proxmox.destination import open_channel
from fixtures.proxmox.run_lock import RunLock
from fixtures.record.model import from_json
from tests.lab.harness import Lab, declared, says, until

pytestmark = pytest.mark.lab

ROOM, MODEL, FIRST = (f"tests_920/test_{name}.py" for name in ("012_room", "014_gpus_and_model", "010_preflight"))
ROOT = "/lxc-disks/subvol-903-disk-0"
LIBRARY = f"{ROOT}/usr/lib/x86_64-linux-gnu/libnvidia-ml.so"
DAEMON = f"{ROOT}/etc/docker/daemon.json"


def on_node(do: str, undo: str) -> Callable[[Lab], AbstractContextManager[None]]:
    """A fault of the node, put and undone by a shell line."""

    @contextmanager
    def put(lab: Lab) -> Iterator[None]:
        lab.node("sh", "-c", do)
        try:
            yield
        finally:
            lab.node("sh", "-c", undo)

    return put


# waits for the program itself: until its exec, what was forked for it still has the shell's name
HOLDER = f"""[ -e /etc/pve/lxc/903.conf ] && pct start 903 && pct exec 903 -- sh -c 'sleep 9203 >/dev/null 2>&1 &'
{until("pgrep --full --exact 'sleep 9203'")} > /root/holder
printf 'gpu1.process = %s, python3, 9000\n' "$(cat /root/holder)" > /etc/simulated-gpu.conf"""
SECOND_ADDRESS = "pct start 903 && pct exec 903 -- ip address add 10.0.0.220/24 dev eth0"
# below the heading of the snapshot that 920 is cloned from
NO_DEV1 = "cp /etc/pve/lxc/903.conf /root/kept && sed -i '/^\\[/,$ { /^dev1: /d }' /etc/pve/lxc/903.conf"
MORE = "cp /etc/pve/lxc/903.conf /root/kept && echo 'dev9: /dev/nvidia2' >> /etc/pve/lxc/903.conf"  # in the snapshot

FAULTS: dict[str, tuple[Any, str, str, str]] = {
    "address": (
        on_node(SECOND_ADDRESS, "pct shutdown 903"),
        FIRST,
        "test_nobody_answers_at_the_address",
        "answers at 10.0.0.220, the address of 920",
    ),
    "section": (
        on_node(NO_DEV1, "cp /root/kept /etc/pve/lxc/903.conf"),
        FIRST,
        "test_gpus_are_passed_where_it_counts",
        "['dev1: /dev/nvidia1']",
    ),
    "not assigned": (
        on_node(MORE, "cp /root/kept /etc/pve/lxc/903.conf"),
        FIRST,
        "test_gpus_are_passed_where_it_counts",
        "passes more GPUs than are assigned: ['dev9: /dev/nvidia2']",
    ),
    "gpu-held": (
        on_node(HOLDER, "rm /etc/simulated-gpu.conf /root/holder && pct shutdown 903"),
        MODEL,
        "test_gpu_memory_is_free",
        "python3 (PID ",
    ),
    "gpu-gone": (
        on_node("mv /dev/nvidia1 /dev/gone", "mv /dev/gone /dev/nvidia1"),
        MODEL,
        "test_gpus_are_on_the_node",
        "GPUs (0, 1) are assigned, but the node's driver lists [0]",
    ),
    "library": (
        on_node(f"mv {LIBRARY}.580.76.05 {LIBRARY}.570.1", f"mv {LIBRARY}.570.1 {LIBRARY}.580.76.05"),
        MODEL,
        "test_driver_is_the_same_inside",
        "the parent has NVIDIA libraries of version ['570.1'], the node's driver is ['580.76.05']",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_of_the_node_is_found(lab: Lab, name: str) -> None:
    put, checks, check, said = FAULTS[name]
    with put(lab):
        before = lab.node("sh", "-c", "cat /etc/pve/lxc/*.conf; pct list")
        run = lab.build(checks=checks)
        assert lab.node("sh", "-c", "cat /etc/pve/lxc/*.conf; pct list") == before
    assert run.failed() == {check}
    says(run, said)
    if name == "gpu-held":
        says(run, "in container 903) holds 9000 MiB", "stop those processes")


@dataclass(frozen=True)
class Wrong:
    """A declaration or setting that can't work, and the check that must say so."""

    changes: dict[str, object]
    checks: str
    check: str
    said: str
    words: tuple[str, ...] = ()


WRONG = (
    Wrong({"vllm_tensor_parallel_size": 2}, MODEL, "test_model_can_be_split", "its 9 attention heads"),
    Wrong(
        {},
        MODEL,
        "test_model_fits_the_gpus",
        "163 MiB of GPU memory are available",
        ("-o", "server_args=--gpu-memory-utilization=0.01"),
    ),
)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.check)
def test_fault_of_the_declaration_is_found(lab: Lab, tmp_path: Path, wrong: Wrong) -> None:
    run = lab.build(*declared(tmp_path, **wrong.changes), *wrong.words, checks=wrong.checks)
    assert run.failed() == {wrong.check}
    says(run, wrong.said)


# a mirror that tells of an image of the size of vLLM's own
MANIFEST = "v2/vllm/vllm-openai/manifests/latest"
MIRROR = f"""mkdir -p /root/mirror/$(dirname {MANIFEST}) && cd /root/mirror && cp {DAEMON} /root/kept
echo '{{"layers": [{{"size": 8700000000}}], "config": {{"digest": "sha256:none"}}}}' > {MANIFEST}
setsid python3 -m http.server --bind 10.0.0.1 5920 >/dev/null 2>&1 </dev/null & echo $! > /root/mirror/pid
echo '{{"registry-mirrors": ["http://10.0.0.1:5920"]}}' > {DAEMON}
{until(f"curl --silent --fail http://10.0.0.1:5920/{MANIFEST} >/dev/null")}"""
NO_MIRROR = f"kill $(cat /root/mirror/pid); cp /root/kept {DAEMON}; rm -r /root/mirror"


def test_too_small_disk_is_refused_in_seconds(lab: Lab, tmp_path: Path) -> None:
    with on_node(MIRROR, NO_MIRROR)(lab):
        run = lab.build(*declared(tmp_path, storage_size_gb=32))
    assert run.failed() == {"test_declared_disk_is_large_enough"}
    record = from_json((run.folder / "record.json").read_text())
    (refused,) = [check for check in record.checks if check.verdict == "failed"]
    assert refused.started + refused.seconds - record.started < 10
    says(
        run, "storage_size_gb is 32, the image needs 36.5 GiB; ", "8.1 GiB packed, says http://10.0.0.1:5920, times 4.5"
    )
    assert "920.conf" not in lab.node("ls", "/etc/pve/lxc/")


def test_silent_registry_is_warned_about(lab: Lab) -> None:
    """Without a size the usual one is assumed, and the report says so."""
    with on_node(f"cp {DAEMON} /root/kept && echo '{{}}' > {DAEMON}", f"cp /root/kept {DAEMON}")(lab):
        run = lab.build(checks=ROOM)
    assert run.status == 0
    assert run.seconds < 10
    record = from_json((run.folder / "record.json").read_text())
    (unseen,) = {one.reason for one in record.checks if "the image's size" in one.reason}
    assert "unknown: the image's size (https://registry-1.docker.io: " in unseen
    assert "40 GiB are assumed" in unseen


def test_gpu_fault_of_this_run_is_found(lab: Lab) -> None:
    """A line that was there before is warned about; one that is new fails."""
    log, line = "/run/simulated-kernel-log", "[   {}] NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus."
    lab.node("sh", "-c", f"echo '{line.format('1.0')}' > {log}")
    checks = "tests_920/test_055_gpu_faults.py"
    try:
        run = lab.build(MODEL, checks=checks)
        assert run.failed() == set()
        says(run, "the kernel logged GPU faults before this run")
        lab.node("sh", "-c", f"{{ cat {log}; echo '{line.format('2.0')}'; }} > {log}.next")
        run = lab.build(MODEL, checks=checks)
        assert run.failed() == {"test_no_gpu_fault_was_logged"}
        says(run, "79, GPU has fallen off the bus")
    finally:
        lab.node("rm", "-f", log, f"{log}.next")


OTHER_LINEAGE = """pct clone 903 920 --snapname docker-gpu-snapshot --full 1 --hostname BaseTemplateVLLM \
  --description 'phoenix-920: container 920 cloned from 902@base-snapshot'"""


def test_container_of_another_lineage_is_left_alone(lab: Lab) -> None:
    with on_node(OTHER_LINEAGE, "pct destroy 920")(lab):
        before = lab.node("sh", "-c", "cat /etc/pve/lxc/*.conf; pct list")
        run = lab.build(checks=FIRST)
        assert lab.node("sh", "-c", "cat /etc/pve/lxc/*.conf; pct list") == before
    assert run.failed() == {"test_container_is_of_the_declared_parent"}
    says(run, "cloned from 902@base-snapshot", "it is left alone")


def test_second_run_is_refused(lab: Lab) -> None:
    channel = open_channel(f"lab:{lab.machine.name}")
    lock = RunLock(channel, 920)
    lock.acquire("the-first", shared=False, command="a build")
    assert lock.held
    before = sorted(lab.reports.iterdir())
    try:
        run = lab.build()
    finally:
        lock.release()
        channel.close()
    assert (run.status, sorted(lab.reports.iterdir())) == (4, before)
    says(run, "ERROR: container 920: another run works on it (a build)", "invocation the-first; nothing was touched")
    assert lab.build(checks=ROOM).status == 0


@pytest.mark.parametrize(
    ("size", "status", "said"),
    [
        ("4k", 4, "the record of this run can't be written: No space left on device"),
        ("64k", 3, "a report was not written: [Errno 28] No space left on device"),
    ],
)
def test_full_disk_is_one_line(lab: Lab, tmp_path: Path, size: str, status: int, said: str) -> None:
    """Full from the first moment, or full when the reports are written: said, and no traceback."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "full", tmp_path], check=True)
    try:
        (tmp_path / "filler").write_bytes(b"x" * 4096)
        run = lab.build("-o", f"report_folder={tmp_path}/reports", checks=ROOM)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert run.status == status
    says(run, said)
    assert "Traceback" not in run.output
    assert "INTERNALERROR" not in run.output
