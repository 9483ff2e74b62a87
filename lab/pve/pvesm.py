"""`pvesm`, the command about storages: `status`, `list`, `path` and `free`."""

from __future__ import annotations

import re
import sys

from lab.pve import conf, cost, faults, storage
from lab.pve.errors import ParameterError, Refusal
from lab.pve.options import Command, Given
from lab.pve.schema import ANY, STORAGE, VMID

COMMANDS = {
    "free": Command("pvesm free", ["volume"], {"volume": ANY}),
    "list": Command("pvesm list", ["storage"], {"storage": STORAGE, "vmid": VMID}),
    "path": Command("pvesm path", ["volume"], {"volume": ANY}),
    "status": Command("pvesm status", [], {"storage": STORAGE}),
}


def main(argv: list[str]) -> int:
    """Do one command."""
    cost.take("pvesm", argv)
    try:
        faults.strike("pvesm")
        word = argv[0] if argv else ""
        if word not in COMMANDS:
            problem = f"unknown command 'pvesm {word}'" if word else "no command specified"
            raise ParameterError(f"ERROR: {problem}\nUSAGE: pvesm <COMMAND> [ARGS] [OPTIONS]", 255)
        given, _ = COMMANDS[word].parse(argv[1:])
        if word == "status" and given.get("storage", storage.NAME) != storage.NAME:
            raise ParameterError("400 Parameter verification failed.\nstorage: No such storage.", 255)
        storage.check(given.get("storage", storage.NAME))
        {"free": _free, "list": _list, "path": _path, "status": _status}[word](given)
    except Refusal as refusal:
        print(refusal.words, file=sys.stderr)
        return faults.status("pvesm", refusal.status)
    return 0


def _status(_: Given) -> None:
    total, free = (amount // 1024 for amount in storage.sizes())
    used = total - free
    print(f"{'Name':<17} {'Type':>10} {'Status':>10} {'Total':>15} {'Used':>15} {'Available':>15} {'%':>8}")
    numbers = f"{total:>15} {used:>15} {free:>15} {100 * used / total:>7.2f}%"
    print(f"{storage.NAME:<17} {storage.kind():>10} {'active':>10} {numbers}")


def _list(given: Given) -> None:
    print(f"{'Volid':<30} {'Format':<8} {'Type':<10} {'Size':>14} VMID")
    known = conf.all_ids()
    for name in storage.volumes():  # also one that no container has
        vmid = name.split("-")[1]
        if given.get("vmid", vmid) == vmid:
            drives = conf.load(int(vmid)).head.drives().values() if int(vmid) in known else ()
            own = next((each for each in drives if each.partition(",")[0] == storage.volid(name)), "")
            size = storage.disk_size(own)
            print(f"{storage.NAME + ':' + name:<30} {'subvol':<8} {'rootdir':<10} {size:>14} {vmid}")


def _path(given: Given) -> None:
    print(f"{storage.FOLDER}/{_volume(given)}")


def _free(given: Given) -> None:
    volume = _volume(given)
    if volume not in storage.volumes():
        raise Refusal(f"volume '{given['volume']}' does not exist")
    storage.delete(f"{storage.FOLDER}/{volume}")
    print(f"Removed volume '{given['volume']}'")


def _volume(given: Given) -> str:
    """The volume's name without its storage's."""
    name, colon, volume = given["volume"].partition(":")
    if not colon or not volume:
        raise Refusal(f"unable to parse volume ID '{given['volume']}'")
    storage.check(name)
    if not re.fullmatch(r"subvol-\d+-disk-\d+", volume):
        raise Refusal(f"unable to parse directory volume name '{volume}'")
    return volume
