"""Volumes of containers: btrfs subvolumes, snapshotted copy-on-write."""

from __future__ import annotations

import os
import re

from lab.pve import guest

NAME = "lxc-disks"
FOLDER = "/lxc-disks"
SNAPSHOTS = f"{FOLDER}/.snapshots"


def volume(vmid: int) -> str:
    """Name of a container's root volume."""
    return f"subvol-{vmid}-disk-0"


def path(vmid: int, snapshot: str = "") -> str:
    """Folder of a container's root volume, or of a snapshot of it."""
    return f"{SNAPSHOTS}/{volume(vmid)}@{snapshot}" if snapshot else f"{FOLDER}/{volume(vmid)}"


def create(vmid: int) -> None:
    """Make an empty volume."""
    _btrfs("create", path(vmid))


def copy(source: str, target: str, read_only: bool = False) -> None:
    """Copy a volume, sharing its blocks until one of the two writes."""
    os.makedirs(SNAPSHOTS, exist_ok=True)
    _btrfs("snapshot", *(["-r"] if read_only else []), source, target)


def delete(folder: str) -> None:
    """Delete a volume with the volumes in it: systemd makes some, as in /var/lib/machines."""
    if not os.path.isdir(folder):
        return
    listing = guest.run(["btrfs", "subvolume", "list", "-o", folder], 60)
    name = os.path.basename(folder)
    inner = re.findall(rf"{re.escape(name)}/(.+)$", listing, re.MULTILINE)
    for each in sorted(inner, key=len, reverse=True):
        _btrfs("delete", f"{folder}/{each}")
    _btrfs("delete", folder)


def _btrfs(*words: str) -> None:
    guest.run(["btrfs", "--quiet", "subvolume", *words], 120)


def sizes() -> tuple[int, int]:
    """Total and free bytes of the storage."""
    facts = os.statvfs(FOLDER)
    return facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize


def gib(size: str) -> float:
    """A size such as 64G in GiB."""
    units = {"K": 2**-20, "M": 2**-10, "G": 1.0, "T": 1024.0}
    return float(size[:-1]) * units[size[-1]] if size[-1] in units else float(size) / 2**30
