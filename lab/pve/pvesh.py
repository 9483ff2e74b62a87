"""`pvesh`, the API on the command line: what a build reads, and the one thing that it sets."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from typing import Any

from lab.pve import conf, faults, guest, pveversion, storage
from lab.pve.errors import ParameterError, Refusal

USAGE = "pvesh <COMMAND> <api_path> [OPTIONS] [FORMAT_OPTIONS]"


def main(argv: list[str]) -> int:
    """Do one call of the API."""
    try:
        faults.strike("pvesh")
        if len(argv) < 2:
            raise ParameterError(f"ERROR: not enough arguments\nUSAGE: {USAGE}")
        verb, path, given = argv[0], argv[1], _options(argv[2:])
        form = given.pop("output-format", "text")
        if verb == "get":
            answer = get(path, given)
            print(json.dumps(answer, indent=3 if form == "json-pretty" else None) if form != "text" else _text(answer))
        elif verb == "set":
            put(path, given)
        else:
            raise ParameterError(f"ERROR: unknown command 'pvesh {verb}'\nUSAGE: {USAGE}")
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return faults.status("pvesh", refusal.status)
    return 0


def _options(rest: list[str]) -> dict[str, str]:
    given = {}
    for name, value in zip(rest[::2], rest[1::2], strict=False):
        given[name.lstrip("-")] = value
    if len(rest) % 2 or any(not name.startswith("-") for name in rest[::2]):
        raise ParameterError("400 unable to parse option")
    return given


def _text(answer: Any) -> str:
    """A plain listing; the real one draws a table, which is not made for programs either."""
    rows = answer if isinstance(answer, list) else [answer]
    return "\n".join(f"{key}: {value}" for row in rows for key, value in sorted(row.items()))


def get(path: str, given: dict[str, str]) -> Any:
    """The answer to a GET."""
    if path == "/version":
        return {"version": pveversion.VERSION, "release": pveversion.VERSION[:3], "repoid": "lab"}
    if path == "/nodes":
        return [{"node": os.uname().nodename, "status": "online", "type": "node"}]
    if path == "/cluster/resources":
        _allow(given, "type")
        return [
            {**_row(vmid), "type": "lxc", "id": f"lxc/{vmid}", "node": os.uname().nodename} for vmid in conf.all_ids()
        ]
    match = re.fullmatch(r"/nodes/([^/]+)(/.*)", path)
    if not match:
        raise _no_handler("get", path)
    if match.group(1) not in (os.uname().nodename, "localhost"):
        raise Refusal(f"hostname lookup '{match.group(1)}' failed - failed to get address info", 2)
    return _of_node(path, match.group(2), given)


def _of_node(path: str, rest: str, given: dict[str, str]) -> Any:
    if rest == "/lxc":
        return [_row(vmid) for vmid in conf.all_ids()]
    if rest == "/storage":
        return [_storage()]
    if rest == "/tasks":
        _allow(given, "vmid", "source", "limit", "typefilter")
        return []
    if rest == "/status":
        total, free = (os.sysconf("SC_PAGE_SIZE") * os.sysconf(name) for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
        memory = {"total": total, "free": free, "used": total - free}
        version = pveversion.text().split(" ")[0]
        return {"pveversion": version, "kversion": os.uname().release, "memory": memory}
    match = re.fullmatch(r"/lxc/(\d+)/(.+)", rest)
    if not match:
        raise _no_handler("get", path)
    settings = conf.load(int(match.group(1)))
    what = match.group(2)
    if what == "config":
        _allow(given, "current", "snapshot")
        section = settings.section(given["snapshot"]) if "snapshot" in given else settings.head
        return {**_values(section), "digest": _digest(settings.vmid)}
    if what == "status/current":
        return _row(settings.vmid)
    if what == "snapshot":
        return _snapshots(settings)
    if one := re.fullmatch(r"snapshot/([^/]+)/config", what):
        return {key: value for key, value in _values(settings.section(one.group(1))).items() if key != "lxc"}
    raise _no_handler("get", path)


def put(path: str, given: dict[str, str]) -> None:
    """Change the description of a snapshot; nothing else can be set here."""
    match = re.fullmatch(r"/nodes/[^/]+/lxc/(\d+)/snapshot/([^/]+)/config", path)
    if not match:
        raise _no_handler("set", path)
    _allow(given, "description")
    with conf.locked(int(match.group(1))):
        settings = conf.load(int(match.group(1)))
        section = settings.section(match.group(2))
        settings.check_lock()
        section.description = f"{given['description']}\n" if given.get("description") else ""
        settings.save()


def _no_handler(verb: str, path: str) -> Refusal:
    return Refusal(f"No '{verb}' handler defined for '{path}'", 2)


def _allow(given: dict[str, str], *names: str) -> None:
    for name in given:
        if name not in names:
            raise ParameterError(
                "400 Parameter verification failed.\n"
                f"{name}: property is not defined in schema and the schema does not allow additional properties\n"
            )


def _row(vmid: int) -> dict[str, Any]:
    settings = conf.load(vmid)
    state = "running" if guest.running(vmid) else "stopped"
    name = settings.head.values.get("hostname", f"CT{vmid}")
    row: dict[str, Any] = {"vmid": vmid, "name": name, "status": state, "type": "lxc"}
    return {**row, "lock": settings.lock} if settings.lock else row


def _values(section: conf.Section) -> dict[str, Any]:
    numbers = ("cores", "memory", "swap", "snaptime")
    values: dict[str, Any] = {k: int(v) if k in numbers else v for k, v in section.values.items()}
    if section.description:
        values["description"] = section.description
    if section.raw:
        values["lxc"] = [list(pair) for pair in section.raw]
    return values


def _digest(vmid: int) -> str:
    with open(conf.file_of(vmid), "rb") as file:
        return hashlib.sha1(file.read()).hexdigest()


def _snapshots(settings: conf.Conf) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, section in sorted(settings.snapshots.items()):
        row = {"name": name, "description": section.description, "snaptime": int(section.values["snaptime"])}
        row |= {key: section.values[key] for key in ("parent", "snapstate") if key in section.values}
        rows.append(row)
    current: dict[str, Any] = {"name": "current", "description": "You are here!", "digest": _digest(settings.vmid)}
    current["running"] = int(guest.running(settings.vmid))
    if parent := settings.head.values.get("parent"):
        current["parent"] = parent
    return [*rows, current]


def _storage() -> dict[str, Any]:
    total, free = storage.sizes()
    flags = {"active": 1, "enabled": 1, "shared": 0}
    amounts = {"total": total, "avail": free, "used": total - free}
    return {"storage": storage.NAME, "type": "btrfs", "content": "rootdir", **flags, **amounts}
