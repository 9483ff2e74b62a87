"""`pct`, the command that manages containers."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable

from lab.pve import conf, faults, guest, snapshots, storage, words
from lab.pve.conf import escape
from lab.pve.errors import ParameterError, Refusal

Given = dict[str, str]
EXEC_PATH = "/sbin:/bin:/usr/sbin:/usr/bin"  # pve-common, PVE/CLIHandler.pm


def main(argv: list[str]) -> int:
    """Do one command; refusals go to standard error with the real words."""
    verb = argv[0] if argv else ""
    try:
        faults.strike(verb)
        if verb == "exec":
            return execute(argv[1:])
        if verb not in words.VERBS:
            usage = "\n".join(f"       {words.usage(each)}" for each in words.VERBS)
            problem = f"unknown command 'pct {verb}'" if verb else "no command specified"
            raise ParameterError(f"ERROR: {problem}\nUSAGE: pct <COMMAND> [ARGS] [OPTIONS]\n{usage}")
        ACTIONS[verb](words.parse(verb, argv[1:]))
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return faults.status(verb, refusal.status)
    return 0


def number(given: Given) -> int:
    """The container that a command is about."""
    return int(given["vmid"])


def status(given: Given) -> None:
    """Print whether the container runs."""
    settings = conf.load(number(given))
    state = "running" if guest.running(settings.vmid) else "stopped"
    if not words.true(given, "verbose"):
        print(f"status: {state}")
        return
    facts = {"vmid": str(settings.vmid), "status": state, "name": settings.head.values.get("hostname", "")}
    if settings.lock:
        facts["lock"] = settings.lock
    print("\n".join(f"{key}: {value}" for key, value in sorted(facts.items())))


def config(given: Given) -> None:
    """Print the configuration, or that of a snapshot."""
    settings = conf.load(number(given))
    if "snapshot" in given and words.true(given, "current"):
        raise ParameterError("400 Parameter verification failed.\nsnapshot: cannot use with 'current'\n")
    section = settings.section(given["snapshot"]) if "snapshot" in given else settings.head
    values = dict(section.values)
    if section.description:
        values["description"] = escape(section.description).replace("\n", "%0A")
    lines = [f"{key}: {value}" for key, value in sorted(values.items())]
    lines += [f"{key}: {value}" for key, value in section.raw]
    print("\n".join(lines))


def list_all(_: Given) -> None:
    """Print the containers of the node."""
    print(f"{'VMID':<10} {'Status':<10} {'Lock':<12} {'Name':<20}")
    for vmid in conf.all_ids():
        settings = conf.load(vmid)
        state = "running" if guest.running(vmid) else "stopped"
        print(f"{vmid:<10} {state:<10} {settings.lock:<12} {settings.head.values.get('hostname', ''):<20}")


def list_snapshots(given: Given) -> None:
    """Print the tree of snapshots."""
    print("\n".join(snapshots.tree(conf.load(number(given)))))


def snapshot(given: Given) -> None:
    """Take a snapshot."""
    snapshots.take(number(given), given["snapname"], given.get("description", ""))


def delete_snapshot(given: Given) -> None:
    """Delete a snapshot."""
    snapshots.delete(number(given), given["snapname"], words.true(given, "force"))


def roll_back(given: Given) -> None:
    """Go back to a snapshot."""
    snapshots.roll_back(number(given), given["snapname"], words.true(given, "start"))


def create(given: Given) -> None:
    """Make a container from an archive of a root file system."""
    vmid = number(given)
    _check_unused(vmid, "unable to create CT {vmid} - CT {vmid} already exists on node '{node}'")
    pool, _, size = given.pop("rootfs", f"{storage.NAME}:4").partition(":")
    if pool != storage.NAME:
        raise Refusal(f"storage '{pool}' does not exist", 2)
    settings = conf.Conf(vmid)
    archive = given.pop("ostemplate")
    for key in ("vmid", "storage", "unprivileged"):
        given.pop(key, None)
    _apply(settings, {"arch": "amd64", "swap": "512", **given})
    settings.head.values["rootfs"] = f"{pool}:{storage.volume(vmid)},size={size}G"
    settings.head.values["lock"] = "create"
    settings.save()
    storage.create(vmid)
    guest.run(["tar", "-xpf", archive, "--numeric-owner", "--xattrs", "-C", storage.path(vmid)], 600)
    settings.head.values.pop("lock")
    settings.save()


def _check_unused(vmid: int, refusal: str) -> None:
    if os.path.exists(conf.file_of(vmid)):
        raise Refusal(refusal.format(vmid=vmid, node=os.uname().nodename), 2)


def clone(given: Given) -> None:
    """Copy a container, in full."""
    source, target = number(given), int(given["newid"])
    settings = conf.load(source)
    settings.check_lock()
    name = given.get("snapname", "")
    if name and name not in settings.snapshots:
        raise Refusal(f"snapshot '{name}' does not exist", 2)
    if "full" in given and not words.true(given, "full"):
        volid = f"{storage.NAME}:{storage.volume(source)}"
        if "storage" in given:
            raise ParameterError("400 Parameter verification failed.\nstorage: not allowed for linked clones\n")
        raise Refusal(f"Linked clone feature for '{volid}' is not available", 2)
    if not name and guest.running(source):
        raise Refusal("Full clone of a running container is only possible from a snapshot", 2)
    _check_unused(target, "CT {vmid} already exists on node '{node}'")
    if given.get("storage", storage.NAME) != storage.NAME:
        raise Refusal(f"storage '{given['storage']}' does not exist", 2)
    section = settings.section(name) if name else settings.head
    if binds := [key for key, value in section.values.items() if key.startswith("mp") and value.startswith("/")]:
        raise Refusal(f"unable to clone mountpoint '{binds[0]}' (type bind)", 2)
    _copy(source, target, section, given)


def _copy(source: int, target: int, section: conf.Section, given: Given) -> None:
    with conf.locked(target):
        copy = conf.Conf(target)
        copy.head = section.copy()
        copy.head.description = given.get("description", section.description)
        values = copy.head.values
        values |= {key: given[key] for key in ("hostname",) if key in given}
        values["rootfs"] = values["rootfs"].replace(storage.volume(source), storage.volume(target))
        for key in [key for key in values if key.startswith("net")]:
            values[key] = _with_mac(values[key], _new_mac())
        values["lock"] = "create"
        copy.save()
    print(f"creating a clone of container {source} with ID {target}")
    print(f"create full clone of mountpoint rootfs ({storage.NAME}:{storage.volume(source)})", flush=True)
    storage.copy(storage.path(source, given.get("snapname", "")), storage.path(target))
    # emptied, not "uninitialized": that would be a first boot, at which systemd enables all units anew
    # (pve-container, PVE/LXC/Setup/Base.pm, clear_machine_id)
    with open(f"{storage.path(target)}/etc/machine-id", "w"):
        pass
    with conf.locked(target):
        copy.head.values.pop("lock")
        copy.save()


def _new_mac() -> str:
    return "BC:24:11:" + ":".join(f"{random.randrange(256):02X}" for _ in range(3))


def _with_mac(net: str, mac: str) -> str:
    return _print_net({**guest.net_options(net), "hwaddr": mac})


def _print_net(options: Given) -> str:
    """A network line as the real one prints it: name first, the rest by the alphabet."""
    order = sorted(options, key=lambda key: (key != "name", key))
    return ",".join(f"{key}={options[key]}" for key in order)


def set_options(given: Given) -> None:
    """Change settings; memory reaches a running container at once."""
    vmid = number(given)
    with conf.locked(vmid):
        settings = conf.load(vmid)
        settings.check_lock()
        if "rootfs" in given:
            raise Refusal("unable to change rootfs of an existing container here; use resize", 2)
        for key in given.pop("delete", "").split(","):
            settings.head.values.pop(key, None)
            if key == "description":
                settings.head.description = ""
        _apply(settings, {key: value for key, value in given.items() if key not in ("vmid", "digest", "revert")})
        settings.save()
        if "memory" in given and guest.running(vmid):
            guest.set_memory(settings)


def _apply(settings: conf.Conf, given: Given) -> None:
    for key, value in given.items():
        if key == "description":
            settings.head.description = value
        elif key.startswith("net"):
            net = guest.net_options(value)
            if "name" not in net:
                raise ParameterError(
                    "400 Parameter verification failed.\nnet0: invalid format - name: property is missing\n"
                )
            settings.head.values[key] = _print_net({"hwaddr": _new_mac(), "type": "veth", **net})
        elif value:
            settings.head.values[key] = value
        else:
            settings.head.values.pop(key, None)


def resize(given: Given) -> None:
    """Make a disk larger."""
    vmid = number(given)
    with conf.locked(vmid):
        settings = conf.load(vmid)
        settings.check_lock()
        volume, _, size = settings.head.values["rootfs"].partition(",size=")
        wanted = given["size"]
        new = storage.gib(wanted.lstrip("+")) + (storage.gib(size) if wanted.startswith("+") else 0)
        if new < storage.gib(size):
            raise Refusal("unable to shrink disk size", 2)
        if new == storage.gib(size):
            raise Refusal("disk is already at specified size", 2)
        settings.head.values["rootfs"] = f"{volume},size={new:g}G"
        settings.save()


def start(given: Given) -> None:
    """Start a container."""
    vmid = number(given)
    settings = conf.load(vmid)
    if guest.running(vmid):
        raise Refusal(f"CT {vmid} already running")
    if not words.true(given, "skiplock"):
        settings.check_lock()
    with conf.locked(vmid):
        guest.start(settings)


def shut_down(given: Given) -> None:
    """Shut a container down in an orderly way."""
    vmid = number(given)
    conf.load(vmid).check_lock()
    if not guest.running(vmid):
        raise Refusal(f"CT {vmid} not running")
    with conf.locked(vmid):
        try:
            guest.stop(vmid, int(given.get("timeout", "60")), kill=False)
        except Refusal:
            if not words.true(given, "forceStop"):
                raise
            guest.stop(vmid, 10, kill=True)


def stop(given: Given) -> None:
    """Stop a container at once."""
    vmid = number(given)
    settings = conf.load(vmid)
    if not words.true(given, "skiplock"):
        settings.check_lock()
    if not guest.running(vmid):
        raise Refusal(f"CT {vmid} not running")
    guest.stop(vmid, 10, kill=True)


def destroy(given: Given) -> None:
    """Remove a container with its volumes and snapshots."""
    vmid = number(given)
    settings = conf.load(vmid)
    settings.check_lock()
    if guest.running(vmid):
        if not words.true(given, "force"):
            raise Refusal(f"unable to destroy CT {vmid} - container is running")
        guest.stop(vmid, 10, kill=True)
    with conf.locked(vmid):
        for name in settings.snapshots:
            storage.delete(storage.path(vmid, name))
        storage.delete(storage.path(vmid))
        os.unlink(conf.file_of(vmid))


def unlock(given: Given) -> None:
    """Remove a lock that a task has left."""
    with conf.locked(number(given)):
        settings = conf.load(number(given))
        if not settings.lock:
            raise Refusal("no lock found trying to remove any lock", 2)
        settings.head.values.pop("lock")
        settings.save()


def execute(argv: list[str]) -> int:
    """Become a command in a container; its exit status is the command's."""
    keep = True
    rest = list(argv)
    vmid = ""
    while rest and not (vmid and not rest[0].startswith("-")):
        word = rest.pop(0)
        if word == "--":
            break
        if word.startswith("--keep-env"):
            value = word.partition("=")[2] or (rest.pop(0) if rest and rest[0] in "01" else "1")
            keep = value == "1"
        elif word.startswith("-"):
            raise ParameterError(f"Unknown option: {word.lstrip('-')}\n400 unable to parse option\n{EXEC_USAGE}")
        else:
            vmid = word
    if not vmid or not rest:
        raise ParameterError(f"400 not enough arguments\n{EXEC_USAGE}")
    if not vmid.isdigit():
        message = f"400 Parameter verification failed.\nvmid: type check ('integer') failed - got '{vmid}'\n"
        raise ParameterError(f"{message}\n{EXEC_USAGE}")
    conf.load(int(vmid))
    if not guest.running(int(vmid)):
        raise Refusal(f"container '{vmid}' not running!")
    os.environ["PATH"] = EXEC_PATH
    environment = "--keep-env" if keep else "--clear-env"
    os.execvp("lxc-attach", ["lxc-attach", "-P", guest.LXC, "-n", vmid, environment, "--", *rest])


EXEC_USAGE = "pct exec <vmid> [<extra-args>] [OPTIONS]"
ACTIONS: dict[str, Callable[[Given], None]] = {
    "clone": clone,
    "config": config,
    "create": create,
    "delsnapshot": delete_snapshot,
    "destroy": destroy,
    "list": list_all,
    "listsnapshot": list_snapshots,
    "resize": resize,
    "rollback": roll_back,
    "set": set_options,
    "shutdown": shut_down,
    "snapshot": snapshot,
    "start": start,
    "status": status,
    "stop": stop,
    "unlock": unlock,
}
