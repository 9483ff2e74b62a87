"""`pvesm`, the command about storages: `status`, `list` and `path`."""

from __future__ import annotations

import sys

from lab.pve import conf, storage
from lab.pve.errors import ParameterError, Refusal


def main(argv: list[str]) -> int:
    """Do one command."""
    try:
        match argv:
            case ["status"] | ["status", "--storage", storage.NAME]:
                _status()
            case ["list", storage.NAME]:
                _list()
            case ["path", volid]:
                _path(volid)
            case ["status" | "list", *_, name]:
                raise Refusal(f"storage '{name}' does not exist", 2)
            case _:
                words = " ".join(argv[:1])
                raise ParameterError(f"ERROR: unknown command 'pvesm {words}'\nUSAGE: pvesm <COMMAND> [ARGS] [OPTIONS]")
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return refusal.status
    return 0


def _status() -> None:
    total, free = (amount // 1024 for amount in storage.sizes())
    used = total - free
    print(f"{'Name':<17} {'Type':>10} {'Status':>10} {'Total':>15} {'Used':>15} {'Available':>15} {'%':>8}")
    numbers = f"{total:>15} {used:>15} {free:>15} {100 * used / total:>7.2f}%"
    print(f"{storage.NAME:<17} {'btrfs':>10} {'active':>10} {numbers}")


def _list() -> None:
    print(f"{'Volid':<30} {'Format':<8} {'Type':<10} {'Size':>14} VMID")
    for vmid in conf.all_ids():
        size = int(storage.gib(conf.load(vmid).head.values["rootfs"].partition(",size=")[2]) * 2**30)
        print(f"{storage.NAME + ':' + storage.volume(vmid):<30} {'subvol':<8} {'rootdir':<10} {size:>14} {vmid}")


def _path(volid: str) -> None:
    pool, _, volume = volid.partition(":")
    if pool != storage.NAME or not volume:
        raise Refusal(f"unable to parse volume ID '{volid}'", 2)
    print(f"{storage.FOLDER}/{volume}")
