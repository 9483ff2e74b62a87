"""`pct`, the command that manages containers."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from lab.pve import change, conf, copies, cost, faults, guest, snapshots, storage, words
from lab.pve.conf import escape
from lab.pve.errors import ParameterError, Refusal
from lab.pve.options import Given, true
from lab.pve.schema import MOUNT, split_list

EXEC_PATH = "/sbin:/bin:/usr/sbin:/usr/bin"  # pve-common, PVE/CLIHandler.pm


def main(argv: list[str]) -> int:
    """Do one command; refusals go to standard error with the real words."""
    verb = argv[0] if argv else ""
    signal.signal(signal.SIGTERM, _interrupted)
    cost.take("pct", argv)
    try:
        verb = words.verb_of(verb)
        faults.strike(verb)
        given, rest = words.command(verb).parse(argv[1:])
        if verb == "exec":
            execute(given, rest)
        ACTIONS[verb](given)
    except Refusal as refusal:
        sys.stdout.flush()
        print(refusal.words, file=sys.stderr)
        return faults.status(verb, refusal.status)
    except ValueError as error:  # a setting that was spoiled with an editor
        print(error, file=sys.stderr)
        return faults.status(verb, 255)
    return 0


def _interrupted(*_: object) -> None:
    """What a worker does at SIGTERM (pve-common, PVE/RESTEnvironment.pm): it fails and cleans up."""
    raise Refusal("received interrupt")


def number(given: Given) -> int:
    """The container that a command is about."""
    return int(given["vmid"])


def worker(action: Callable[[], None]) -> None:
    """Do what the real one leaves to a worker, whose failures all end with 255."""
    try:
        action()
    except Refusal as refusal:
        raise Refusal(str(refusal)) from None


def status(given: Given) -> None:
    """Print whether the container runs."""
    settings = conf.load(number(given))
    state = "running" if guest.running(settings.vmid) else "stopped"
    if not true(given, "verbose"):
        print(f"status: {state}")
        return
    facts = {"vmid": str(settings.vmid), "status": state, "name": settings.head.values.get("hostname", "")}
    if settings.lock:
        facts["lock"] = settings.lock
    print("\n".join(f"{key}: {value}" for key, value in sorted(facts.items())))


def config(given: Given) -> None:
    """Print the configuration as it will be after the next start, or as it is now, or that of a snapshot."""
    if "snapshot" in given and true(given, "current"):
        said = "cannot use 'snapshot' parameter with 'current'"
        raise words.command("config").wrong({"current": said, "snapshot": said})
    settings = conf.load(number(given))
    if "snapshot" in given:
        section = settings.section(given["snapshot"])
    else:
        section = settings.head if true(given, "current") else settings.with_pending()
    values = dict(section.values)
    if section.description:
        values["description"] = escape(section.description).replace("\n", "%0A")
    lines = [f"{key}: {value}" for key, value in sorted(values.items())]
    lines += [f"{key}: {value}" for key, value in section.raw]
    print("\n".join(lines))


def list_all(_: Given) -> None:
    """Print the containers of the node; nothing if there are none."""
    rows = [("VMID", "Status", "Lock", "Name")]
    for vmid in conf.all_ids():
        settings = conf.load(vmid)
        state = "running" if guest.running(vmid) else "stopped"
        rows.append((str(vmid), state, settings.lock, settings.head.values.get("hostname", f"CT{vmid}")))
    for row in rows if len(rows) > 1 else []:
        print("{:<10} {:<10} {:<12} {:<20}".format(*row))


def list_snapshots(given: Given) -> None:
    """Print the tree of snapshots."""
    print("\n".join(snapshots.tree(conf.load(number(given)))))


def snapshot(given: Given) -> None:
    """Take a snapshot."""
    if (name := given["snapname"]) in ("current", "vzdump"):
        raise Refusal(f"unable to use snapshot name '{name}' (reserved name)", 2)
    worker(lambda: snapshots.take(number(given), name, given.get("description", "")))


def delete_snapshot(given: Given) -> None:
    """Delete a snapshot."""
    worker(lambda: snapshots.delete(number(given), given["snapname"], true(given, "force")))


def roll_back(given: Given) -> None:
    """Go back to a snapshot."""

    def action() -> None:
        snapshots.roll_back(number(given), given["snapname"])
        if true(given, "start"):
            start({"vmid": given["vmid"]})

    worker(action)


def set_options(given: Given) -> None:
    """Change settings; see `lab.pve.change`."""
    words.check_here(given)
    vmid = int(given.pop("vmid"))
    digest = given.pop("digest", "")
    if not given:
        raise Refusal("no options specified", 2)
    gone, back = (split_list(given.pop(name, "")) for name in ("delete", "revert"))
    _check_names(given, gone, back)
    with conf.locked(vmid):
        settings = conf.load(vmid)
        settings.check_lock()
        check_digest(vmid, digest)
        for key in back:
            settings.pending.values.pop(key, None)
        errors = change.apply(settings, given, gone)
        settings.save()
        guest.check_devices(settings)
    if errors:
        raise words.command("set").wrong(errors)


def _check_names(given: Given, gone: list[str], back: list[str]) -> None:
    """Refuse to delete or revert what is no setting, or is given too."""
    for how, names in (("revert", back), ("delete", gone)):
        for name in names:
            said = "" if name in words.SETTINGS or name in words.NOT_HERE else f"unknown option '{name}'"
            said = said or (f"you can't use '-{name}' and '-{how} {name}' at the same time" if name in given else "")
            if how == "delete" and not said and name in back:
                said = f"you can't use '-delete {name}' and '-revert {name}' at the same time"
            if said:
                refusal = words.command("set").wrong({how: said})
                refusal.status = 255  # said by the action, not by the reading of the command line
                raise refusal


def check_digest(vmid: int, digest: str) -> None:
    """Refuse if the configuration has changed since the caller read it."""
    if digest and digest != conf.digest(vmid):
        raise Refusal("detected modified configuration - file changed by other user? Try again.", 2)


def resize(given: Given) -> None:
    """Make a disk larger."""
    vmid, disk, wanted = number(given), given["disk"], given["size"]
    with conf.locked(vmid):
        settings = conf.load(vmid)
        settings.check_lock()
        check_digest(vmid, given.get("digest", ""))
        if disk not in settings.head.values:
            missing = "property is missing and it is not optional"
            raise ParameterError(f"format error\nmp: {missing}\nvolume: {missing}", 255)
        if disk not in settings.head.volumes():
            raise Refusal(f"unable to parse volume ID '{MOUNT.parse(settings.head.values[disk])['volume']}'")
        drive = settings.head.values[disk]
        now, new = storage.disk_size(drive), storage.size_of(wanted.lstrip("+"))
        new += now if wanted.startswith("+") else 0
        if new < now:
            raise Refusal("unable to shrink disk size")
        if new == now:
            raise Refusal("disk is already at specified size")
        settings.head.values[disk] = storage.DISK_SIZE.sub(f",size={storage.size_text(new)}", drive)
        settings.save()


def start(given: Given) -> None:
    """Start a container."""
    vmid = number(given)
    if guest.running(vmid):
        raise Refusal(f"CT {vmid} already running")
    worker(lambda: _start(vmid, true(given, "skiplock")))


def _start(vmid: int, skip_lock: bool) -> None:
    with conf.locked(vmid):
        settings = conf.load(vmid)
        if settings.is_template:
            raise Refusal("you can't start a CT if it's a template")
        _check_power_lock(settings, skip_lock)
        if settings.pending.values:
            change.apply_pending(settings)
            settings.save()
        guest.start(settings)


def _check_power_lock(settings: conf.Conf, skip: bool) -> None:
    if not skip and settings.lock != "mounted":
        settings.check_lock()


def shut_down(given: Given) -> None:
    """Shut a container down in an orderly way."""
    vmid = _running(given)

    def action() -> None:
        with conf.locked(vmid):
            conf.load(vmid).check_lock()
            try:
                guest.stop(vmid, int(given.get("timeout", "60")), kill=False)
            except Refusal:
                if not true(given, "forceStop"):
                    raise
                guest.stop(vmid, 10, kill=True)

    worker(action)


def stop(given: Given) -> None:
    """Stop a container at once."""
    vmid = _running(given)

    def action() -> None:
        with conf.locked(vmid):
            _check_power_lock(conf.load(vmid), true(given, "skiplock"))
            guest.stop(vmid, 10, kill=True)

    worker(action)


def _running(given: Given, what: str = "CT") -> int:
    vmid = number(given)
    conf.load(vmid)
    if not guest.running(vmid):
        raise Refusal(f"{what} {vmid} not running")
    return vmid


def reboot(given: Given) -> None:
    """Shut a container down and start it again, with what waits for its next start."""
    vmid = _running(given, "VM")  # as the real one calls it
    shut_down(given)
    worker(lambda: _start(vmid, skip_lock=False))


def suspend(given: Given) -> None:
    """Refuse: what a checkpoint holds can't be simulated."""
    raise _not_simulated("suspend", f"container {_running(given)}")


