"""Snapshots of containers, in the phases of the real ones (pve-guest-common, PVE/AbstractConfig.pm).

First the section is written with `snapstate: prepare` and the lock, then the volume is snapshotted,
then both marks go. A crash in between leaves what it leaves on a real node: a half-made snapshot.
"""

from __future__ import annotations

import time

from lab.pve import conf, faults, guest, storage
from lab.pve.errors import Refusal


def take(vmid: int, name: str, description: str) -> None:
    """Take a snapshot."""
    if name in ("current", "vzdump"):
        raise Refusal(f"unable to use snapshot name '{name}' (reserved name)", 2)
    with conf.locked(vmid):
        settings = conf.load(vmid)
        settings.check_lock()
        if name in settings.snapshots:
            raise Refusal(f"snapshot name '{name}' already used")
        if any(key.startswith("mp") and value.startswith("/") for key, value in settings.head.values.items()):
            raise Refusal("snapshot feature is not available")
        section = settings.head.copy()
        section.description = f"{description}\n" if description else ""
        section.values |= {"snaptime": str(int(time.time())), "snapstate": "prepare"}
        if parent := settings.head.values.get("parent"):
            section.values["parent"] = parent
        settings.snapshots[name] = section
        settings.head.values["lock"] = "snapshot"
        settings.save()
    faults.strike("snapshot-half")
    storage.copy(storage.path(vmid), storage.path(vmid, name), read_only=True)
    with conf.locked(vmid):
        settings = conf.load(vmid)
        settings.head.values.pop("lock", None)
        settings.snapshots[name].values.pop("snapstate", None)
        settings.head.values["parent"] = name
        settings.save()


def delete(vmid: int, name: str, force: bool) -> None:
    """Delete a snapshot, and let its children follow its parent."""
    with conf.locked(vmid):
        settings = conf.load(vmid)
        if name not in settings.snapshots:
            raise Refusal(f"snapshot '{name}' does not exist")
        if settings.lock and not force:
            settings.check_lock()
        settings.head.values["lock"] = "snapshot-delete"
        settings.snapshots[name].values["snapstate"] = "delete"
        settings.save()
        storage.delete(storage.path(vmid, name))
        parent = settings.snapshots.pop(name).values.get("parent")
        for section in (settings.head, *settings.snapshots.values()):
            if section.values.get("parent") == name:
                section.values.pop("parent")
                if parent:
                    section.values["parent"] = parent
        settings.head.values.pop("lock", None)
        settings.save()


def roll_back(vmid: int, name: str, start: bool) -> None:
    """Bring a container back to a snapshot; a running one is stopped hard first."""
    with conf.locked(vmid):
        settings = conf.load(vmid)
        section = settings.section(name)
        settings.check_lock()
        if section.values.get("snapstate"):
            raise Refusal(f"unable to rollback to incomplete snapshot (snapstate = {section.values['snapstate']})", 2)
        if newer := [other for other, each in settings.snapshots.items() if _time(each) > _time(section)]:
            volid = f"{storage.NAME}:{storage.volume(vmid)}"
            raise Refusal(f"can't rollback, '{name}' is not most recent snapshot on '{volid}'\n{', '.join(newer)}")
        if guest.running(vmid):
            guest.stop(vmid, 10, kill=True)
        storage.delete(storage.path(vmid))
        storage.copy(storage.path(vmid, name), storage.path(vmid))
        description, settings.head = settings.head.description, section.copy()
        settings.head.description = description
        settings.head.values["parent"] = name
        settings.save()
    if start:
        guest.start(conf.load(vmid))


def _time(section: conf.Section) -> int:
    return int(section.values.get("snaptime", 0))


def tree(settings: conf.Conf) -> list[str]:
    """The lines of `pct listsnapshot` (pve-guest-common, PVE/GuestHelpers.pm)."""
    children: dict[str, list[str]] = {}
    for name, section in sorted(settings.snapshots.items(), key=lambda pair: _time(pair[1])):
        children.setdefault(section.values.get("parent", ""), []).append(name)
    children.setdefault(settings.head.values.get("parent", ""), []).append("current")
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
