"""`pvesh`, the API on the command line: what a build reads, and the one thing that it sets."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from lab.pve import conf, cost, faults, guest, pveversion, storage
from lab.pve.errors import ParameterError, Refusal
from lab.pve.options import Command, Given, true
from lab.pve.schema import ANY, BOOL, NAME, NODE, VMID, Rule

VERBS = ("create", "delete", "get", "ls", "set", "usage")
OUTPUT: dict[str, Rule] = {
    "output-format": Rule(choices=("text", "json", "json-pretty", "yaml")),
    **dict.fromkeys(("human-readable", "noborder", "noheader", "noproxy", "quiet"), BOOL),
}
IN_PATH: dict[str, Rule] = {"node": NODE, "vmid": VMID, "snapname": NAME}


def main(argv: list[str]) -> int:
    """Do one call of the API."""
    cost.take("pvesh", argv)
    try:
        faults.strike("pvesh", f"pvesh-{argv[0] if argv else ''}")
        _call(argv)
    except Refusal as refusal:
        print(refusal.words, file=sys.stderr)
        return faults.status("pvesh", refusal.status)
    return 0


def _call(argv: list[str]) -> None:
    word = argv[0] if argv else ""
    verbs = [word] if word in VERBS else [verb for verb in VERBS if word and verb.startswith(word)]
    if len(verbs) != 1:
        problem = f"unknown command 'pvesh {word}'" if word else "no command specified"
        raise ParameterError(f"ERROR: {problem}\nUSAGE: pvesh <COMMAND> [ARGS] [OPTIONS]", 255)
    verb = verbs[0]
    # as in the real one, the path is looked up before the words are read: it says which options there are
    path = argv[1] if len(argv) > 1 else ""
    action, rules, found = _handler(verb, path) if path else (None, {}, {})
    command = Command(f"pvesh {verb}", ["api_path"], {**rules, **OUTPUT, "api_path": ANY}, tail="[FORMAT_OPTIONS]")
    given, _ = command.parse(argv[1:])
    if action is None or given["api_path"] != path:
        raise _no_handler(verb, given["api_path"])
    if wrong := {name: said for name, value in found.items() if (said := IN_PATH[name].complaint(value, name))}:
        raise command.wrong(wrong)
    if (node := found.get("node", "localhost")) not in (os.uname().nodename, "localhost"):
        words = f"hostname lookup '{node}' failed - failed to get address info for: {node}"
        raise Refusal(f"{words}: Temporary failure in name resolution", 11)
    if given.get("output-format") == "yaml":
        raise Refusal("the lab's pvesh has no yaml; the real one has", 2)
    answer = action({**{name: given[name] for name in rules if name in given}, **found})
    if answer is not None and not true(given, "quiet"):
        print(_printed(answer, given.get("output-format", "text")))


def _printed(answer: Any, form: str) -> str:
    if form != "text":
        return json.dumps(answer, sort_keys=True, indent=3 if form == "json-pretty" else None)
    if isinstance(answer, str):
        return answer
    # a plain listing; the real one draws a table, which is not made for programs either
    rows = answer if isinstance(answer, list) else [answer]
    return "\n".join(f"{key}: {value}" for row in rows for key, value in sorted(row.items()))


Action = Callable[[Given], Any]


def _handler(verb: str, path: str) -> tuple[Action, Mapping[str, Rule], Given]:
    """What answers a call, the options that it takes, and what its path names."""
    parts = [part for part in path.split("/") if part]
    for known, template, rules, action in HANDLERS:
        names = template.split("/")[1:]
        if known != verb or len(names) != len(parts):
            continue
        pairs = list(zip(names, parts, strict=True))
        if all(name == part or name.startswith("{") for name, part in pairs):
            return action, rules, {name.strip("{}"): part for name, part in pairs if name.startswith("{")}
    raise _no_handler(verb, path)


def _no_handler(verb: str, path: str) -> Refusal:
    return Refusal(f"No '{verb}' handler defined for '{path}'", 1)


def _version(_: Given) -> Any:
    return {"version": pveversion.VERSION, "release": pveversion.VERSION[:3], "repoid": "lab"}


def _nodes(_: Given) -> Any:
    return [{"node": os.uname().nodename, "status": "online", "type": "node"}]


def _resources(given: Given) -> Any:
    node = os.uname().nodename
    rows = [{**_row(vmid), "type": "lxc", "id": f"lxc/{vmid}", "node": node} for vmid in conf.all_ids()]
    wanted = given.get("type")
    return rows if wanted == "vm" else [row for row in [*rows, *_nodes(given)] if wanted in (None, row["type"])]


def _next_id(_: Given) -> Any:
    """The lowest free number from 100, as a text (pve-cluster: next-id.lower)."""
    return str(next(each for each in itertools.count(100) if each not in conf.all_ids()))


def _containers(_: Given) -> Any:
    return [_row(vmid) for vmid in conf.all_ids()]


def _row(vmid: int) -> dict[str, Any]:
    settings = conf.load(vmid)
    state = "running" if guest.running(vmid) else "stopped"
    name = settings.head.values.get("hostname", f"CT{vmid}")
    row: dict[str, Any] = {"vmid": vmid, "name": name, "status": state, "type": "lxc"}
    return {**row, "lock": settings.lock} if settings.lock else row


def _storages(_: Given) -> Any:
    total, free = storage.sizes()
    flags = {"active": 1, "enabled": 1, "shared": 0}
    amounts = {"total": total, "avail": free, "used": total - free}
    return [{"storage": storage.NAME, "type": storage.kind(), "content": "rootdir", **flags, **amounts}]


def _tasks(_: Given) -> Any:
    return []  # the lab's node keeps no log of tasks


def _status(_: Given) -> Any:
    total, free = (os.sysconf("SC_PAGE_SIZE") * os.sysconf(name) for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    memory = {"total": total, "free": free, "used": total - free}
    version = pveversion.text().split(" ")[0]
    return {"pveversion": version, "kversion": os.uname().release, "memory": memory}


def _config(given: Given) -> Any:
    settings = conf.load(int(given["vmid"]))
    if "snapshot" in given and true(given, "current"):
        said = "cannot use 'snapshot' parameter with 'current'"
        raise ParameterError(f"400 Parameter verification failed.\ncurrent: {said}\nsnapshot: {said}")
    if "snapshot" in given:
        section = settings.section(given["snapshot"])
    else:
        section = settings.head if true(given, "current") else settings.with_pending()
    return {**_values(section), "digest": conf.digest(settings.vmid)}


def _values(section: conf.Section) -> dict[str, Any]:
    numbers = ("cores", "memory", "swap", "snaptime")
    values: dict[str, Any] = {k: int(v) if k in numbers else v for k, v in section.values.items()}
    if section.description:
        values["description"] = section.description
    if section.raw:
        values["lxc"] = [list(pair) for pair in section.raw]
    return values


def _current(given: Given) -> Any:
    return _row(int(given["vmid"]))


def _snapshots(given: Given) -> Any:
    settings = conf.load(int(given["vmid"]))
    rows: list[dict[str, Any]] = []
    for name, section in sorted(settings.snapshots.items()):
        row = {"name": name, "description": section.description, "snaptime": int(section.values.get("snaptime", 0))}
        row |= {key: section.values[key] for key in ("parent", "snapstate") if key in section.values}
        rows.append(row)
    current = {"name": "current", "description": "You are here!", "digest": conf.digest(settings.vmid)}
    more: dict[str, Any] = {"running": int(guest.running(settings.vmid))}
    if parent := settings.head.values.get("parent"):
        more["parent"] = parent
    return [*rows, {**current, **more}]


def _snapshot_config(given: Given) -> Any:
    section = conf.load(int(given["vmid"])).section(given["snapname"])
    return {key: value for key, value in _values(section).items() if key != "lxc"}  # as the real one drops them


def _describe(given: Given) -> None:
    """Change the description of a snapshot; nothing else can be set here."""
    vmid = int(given["vmid"])
    if "description" not in given:
        return
    with conf.locked(vmid):
        settings = conf.load(vmid)
        settings.check_lock()
        section = settings.section(given["snapname"])
        section.description = f"{given['description']}\n" if given["description"] else ""
        settings.save()


_KINDS = Rule(choices=("vm", "storage", "node", "sdn"))
_TASKS: dict[str, Rule] = {
    **{name: Rule("integer", least=0) for name in ("limit", "since", "start", "until")},
    **dict.fromkeys(("source", "statusfilter", "typefilter", "userfilter"), ANY),
    "errors": BOOL,
    "vmid": VMID,
}
_CT = "/nodes/{node}/lxc/{vmid}"
HANDLERS: list[tuple[str, str, Mapping[str, Rule], Action]] = [
    ("get", "/version", {}, _version),
    ("get", "/nodes", {}, _nodes),
    ("get", "/cluster/nextid", {}, _next_id),
    ("get", "/cluster/resources", {"type": _KINDS}, _resources),
    ("get", "/nodes/{node}/lxc", {}, _containers),
    ("get", "/nodes/{node}/storage", {}, _storages),
    ("get", "/nodes/{node}/tasks", _TASKS, _tasks),
    ("get", "/nodes/{node}/status", {}, _status),
    ("get", f"{_CT}/config", {"current": BOOL, "snapshot": NAME}, _config),
    ("get", f"{_CT}/status/current", {}, _current),
    ("get", f"{_CT}/snapshot", {}, _snapshots),
    ("get", f"{_CT}/snapshot/{{snapname}}/config", {}, _snapshot_config),
    ("set", f"{_CT}/snapshot/{{snapname}}/config", {"description": ANY}, _describe),
]
