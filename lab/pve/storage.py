"""Volumes of containers: btrfs subvolumes, snapshotted copy-on-write.

The rules are those of a ZFS pool, which is the stricter storage: no linked clones, and a way back to the
most recent snapshot only (pve-storage, PVE/Storage/ZFSPoolPlugin.pm).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import count

from lab.pve import guest
from lab.pve.errors import Refusal

NAME = "lxc-disks"
FOLDER = "/lxc-disks"
SNAPSHOTS = f"{FOLDER}/.snapshots"
DISK_SIZE = re.compile(r",size=(\w+)")  # in the line of a volume
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def root(vmid: int) -> str:
    """Name of a container's root volume, as the lab gives it."""
    return f"subvol-{vmid}-disk-0"


def next_volume(vmid: int, taken: Sequence[str] = ()) -> str:
    """The first name that no volume of a container has yet."""
    there = {*volumes(), *taken}
    return next(name for number in count() if (name := f"subvol-{vmid}-disk-{number}") not in there)


def volid(volume: str) -> str:
    """A volume with the name of the storage."""
    return f"{NAME}:{volume}"


def path(volume: str, snapshot: str = "") -> str:
    """Folder of a volume, or of a snapshot of it."""
    return f"{SNAPSHOTS}/{volume}@{snapshot}" if snapshot else f"{FOLDER}/{volume}"


def kind() -> str:
    """The storage's type, as the node's storage.cfg declares it."""
    with open("/etc/pve/storage.cfg") as file:
        return file.readline().partition(":")[0]


def volumes() -> list[str]:
    """Names of all volumes, with or without a container."""
    return sorted(name for name in os.listdir(FOLDER) if re.fullmatch(r"subvol-\d+-disk-\d+", name))


def check(name: str) -> None:
    """Refuse a storage that the node does not have."""
    if name != NAME:
        raise Refusal(f"storage '{name}' does not exist")


def create(volume: str) -> None:
    """Make an empty volume."""
    _btrfs("create", path(volume))


def copy(source: str, target: str, read_only: bool = False) -> None:
    """Copy a volume, sharing its blocks until one of the two writes."""
    if os.path.exists(target):  # btrfs would put the copy into it
        raise Refusal(f"cannot create '{target}': dataset already exists")
    os.makedirs(SNAPSHOTS, exist_ok=True)
    _btrfs("snapshot", *(["-r"] if read_only else []), source, target)


def snapshots(volume: str) -> list[str]:
    """Names of the snapshots of a volume, the most recent last."""
    listing = guest.run(["btrfs", "subvolume", "list", FOLDER], 60)
    found = re.findall(rf"^ID (\d+) .*/{re.escape(volume)}@(\S+)$", listing, re.MULTILINE)
    return [name for _, name in sorted((int(number), name) for number, name in found)]


def check_way_back(volume: str, snapshot: str) -> None:
    """Refuse to go back to any snapshot but the most recent."""
    there = snapshots(volume)
    if snapshot not in there:
        raise Refusal(f"can't rollback, snapshot '{snapshot}' does not exist on '{volid(volume)}'")
    if there[-1] != snapshot:
        raise Refusal(f"can't rollback, '{snapshot}' is not most recent snapshot on '{volid(volume)}'")


def delete_snapshot(volume: str, snapshot: str) -> None:
    """Delete a snapshot of a volume."""
    if snapshot not in snapshots(volume):
        raise Refusal("could not find any snapshots to destroy; check snapshot names.")
    delete(path(volume, snapshot))


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


def size_of(text: str) -> int:
    """A size such as 64G in bytes."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS else (text, "")
    return int(float(number) * UNITS[unit])


def disk_size(drive: str) -> int:
    """The size in bytes that the line of a volume names; 0 if it names none."""
    found = DISK_SIZE.search(drive)
    return size_of(found[1]) if found else 0


def size_text(size: int) -> str:
    """Bytes in the largest unit that needs no fraction."""
    unit = max((unit for unit in UNITS if size % UNITS[unit] == 0), key=lambda unit: UNITS[unit])
    return f"{size // UNITS[unit]}{unit}"
