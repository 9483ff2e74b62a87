"""Changes of a container's settings: what `pct set` and `pct create` write, and what reaches a running container.

A stopped container takes all at once. A running one takes what can be plugged in, and the rest waits
under [pve:pending] for the next start (pve-container, PVE/LXC/Config.pm).
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Mapping

from lab.pve import conf, guest, storage
from lab.pve.errors import Refusal
from lab.pve.options import Given
from lab.pve.schema import DEVICE, MOUNT, split_list

AT_ONCE = ("description", "onboot", "startup", "protection", "hostname", "cores", "tags", "lock")
REQUIRED = ("memory", "rootfs", "ostype")
# Of a network interface: what the lab's node can't do. Silence would be a lie.
NET_NOT_HERE = ("gw6", "host-managed", "ip6", "rate", "tag", "trunks")
MOUNT_NOT_HERE = ("acl", "keepattrs", "mountoptions", "quota", "shared")
NEW_VOLUME = re.compile(rf"{storage.NAME}:([0-9]+)")  # and so many GiB


def new_mac() -> str:
    """A random address under Proxmox's prefix."""
    return "BC:24:11:" + ":".join(f"{random.randrange(256):02X}" for _ in range(3))


def print_net(options: Mapping[str, str]) -> str:
    """A network line as the real one prints it: name first, the rest by the alphabet."""
    order = sorted(options, key=lambda key: (key != "name", key))
    return ",".join(f"{key}={options[key]}" for key in order)


def net_line(text: str) -> str:
    """A network line, completed."""
    return print_net({"hwaddr": new_mac(), **guest.net_options(text), "type": "veth"})


def apply(settings: conf.Conf, given: Given, gone: list[str]) -> dict[str, str]:
    """Change settings, in memory.

    Args:
        settings: The configuration, which is changed.
        given: New values.
        gone: Names of settings that are removed.

    Returns:
        By setting, what is wrong with those that could not be plugged into a running container.

    Raises:
        Refusal: A change can't be made; nothing is to be written then.
    """
    for key in [key for key in gone if _can_go(settings, key)]:
        settings.pending.values.pop(key, None)
        _wait_to_go(settings, key, True)
    for key, value in sorted(given.items()):
        settings.pending.values[key] = _value(settings, key, value)
        _wait_to_go(settings, key, False)
    _forget_unchanged(settings)
    if guest.running(settings.vmid):
        return _plug(settings, {*given, *gone})
    apply_pending(settings)
    return {}


def _can_go(settings: conf.Conf, key: str) -> bool:
    there = {**settings.head.values, **settings.pending.values, "description": settings.head.description}
    if not there.get(key):
        print(f"cannot delete '{key}' - not set in current configuration!", file=sys.stderr)
        return False
    if key in REQUIRED:
        raise Refusal(f"unable to delete required option '{key}'", 2)
    if key == "unprivileged":
        raise Refusal("unable to delete read-only option: 'unprivileged'", 2)
    if re.fullmatch(r"mp\d+", key):
        check_protection(settings, f"can't remove CT {settings.vmid} drive '{key}'")
        if key in settings.head.volumes():
            raise Refusal(f"the lab's node can't detach the volume {key}; the real one can", 2)
    return True


def check_protection(settings: conf.Conf, message: str) -> None:
    """Refuse if the container is protected."""
    if settings.head.values.get("protection") == "1":
        raise Refusal(f"{message} - protection mode enabled")


def _wait_to_go(settings: conf.Conf, key: str, waits: bool) -> None:
    names = set(split_list(settings.pending.values.pop("delete", "")))
    names = names | {key} if waits else names - {key}
    if names:
        settings.pending.values["delete"] = ",".join(sorted(names))


def _value(settings: conf.Conf, key: str, value: str) -> str:
    """A value as it is written; refused if the node cannot apply it."""
    if key == "unprivileged":
        raise Refusal("unable to modify read-only option: 'unprivileged'", 2)
    if key == "rootfs":
        check_protection(settings, f"can't update CT {settings.vmid} drive '{key}'")
        raise Refusal("the lab can't give a container another root disk; the real node can", 2)
    if re.fullmatch(r"mp\d+", key):
        check_protection(settings, f"can't update CT {settings.vmid} drive '{key}'")
        _check_mount(settings, key, value)
    elif re.fullmatch(r"net\d+", key):
        _check_net(key, value)
    elif re.fullmatch(r"dev\d+", key):
        options = DEVICE.parse(value)
        if "path" not in options:
            raise Refusal("Path has to be defined", 2)
        guest.device(options["path"])
    elif key in ("nameserver", "searchdomain"):
        return " ".join(split_list(value))
    elif key == "tags":
        return ";".join(sorted({tag.lower() for tag in split_list(value)}))
    return value


