"""The machine's real GPUs for the lab's containers: device nodes, the driver's programs, a container runtime.

What Proxmox VE containers are given by hand is given here: the nodes are passed through, and the driver's
user-space part is copied in, of the version that the kernel runs. It may be a mount of its own, which the loader's
cache does not know. NVIDIA's container toolkit is copied if this machine has it, with or without the parts that only
its legacy mode needs. If not, the lab's own runtime passes the real devices on, and its version says so.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any

from lab.command import execute
from lab.errors import LabError
from lab.gpu import install as simulated

LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1", "libnvidia-ptxjitcompiler.so.1", "libnvidia-nvvm.so.4")
NEEDED = LIBRARIES[:3]  # the fourth came with driver 545
MOUNT = Path("/usr/local/nvidia")  # where GKE's and other machines mount the driver
FOLDERS = (MOUNT / "lib64", Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib64"))
TOOLKIT = ("nvidia-container-runtime", "nvidia-ctk")
TOOLKIT_PARTS = (  # the last two are of legacy mode
    "nvidia-cdi-hook",
    "nvidia-container-runtime.cdi",
    "nvidia-container-runtime.legacy",
    "nvidia-container-runtime-hook",
    "nvidia-container-cli",
)
TOOLKIT_LIBRARIES = ("libnvidia-container.so.1", "libnvidia-container-go.so.1")
CONFIG = Path("/etc/nvidia-container-runtime/config.toml")
MEMORY_MB = 32768  # of 920, if the machine has twice that
SERVER_ARGS = "--max-model-len 2048 --gpu-memory-utilization 0.3"


def device_nodes(dev: Path = Path("/dev")) -> list[str]:
    """Names under /dev of the nodes of this machine's GPUs.

    Raises:
        LabError: There is no GPU with a driver.
    """
    names = sorted(path.name for path in dev.glob("nvidia*") if stat.S_ISCHR(path.stat().st_mode))
    cards = [name for name in names if re.fullmatch(r"nvidia\d+", name)]
    shared = [name for name in ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools") if name in names]
    if not cards or shared[:2] != ["nvidiactl", "nvidia-uvm"]:
        raise LabError(f"this machine has no usable GPU: {dev} has {', '.join(names) or 'no NVIDIA device'}")
    return cards + shared


def declaration(declared: dict[str, Any]) -> dict[str, Any]:
    """The lab's declaration for this machine: its GPUs, its cores, and the memory that vLLM on a GPU needs.

    Args:
        declared: The lab's own.
    """
    cards = [name.removeprefix("nvidia") for name in device_nodes() if name[6:].isdigit()]
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    for container in declared["lxc_configs"].values():
        container["gpu_assignment"] = ",".join(cards)
        container["cores"] = os.cpu_count() or 1
        if "vllm_tensor_parallel_size" in container:
            container["vllm_tensor_parallel_size"] = min(container["vllm_tensor_parallel_size"], len(cards))
    declared["lxc_configs"]["920"]["memory_mb"] = min(MEMORY_MB, whole // 2)
    return declared


def options(node: str, declared: Path) -> str:
    """pytest's options on this machine, one a line, for its `@file`."""
    settings = {
        "node": f"lab:{node}",
        "lxc_configs": declared,
        "test_model": "/models/test-model",
        "server_args": SERVER_ARGS,
    }
    return "".join(f"--override-ini={name}={value}\n" for name, value in settings.items())


def libraries(names: tuple[str, ...]) -> dict[str, Path]:
    """Where libraries of this machine are: by the loader, or in the driver's own folder; others are left out."""
    rows = re.findall(r"^\s*(\S+) \(libc6,x86-64[^)]*\) => (\S+)$", execute(["ldconfig", "-p"], seconds=20), re.M)
    cached = {name: Path(path) for name, path in reversed(rows)}
    folders = [*map(Path, filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))), *FOLDERS]
    found = {name: [path for path in (cached.get(name), *(each / name for each in folders)) if path] for name in names}
    return {name: path for name, paths in found.items() if (path := next(filter(Path.exists, paths), None))}


def program(name: str) -> Path | None:
    """Where a program of this machine is: on PATH, or in the driver's own folder."""
    found = shutil.which(name) or shutil.which(name, path=str(MOUNT / "bin"))
    return Path(found) if found else None


def install(rootfs: Path) -> None:
    """Install the driver's programs, and a container runtime, into a container's root file system.

    Args:
        rootfs: Where that is mounted. The container must have python3 and runc.

    Raises:
        LabError: The driver is not whole, or a step failed.
    """
    found, smi = libraries(LIBRARIES), program("nvidia-smi")
    if missing := [name for name in NEEDED if name not in found] + ["nvidia-smi"] * (not smi):
        where = f"ldconfig -p, LD_LIBRARY_PATH and {MOUNT}"
        raise LabError(f"the driver of this machine is not whole: {', '.join(missing)} not found by {where}")
    folder = rootfs / "usr/lib/x86_64-linux-gnu"
    shutil.copy(str(smi), rootfs / "usr/bin/nvidia-smi")
    _copy_libraries(found, folder)
    if all(program(name) for name in TOOLKIT):
        for name in (*TOOLKIT, *TOOLKIT_PARTS):
            if path := program(name):
                shutil.copy(path, rootfs / "usr/bin" / name)
        _copy_libraries(libraries(TOOLKIT_LIBRARIES), folder)
        if CONFIG.exists():
            (rootfs / CONFIG.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CONFIG, rootfs / CONFIG.relative_to("/"))
    else:
        for name in simulated.SCRIPTS:
            text = (simulated.HERE / name).read_text()
            (rootfs / "usr/bin" / name).write_text(text.replace("SIMULATED", "of the phoenix-920 lab"))
            (rootfs / "usr/bin" / name).chmod(0o755)
    execute(["ldconfig", "-r", str(rootfs)], seconds=60)


def _copy_libraries(found: dict[str, Path], folder: Path) -> None:
    for name, path in found.items():
        real = path.resolve()
        shutil.copy(real, folder / real.name)
        if real.name != name:
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(real.name)


def text(declared: dict[str, Any]) -> str:
    """A declaration as its file has it."""
    return json.dumps(declared, indent=2) + "\n"