def resume(given: Given) -> None:
    """Refuse: no container of the lab was ever suspended."""
    vmid = number(given)
    conf.load(vmid)
    if guest.running(vmid):
        raise Refusal(f"CT {vmid} already running")
    raise _not_simulated("resume", f"container {vmid}")


def make_template(given: Given) -> None:
    """Refuse, as the real one does or as the lab has no base volumes."""
    settings = conf.load(number(given))
    settings.check_lock()
    if settings.snapshots:
        raise Refusal("unable to create template, because CT contains snapshots")
    if settings.is_template:
        raise Refusal("you can't convert a template to a template")
    if guest.running(settings.vmid):
        raise Refusal("you can't convert a CT to template if the CT is running")
    raise _not_simulated("template", "base volumes")


def check_file_system(given: Given) -> None:
    """Refuse: the lab's volumes are subvolumes, which the real one does not check either."""
    vmid = number(given)
    settings = conf.load(vmid)
    disk = given.get("device", "rootfs")
    if disk not in settings.head.values:
        raise Refusal(f"cannot run command on unknown device {disk}" if disk != "rootfs" else "missing 'rootfs'")
    if guest.running(vmid):
        raise Refusal("cannot run fsck on active container")
    volume = settings.head.values[disk].partition(",")[0]
    raise Refusal(f"unable to run fsck for '{volume}' (format == subvol)")


