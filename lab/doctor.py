"""What this machine can do, and what is missing for the rest, with the command that adds it.

    python3 -m lab.doctor

Needs Python alone, as it is asked before anything is installed. Ends with 0 if something can be done here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
SUDO = "" if os.geteuid() == 0 else "sudo "
LAB_DISK_GIB, LAB_MEMORY_GIB = 20, 6  # image and model 5, the node's disk 12 and some room; vLLM's CPU build


@dataclass(frozen=True)
class Use:
    """Something that this machine may be used for.

    Attributes:
        what: It, in words.
        seen: What was found.
        missing: What is missing, each with what adds it; none if it can be done.
    """

    what: str
    seen: str
    missing: tuple[tuple[str, str], ...] = ()


def _said(*argv: str) -> str:
    """What a command prints; empty if it fails or is not there."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def tests() -> Use:
    """The fast tests, and the suite against a node elsewhere."""
    version = ".".join(map(str, sys.version_info[:3]))
    old = () if sys.version_info >= (3, 11) else (("Python 3.11 or newer", f"{SUDO}apt-get install python3.11"),)
    gone = " ".join(each for each in ("git", "make") if not shutil.which(each))
    tools = ((gone, f"{SUDO}apt-get install {gone}"),) if gone else ()
    return Use(
        "run the fast tests, and the suite on a node elsewhere (--node ssh://root@HOST)",
        f"Python {version}",
        old + tools,
    )


def laboratory() -> Use:
    """The lab."""
    missing = []
    if os.geteuid() != 0:
        missing.append(("root, for namespaces, mounts and containers", "sudo make accept"))
    packages = len(_said(str(TOP / "lab/tools"), "missing").split())
    systems = Path("/proc/filesystems").read_text(encoding="utf-8").split()
    for each in ("btrfs", "overlay"):
        if each not in systems and not _said("modinfo", "--field", "name", each):
            missing.append((f"the file system {each} in the kernel", f"modprobe {each}"))
    place = Path(os.environ.get("PHOENIX_LAB_STATE", "/var/lib"))
    free = shutil.disk_usage(place if place.exists() else "/").free // 2**30
    if free < LAB_DISK_GIB:
        missing.append(
            (f"{LAB_DISK_GIB} GiB of disk; {free} are free", "PHOENIX_LAB_STATE and PHOENIX_CACHE on a larger disk")
        )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    if memory < LAB_MEMORY_GIB:
        missing.append((f"{LAB_MEMORY_GIB} GiB of memory; there are {memory:.0f}", "a larger machine"))
    seen = f"{free} GiB free, {memory:.0f} GiB of memory" + f"; it installs {packages} packages" * bool(packages)
    return Use("build 920 in the lab (make accept)", seen, tuple(missing))


def node() -> Use:
    """A real build here."""
    version = _said("pveversion")
    if not version:
        return Use(
            "build 920 on this machine (pytest tests_920)", "", (("Proxmox VE", "name a node: --node ssh://root@HOST"),)
        )
    root = () if os.geteuid() == 0 else (("root", "sudo"),)
    parent = () if _said("pct", "config", "903") else (("container 903", "docs/parent.md shows how to make it"),)
    return Use("build 920 on this machine (pytest tests_920)", version, root + parent)


def gpus() -> Use:
    """GPUs that a container here could be given."""
    listed = _said("nvidia-smi", "-L").splitlines()
    devices = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    if listed and devices:
        return Use("give GPUs to containers", "; ".join(line.partition(" (UUID")[0] for line in listed))
    what = "NVIDIA's driver" if not listed else "device nodes /dev/nvidia*"
    return Use("give GPUs to containers", "", ((what, "the driver on the node; in the lab the GPU is simulated"),))


def main() -> int:
    """Print what can be done and what is missing.

    Returns:
        0 if something can be done here, else 1.
    """
    uses = [tests(), laboratory(), node(), gpus()]
    for use in uses:
        print(f"{'no ' if use.missing else 'yes'}  {use.what}{f': {use.seen}' if use.seen else ''}")
        for what, command in use.missing:
            print(f"       missing: {what}\n       add it:  {command}")
    return 0 if any(not use.missing for use in uses[:3]) else 1


if __name__ == "__main__":
    sys.exit(main())