def _check_net(key: str, value: str) -> None:
    options = guest.net_options(value)
    bad = [name for name in NET_NOT_HERE if options.get(name, "0") != "0"]
    bad += ["firewall"] if options.get("firewall") == "1" else []
    bad += ["ip=dhcp"] if options.get("ip") == "dhcp" else []
    if bad:
        raise Refusal(f"the lab's node can't do {', '.join(bad)} of {key}; the real one can", 2)


def _check_mount(settings: conf.Conf, key: str, value: str) -> None:
    options = MOUNT.parse(value)
    place, volumes = options["volume"], settings.head.volumes()
    if not place.startswith("/") and storage.volid(volumes.get(key, "")) != place and not NEW_VOLUME.fullmatch(place):
        raise Refusal(f"the lab's node can't give {key} an existing volume, only {storage.NAME}:GIBIBYTES", 2)
    if place.startswith("/dev/") or (place.startswith("/") and "size" in options):
        raise Refusal(f"the lab's node has no block device for {key}; the real one has", 2)
    if bad := [name for name in MOUNT_NOT_HERE if name in options]:
        raise Refusal(f"the lab's node can't do {', '.join(bad)} of {key}; the real one can", 2)


def _forget_unchanged(settings: conf.Conf) -> None:
    now = settings.head.values
    for key, value in list(settings.pending.values.items()):
        if key != "delete" and now.get(key) == value:
            settings.pending.values.pop(key)


def apply_pending(settings: conf.Conf) -> None:
    """Apply pending changes, as a stopped container does."""
    waiting, settings.pending = settings.pending.values, conf.Section()
    for key in split_list(waiting.pop("delete", "")):
        _remove(settings, key)
    for key, value in waiting.items():
        _put(settings, key, value)


def _remove(settings: conf.Conf, key: str) -> None:
    settings.head.values.pop(key, None)
    if key == "description":
        settings.head.description = ""


def _put(settings: conf.Conf, key: str, value: str) -> None:
    if key == "description":
        settings.head.description = value
    elif key.startswith("net"):
        settings.head.values[key] = net_line(value)
    elif key.startswith("mp"):
        settings.head.values[key] = _mount_line(settings.vmid, MOUNT.parse(value))
    elif value:
        settings.head.values[key] = value


def _mount_line(vmid: int, options: dict[str, str]) -> str:
    """A mount point as the real one prints it; a new volume is made."""
    place = options.pop("volume")
    if new := NEW_VOLUME.fullmatch(place):
        name = storage.next_volume(vmid)
        storage.create(name)
        place, options["size"] = storage.volid(name), f"{new[1]}G"
    words = [f"mp={options.pop('mp')}", *(f"{key}={value}" for key, value in sorted(options.items()))]
    return ",".join([place, *words])


def _plug(settings: conf.Conf, keys: set[str]) -> dict[str, str]:
    """Apply to a running container what it accepts; the rest stays pending."""
    errors: dict[str, str] = {}
    waiting = settings.pending.values
    for key in [key for key in split_list(waiting.get("delete", "")) if key in keys]:
        if key.startswith("net"):
            errors[key] = _not_running(key, "take a running interface away")
        elif key in (*AT_ONCE, "swap"):
            _remove(settings, key)
            _wait_to_go(settings, key, False)
    for key in [key for key in sorted(waiting) if key in keys and key != "delete"]:
        if key.startswith("net") and net_line(waiting[key]) == settings.head.values.get(key):
            waiting.pop(key)
        elif key.startswith("net"):
            errors[key] = _not_running(key, "change a running interface")
        elif key in (*AT_ONCE, "memory", "swap"):
            _plug_limit(settings, key, errors)
        elif key.startswith(("mp", "dev")) and key not in settings.head.values:
            errors[key] = _not_running(key, "do it")
    return errors


def _not_running(key: str, what: str) -> str:
    return f"unable to hotplug {key}: the lab's node can't {what}; the real one can"


def _plug_limit(settings: conf.Conf, key: str, errors: dict[str, str]) -> None:
    """Change a setting at once; a limit that the kernel refuses stays pending."""
    before, value = settings.head.values.get(key, ""), settings.pending.values.pop(key)
    _put(settings, key, value)
    try:
        if key == "memory":
            guest.set_memory(settings)
        elif key == "cores":
            guest.set_cores(settings)
    except Refusal as refusal:
        errors[key] = f"unable to hotplug {key}: {refusal}"
        settings.pending.values[key] = value
        settings.head.values.pop(key)
        _put(settings, key, before)