def rescan(given: Given) -> None:
    """Say that the volumes are looked at; those of the lab have the size that is configured."""
    if "vmid" in given:
        conf.load(number(given))
    if true(given, "dryrun"):
        print("NOTE: running in dry-run mode, won't write changes out!")
    print("rescan volumes...")


def pending(given: Given) -> None:
    """Print each setting as it is now, and as it will be after the next start."""
    settings = conf.load(number(given))
    now, waiting = dict(settings.head.values), dict(settings.pending.values)
    gone = split_list(waiting.pop("delete", ""))
    if settings.head.description:
        now["description"] = escape(settings.head.description).replace("\n", "%0A")
    for key in sorted({*now, *waiting}):
        if key in now:
            print(f"{'del' if key in gone else 'cur'} {key}: {now[key]}")
        if key in waiting:
            print(f"new {key}: {waiting[key]}")


def _not_simulated(verb: str, what: str) -> Refusal:
    return Refusal(f"not simulated: the lab's pct can't {verb} {what}; the real one can")


def destroy(given: Given) -> None:
    """Remove a container with its volumes and snapshots."""
    vmid = number(given)
    settings = conf.load(vmid)
    change.check_protection(settings, f"can't remove CT {vmid}")
    settings.check_lock()
    if guest.running(vmid):
        if not true(given, "force"):
            raise Refusal(f"unable to destroy CT {vmid} - container is running")
        guest.stop(vmid, 10, kill=True)
    with conf.locked(vmid):
        copies.remove(vmid)


def unlock(given: Given) -> None:
    """Remove a lock that a task has left."""
    with conf.locked(number(given)):
        settings = conf.load(number(given))
        if not settings.lock:
            raise Refusal("no lock found trying to remove any lock")
        settings.head.values.pop("lock")
        settings.save()


def execute(given: Given, command: list[str]) -> None:
    """Become a command in a container; its exit status is the command's."""
    vmid = number(given)
    conf.load(vmid)
    if not guest.running(vmid):
        raise Refusal(f"container '{vmid}' not running!")
    if not command:
        raise Refusal("missing command")
    os.environ["PATH"] = EXEC_PATH
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        os.environ.pop(name, None)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and so would the command
    environment = "--keep-env" if given.get("keep-env", "1") == "1" else "--clear-env"
    os.execvp("lxc-attach", ["lxc-attach", "-P", guest.LXC, "-n", str(vmid), environment, "--", *command])


ACTIONS: dict[str, Callable[[Given], None]] = {
    "clone": copies.clone,
    "config": config,
    "create": copies.create,
    "delsnapshot": delete_snapshot,
    "destroy": destroy,
    "fsck": check_file_system,
    "list": list_all,
    "listsnapshot": list_snapshots,
    "pending": pending,
    "reboot": reboot,
    "rescan": rescan,
    "resize": resize,
    "resume": resume,
    "rollback": roll_back,
    "set": set_options,
    "shutdown": shut_down,
    "snapshot": snapshot,
    "start": start,
    "status": status,
    "stop": stop,
    "suspend": suspend,
    "template": make_template,
    "unlock": unlock,
}
