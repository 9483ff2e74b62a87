"""New containers: from an archive of a root file system (`pct create`), or as a copy (`pct clone`)."""

from __future__ import annotations

import contextlib
import os
import re

from lab.pve import change, conf, faults, guest, storage, words
from lab.pve.errors import Refusal
from lab.pve.options import Given, true
from lab.pve.schema import ROOTFS
from lab.pve.snapshots import is_bind


def create(given: Given) -> None:
    """Make a container from an archive of a root file system."""
    words.check_here(given)
    vmid, archive = int(given.pop("vmid")), given.pop("ostemplate")
    options: Given = {name: given.pop(name) for name in ("bwlimit", "pool", "start", "storage") if name in given}
    check_unused(vmid)
    check_pool(options)
    if given.pop("unprivileged", "1") != "0":  # the real one's default
        raise Refusal("the lab's containers are privileged: --unprivileged 0; the real node has both kinds", 2)
    size = _root_size(given.pop("rootfs", ""), options.get("storage", "local"))
    settings = conf.Conf(vmid)
    change.apply(settings, {"arch": "amd64", **given}, [])
    settings.head.values["lock"] = "create"
    try:
        _check_archive(archive)
        settings.save()
        storage.create(storage.root(vmid))
        root = storage.path(storage.root(vmid))
        guest.run(["tar", "-xpf", archive, "--numeric-owner", "--xattrs", "-C", root], 600)
    except Refusal as refusal:
        storage.delete(storage.path(storage.root(vmid)))
        remove(vmid)
        raise Refusal(f"unable to create CT {vmid} - {refusal}") from None
    defaults = {"hostname": f"CT{vmid}", "memory": "512", "ostype": _system(vmid), "swap": "512"}
    settings.head.values = {**defaults, **settings.head.values}
    settings.head.values["rootfs"] = f"{storage.volid(storage.root(vmid))},size={storage.size_text(size)}"
    settings.head.values.pop("lock")
    settings.save()
    if true(options, "start"):
        guest.start(settings)


def check_unused(vmid: int) -> None:
    """Refuse a number that a container has."""
    if os.path.exists(conf.file_of(vmid)):
        raise Refusal(f"CT {vmid} already exists on node '{os.uname().nodename}'")


def check_pool(options: Given) -> None:
    """Refuse a pool; the lab's node has none."""
    if "pool" in options:
        raise Refusal(f"pool '{options['pool']}' does not exist", 2)


def _root_size(rootfs: str, default: str) -> int:
    """The size in bytes of the root disk that is asked for: `STORAGE:GIBIBYTES`, or only the number."""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", rootfs or "4"):
        rootfs = f"{default}:{rootfs or 4}"
    options = ROOTFS.parse(rootfs)
    name, _, size = options.pop("volume").partition(":")
    storage.check(name)
    if options or not re.fullmatch(r"[0-9]+(\.[0-9]+)?", size):
        raise Refusal(f"the lab can't make '{rootfs}', only STORAGE:SIZE; the real node can", 2)
    return storage.size_of(f"{size}G")


def _check_archive(archive: str) -> None:
    if not os.path.isfile(archive):
        raise Refusal(f"can't find file '{archive}'")


def _system(vmid: int) -> str:
    """Which operating system is in a container."""
    with contextlib.suppress(OSError), open(f"{storage.path(storage.root(vmid))}/etc/os-release") as file:
        found = re.search(r'^ID="?([a-z]+)', file.read(), re.MULTILINE)
        if found and found.group(1) in words.SYSTEMS.split():
            return found.group(1)
    return "unmanaged"


def remove(vmid: int) -> None:
    """Remove a container with its volumes, its snapshots and its configuration."""
    if not os.path.exists(conf.file_of(vmid)):
        return
    settings = conf.load(vmid)
    sections = (settings.head, *settings.snapshots.values())  # what they do not name stays on the storage
    for volume in {name for each in sections for name in each.volumes().values()}:
        for name in storage.snapshots(volume):
            storage.delete(storage.path(volume, name))
        storage.delete(storage.path(volume))
    os.unlink(conf.file_of(vmid))
    conf.list_machines()


def clone(given: Given) -> None:
    """Copy a container, in full; its source is locked meanwhile."""
    source, target, name = int(given["vmid"]), int(given["newid"]), given.get("snapname", "")
    check_pool(given)
    if given.get("target", "localhost") not in ("localhost", os.uname().nodename):
        raise Refusal(f"no such cluster node '{given['target']}'", 2)
    if "storage" in given:
        storage.check(given["storage"])
    with conf.held(source, "disk"):
        check_unused(target)
        settings = conf.load(source)
        section = settings.section(name) if name else settings.head
        _check_copy(settings, section, given)
        _copy(source, target, section, given)


def _check_copy(settings: conf.Conf, section: conf.Section, given: Given) -> None:
    full = given.get("full", "0" if settings.is_template else "1") == "1"
    if "storage" in given and not full:
        raise Refusal("parameter 'storage' not allowed for linked clones", 2)
    for key, value in sorted(section.drives().items()):
        if key != "rootfs" and is_bind(value):
            raise Refusal(f"unable to clone mountpoint '{key}' (type bind)", 2)
        if not full:
            raise Refusal(f"Linked clone feature for '{storage.volid(section.volumes()[key])}' is not available", 2)
        if guest.running(settings.vmid) and "snapname" not in given:
            raise Refusal("Full clone of a running container is only possible from a snapshot", 2)


def _copy(source: int, target: int, section: conf.Section, given: Given) -> None:
    copy = conf.Conf(target)
    copy.head = section.copy()
    copy.head.description = given.get("description") or section.description
    values = copy.head.values
    for key in ("parent", "template"):
        values.pop(key, None)
    values |= {"hostname": given["hostname"]} if given.get("hostname") else {}
    theirs, ours, drives = section.volumes(), dict[str, str](), dict[str, str]()
    for key, volume in theirs.items():
        ours[key] = storage.next_volume(target, [*ours.values()])
        drives[key] = values.pop(key).replace(volume, ours[key])
    for key in [key for key in values if key.startswith("net")]:
        values[key] = change.print_net({**guest.net_options(values[key]), "hwaddr": change.new_mac()})
    values["lock"] = "create"
    with conf.locked(target):
        copy.save()
    print(f"creating a clone of container {source} with ID {target}")
    made: list[str] = []
    try:
        for key, volume in theirs.items():
            print(f"create full clone of mountpoint {key} ({storage.volid(volume)})", flush=True)
            if key == "rootfs":
                faults.strike("clone-half")
            storage.copy(storage.path(volume, given.get("snapname", "")), storage.path(ours[key]))
            made.append(ours[key])
        faults.strike("clone-copied")
        # emptied, not "uninitialized": that would be a first boot, at which systemd enables all units again
        # (pve-container, PVE/LXC/Setup/Base.pm, clear_machine_id)
        with open(f"{storage.path(ours['rootfs'])}/etc/machine-id", "w"):
            pass
    except (Refusal, OSError) as problem:
        for volume in made:
            storage.delete(storage.path(volume))
        remove(target)
        raise Refusal(f"clone failed: {problem}") from None
    with conf.locked(target):
        values.pop("lock")
        values |= drives  # not before: a clone whose worker died has no root disk, and its volume no container
        copy.save()
