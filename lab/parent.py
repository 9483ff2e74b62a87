"""Container 903 of the lab, BaseTemplateDockerGPU: made, started once, and snapshotted.

Runs on the lab node (`python3 -m lab.parent ROOTFS MODEL DECLARED GPUS`), where it uses `pct` as a person would.
"""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

from lab.command import execute
from lab.errors import LabError
from lab.gpu import host
from lab.gpu import install as simulated

CTID = "903"
ROOT = Path("/lxc-disks/subvol-903-disk-0")
REGISTRY = "http://10.0.0.1:5000"
DAEMON = {
    # On btrfs Docker would choose the driver of that name, whose subvolumes a snapshot does not hold.
    "storage-driver": "overlay2",
    "registry-mirrors": [REGISTRY],
    "runtimes": {"nvidia": {"path": "/usr/bin/nvidia-container-runtime", "runtimeArgs": []}},
}
# With systemd's driver and cgroup v2 a container loses its GPU at the next `systemctl daemon-reload`, as was seen on an
# H100 too: NVIDIA/nvidia-container-toolkit#48.
CGROUPFS = {"exec-opts": ["native.cgroupdriver=cgroupfs"]}


def make(rootfs: Path, model: Path, declared: dict[str, Any], gpus: str) -> None:
    """Make 903 with its snapshot, unless both are there.

    Args:
        rootfs: Its root file system, a tar archive.
        model: The folder of the test model.
        declared: What is declared of 903.
        gpus: "simulated" or "host".

    Raises:
        LabError: A step failed.
    """
    if _has_snapshot(declared["template_snapshot_name"]):
        return
    if f"/{CTID}.conf" in " ".join(str(path) for path in Path("/etc/pve/lxc/").glob("*.conf")):
        execute(["pct", "unlock", CTID], seconds=60, check=False)
        execute(["pct", "stop", CTID], seconds=60, check=False)
        execute(["pct", "destroy", CTID], seconds=60)
    real = gpus == "host"
    _create(declared, rootfs, host.device_nodes() if real else [name for name, _, _ in simulated.device_nodes()])
    _furnish(model, DAEMON | (CGROUPFS if real else {}))
    (host if real else simulated).install(ROOT)
    _start_and_stop()
    description = f"Docker and {gpus} GPUs, made by the lab"
    snapshot = ["pct", "snapshot", CTID, declared["template_snapshot_name"], "--description", description]
    execute(snapshot, seconds=60)


def _has_snapshot(name: str) -> bool:
    conf = Path(f"/etc/pve/lxc/{CTID}.conf")
    text = conf.read_text() if conf.exists() else ""
    return f"[{name}]" in text and "snapstate:" not in text


def _create(declared: dict[str, Any], rootfs: Path, nodes: list[str]) -> None:
    net = declared["network_config"]
    options = {
        "hostname": declared["name"],
        "cores": declared["cores"],
        "memory": declared["memory_mb"],
        "swap": 512,
        "ostype": "ubuntu" if "ubuntu" in rootfs.parent.name else "debian",
        "unprivileged": 0,
        "features": declared["features"],
        "rootfs": f"{declared['storage_pool']}:{declared['storage_size_gb']}",
        "net0": f"name={net['name']},bridge={net['bridge']},hwaddr={declared['mac_address']},"
        f"ip={net['ip']},gw={net['gw']},type=veth",
        **{f"dev{number}": f"/dev/{name}" for number, name in enumerate(nodes)},
    }
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    execute(["pct", "create", CTID, str(rootfs), *words], seconds=300)


def _furnish(model: Path, settings: dict[str, Any]) -> None:
    """Add what 903's set-up would bring: Docker's settings and the model."""
    daemon = ROOT / "etc/docker/daemon.json"
    daemon.parent.mkdir(parents=True, exist_ok=True)
    daemon.write_text(json.dumps(settings, indent=2) + "\n")
    target = ROOT / "models/test-model"
    if model.is_dir():
        shutil.copytree(model, target, dirs_exist_ok=True)
    else:
        target.mkdir(parents=True)
        with tarfile.open(model) as archive:
            archive.extractall(target, filter="data")


def _start_and_stop() -> None:
    """Boot 903 once, so that the snapshot is of a machine that has worked."""
    execute(["pct", "start", CTID], seconds=60)
    deadline = time.monotonic() + 90
    docker = ["pct", "exec", CTID, "--", "docker", "info", "--format", "{{.Driver}} {{json .Runtimes}}"]
    while "nvidia" not in (said := execute(docker, seconds=60, check=False)):
        if time.monotonic() > deadline:
            journal = execute(
                ["pct", "exec", CTID, "--", "journalctl", "-u", "docker", "-n", "20"], seconds=60, check=False
            )
            raise LabError(f"Docker in 903 did not come up: {said} {journal[-1500:]}")
        time.sleep(0.3)
    execute(["pct", "shutdown", CTID, "--timeout", "60"], seconds=90)


if __name__ == "__main__":
    try:
        make(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4])
    except LabError as error:
        sys.exit(f"lab: {error}")
