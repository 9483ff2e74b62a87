"""Snapshots of containers, in the phases of the real ones (pve-guest-common, PVE/AbstractConfig.pm).

First the section is written with `snapstate: prepare` and the lock, then the volumes are snapshotted,
then both marks go. A crash in between leaves what it leaves on a real node: a half-made snapshot. A
worker that gets SIGTERM inside the storage's part takes both marks back, and leaves the storage's snapshot.
"""

from __future__ import annotations

import time

from lab.pve import conf, faults, guest, storage
from lab.pve.errors import Refusal
from lab.pve.schema import MOUNT


def take(vmid: int, name: str, description: str) -> None:
    """Take a snapshot."""
    _prepare(vmid, name, description)
    faults.strike("snapshot-half")
    try:
        _store(vmid, name)
        faults.strike("snapshot-stored")
    except Refusal:
        print("snapshot create failed: starting cleanup")
        _forget(vmid, name)
        raise
    with conf.locked(vmid):
        settings = conf.load(vmid)
        settings.head.values.pop("lock", None)
        settings.snapshots[name].values.pop("snapstate", None)
        settings.head.values["parent"] = name
        settings.save()
    faults.strike("snapshot-done")


def _store(vmid: int, name: str) -> None:
    """Snapshot each volume; if one can't be, none of them keeps it."""
    made: list[str] = []
    try:
        for volume in conf.load(vmid).head.volumes().values():
            storage.copy(storage.path(volume), storage.path(volume, name), read_only=True)
            made.append(volume)
    except Refusal:
        for volume in made:
            storage.delete_snapshot(volume, name)
        raise


def _prepare(vmid: int, name: str, description: str) -> None:
    with conf.locked(vmid):
        settings = conf.load(vmid)
        if settings.is_template:
            raise Refusal("you can't take a snapshot if it's a template")
        settings.check_lock()
        if name in settings.snapshots:
            raise Refusal(f"snapshot name '{name}' already used")
        if any(key != "rootfs" and is_bind(value) for key, value in settings.head.drives().items()):
            raise Refusal("snapshot feature is not available")
        section = settings.head.copy()
        section.description = f"{description}\n" if description else ""
        section.values |= {"snaptime": str(int(time.time())), "snapstate": "prepare"}
        settings.snapshots[name] = section
        settings.head.values["lock"] = "snapshot"
        settings.save()


def is_bind(mount: str) -> bool:
    """Whether a mount point is a folder or a device of the node, which no storage can snapshot."""
    return MOUNT.parse(mount)["volume"].startswith("/")


def delete(vmid: int, name: str, force: bool) -> None:
    """Delete a snapshot, and let its children follow its parent.

    With force its section goes even if the storage can't delete its snapshot. Without, a failure leaves
    the lock and `snapstate: delete`.
    """
    volumes = conf.load(vmid).section(name).volumes().values()
    with conf.locked(vmid):
        settings = conf.load(vmid)
        settings.check_lock()
        if settings.is_template:
            raise Refusal("you can't delete a snapshot if vm is a template")
        settings.head.values["lock"] = "snapshot-delete"
        settings.snapshots[name].values["snapstate"] = "delete"
        settings.save()
    faults.strike("delsnapshot-half")
    for volume in volumes:
        try:
            storage.delete_snapshot(volume, name)
        except Refusal as refusal:
            if not force:
                raise
            print(refusal)
    faults.strike("delsnapshot-freed")
    _forget(vmid, name)


def _forget(vmid: int, name: str) -> None:
    """Remove a snapshot's section and the lock."""
    with conf.locked(vmid):
        settings = conf.load(vmid)
        parent = settings.snapshots.pop(name).values.get("parent")
        for section in (settings.head, *settings.snapshots.values()):
            if section.values.get("parent") == name:
                section.values.pop("parent")
                if parent:
                    section.values["parent"] = parent
        settings.head.values.pop("lock", None)
        settings.save()


def roll_back(vmid: int, name: str) -> None:
    """Bring a container back to a snapshot; a running one is stopped hard first."""
    with conf.locked(vmid):
        settings = conf.load(vmid)
        if settings.is_template:
            raise Refusal("you can't rollback if vm is a template")
        section = settings.section(name)
        volumes = section.volumes().values()
        for volume in volumes:
            storage.check_way_back(volume, name)
        if state := section.values.get("snapstate"):
            raise Refusal(f"unable to rollback to incomplete snapshot (snapstate = {state})")
        settings.check_lock()
        if guest.running(vmid):
            guest.stop(vmid, 10, kill=True)
        settings.head.values["lock"] = "rollback"
        settings.save()
    for volume in volumes:
        storage.delete(storage.path(volume))
        storage.copy(storage.path(volume, name), storage.path(volume))
    with conf.locked(vmid):
        settings = conf.load(vmid)
        description, settings.head = settings.head.description, settings.snapshots[name].copy()
        settings.head.description = description
        settings.head.values["parent"] = name
        settings.pending = conf.Section()
        settings.save()


def _time(section: conf.Section) -> int:
    return int(section.values.get("snaptime", 0))


def tree(settings: conf.Conf) -> list[str]:
    """The lines of `pct listsnapshot` (pve-guest-common, PVE/GuestHelpers.pm)."""
    parents = {name: section.values.get("parent", "") for name, section in by_time(settings)}
    parents["current"] = settings.head.values.get("parent", "")
    children: dict[str, list[str]] = {}
    for name, parent in parents.items():  # one whose parent is gone stands at the root
        children.setdefault(parent if parent in settings.snapshots else "", []).append(name)
    lines: list[str] = []

    def show(name: str, depth: int) -> None:
        prefix = " " * depth + "`->"
        if name == "current":
            when, text = "", "You are here!"
        else:
            section = settings.snapshots[name]
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(_time(section)))
            text = (section.description.splitlines() or ["no-description"])[0]
        lines.append(f"{prefix} {name:<{max(30 - len(prefix), 1)}} {when:<23} {text}")
        for child in children.get(name, []):
            show(child, depth + 1)

    for name in children.get("", []):
        show(name, 0)
    return lines


def by_time(settings: conf.Conf) -> list[tuple[str, conf.Section]]:
    """The snapshots, oldest first."""
    return sorted(settings.snapshots.items(), key=lambda pair: _time(pair[1]))
