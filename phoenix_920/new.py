"""`phoenix-920 new 930 --parent 920`: the smallest suite of another template, in a folder of the user's.

It takes over 920's stages, and has one of its own with one check. Nothing that exists is overwritten: an entry that
the declaration lacks is added to its text.
"""

from __future__ import annotations

import argparse
import importlib
import ipaddress
import json
import re
import shlex
import sys
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Any

from phoenix_920.front import SUITE

DECLARATION = "phoenix_lxc_configs.json"
KEY = '"lxc_configs"'
REUSED = ("010_preflight", "020_clone", "060_seal", "070_sealed", "075_recorded", "090_accepted")  # of 920
NEEDS_MORE = re.compile("gpu|docker|image|model|stack|surroundings|_clone_|of_the_build")  # than a parent gives
OWN = "test_040_greeting.py"
STAGE = '''"""Greeting: who logs in reads what this template is for. Put your own checks here, and into CHECKS."""

import pytest

from fixtures.base.errors import unexpected
from fixtures.proxmox.container import Container

pytestmark = [pytest.mark.stage("greeting"), pytest.mark.order(40)]
GREETING = "{name}\\n"


def test_greeting_is_there(container: Container) -> None:
    """Who logs in reads the name of the template."""
    container.ask("tee", "/etc/motd", stdin=GREETING.encode())
    found = container.ask("cat", "/etc/motd")
    assert found.strip() == GREETING.strip(), unexpected(
        f"/etc/motd has {{found!r}}", f"{{GREETING!r}}", run=container.pasteable("cat", "/etc/motd")
    )
'''


def main(words: list[str]) -> int:
    """Write the suite, and say what was written; one line and 4 if it can't be."""
    parser = argparse.ArgumentParser(
        prog="phoenix-920 new", description="Write the smallest suite of another template."
    )
    parser.add_argument("ctid", type=int, metavar="NUMBER", help="number of the new template's container")
    parser.add_argument(
        "--parent", type=int, default=920, metavar="NUMBER", help="container that it is cloned from; default: 920"
    )
    parser.add_argument("--name", help="host name; default: Template and its number")
    parser.add_argument(
        "--address", help="such as 10.0.0.230/24; default: the next one that is free in the declaration"
    )
    parser.add_argument("--folder", type=Path, default=Path(), help="folder to write into; default: here")
    try:
        given = parser.parse_args(words)
    except SystemExit as end:
        return 4 if end.code else 0
    folder = given.folder.resolve()
    suite = folder / f"tests_{given.ctid}"
    try:
        entry = _write(folder, suite, given)
    except (OSError, ValueError) as error:
        why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        print(f"phoenix-920 new: {why}; nothing was written", file=sys.stderr)
        return 4
    net = entry["network_config"]
    print(f"{suite}: {len([*suite.iterdir()])} files; your own stage is {OWN}")
    print(f"{folder / DECLARATION}: {given.ctid} is {entry['name']}, {net['ip']}, a clone of {given.parent}; adapt it")
    script = Path(sys.argv[0]).absolute()
    module = f"cd {shlex.quote(str(SUITE))} && {shlex.quote(sys.executable)} -m phoenix_920"
    front = shlex.quote(str(script)) if script.name == "phoenix-920" else module
    print(f"what a build would do: {front} {shlex.quote(str(suite))} --plan")
    return 0


def _write(folder: Path, suite: Path, given: argparse.Namespace) -> dict[str, Any]:
    declared = folder / DECLARATION
    found = declared if declared.exists() else SUITE / DECLARATION
    _check(found)
    text = found.read_text(encoding="utf-8")
    entry = _entry(json.loads(text)["lxc_configs"], given)
    text = _added(text, str(given.ctid), entry)
    with tempfile.TemporaryDirectory() as trial:
        (Path(trial) / DECLARATION).write_text(text, encoding="utf-8")
        _check(Path(trial) / DECLARATION)
    if suite.exists():
        raise ValueError(f"{suite} exists")
    suite.mkdir(parents=True)
    for name in REUSED:
        (suite / f"test_{name}.py").write_text(f"from tests_920.test_{name} import *\n")
    (suite / OWN).write_text(STAGE.format(name=entry["name"]))
    (suite / "CHECKS").write_text(_checks())
    declared.write_text(text, encoding="utf-8")
    ini = folder / "pytest.ini"
    if not ini.exists():
        lines = (SUITE / "pytest.ini").read_text(encoding="utf-8").replace("tests_920", suite.name).splitlines()
        ini.write_text("".join(f"{line}\n" for line in lines if not line.startswith((" ", "#", "markers"))))
    return entry


def _check(declared: Path) -> None:
    """Check a declaration as a run would. Raises ValueError with its mistakes, by the name of the file."""
    sys.path.insert(0, str(SUITE))  # before a distribution that has a package `fixtures`
    errors, declaration = (importlib.import_module(f"fixtures.base.{name}") for name in ("errors", "declaration"))
    try:
        declaration.load(declared)
    except errors.BuildError as error:
        raise ValueError(str(error).replace(f"{declared.parent}/", "")) from None


def _entry(entries: dict[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """The declaration of the template: its parent's, but for what must be its own."""
    if str(given.ctid) in entries:
        raise ValueError(f"container {given.ctid} is declared already")
    if str(given.parent) not in entries:
        raise ValueError(f"the parent {given.parent} is not declared; declared are {', '.join(entries)}")
    parent = entries[str(given.parent)]
    if not parent.get("template_snapshot_name"):
        raise ValueError(f"container {given.parent} has no template_snapshot_name, so it can't be a parent")
    net = {**parent["network_config"], "ip": given.address or _address(entries, parent["network_config"]["ip"])}
    own = {
        "name": given.name or f"Template{given.ctid}",
        "network_config": net,
        "mac_address": _mac(entries, given.ctid),
        "is_template": True,
        "template_snapshot_name": f"template-{given.ctid}-snapshot",
        "clone_from_template_ctid": str(given.parent),
    }
    left_out = ("static_ip", "vllm_model", "vllm_tensor_parallel_size")
    return {key: value for key, value in {**parent, **own}.items() if key not in left_out}


def _address(entries: dict[str, Any], parent: str) -> str:
    """The next address behind the parent's that nobody is declared with; one that DHCP gives stays that."""
    if "/" not in parent:
        return parent
    nets = [each["network_config"] for each in entries.values()]
    taken = {address.partition("/")[0] for net in nets for address in (net["ip"], net.get("gw") or "")}
    here = ipaddress.ip_interface(parent)
    behind = (here.ip + step for step in range(1, 256))
    free = (each for each in behind if each in here.network and str(each) not in taken)
    try:
        return f"{next(free)}/{here.network.prefixlen}"
    except StopIteration:
        raise ValueError("the parent's network has no free address behind the parent's; name one: --address") from None


def _mac(entries: dict[str, Any], ctid: int) -> str:
    """A locally administered address, made of the number; the next ones if it is taken."""
    taken = {str(each.get("mac_address", "")).upper() for each in entries.values()}
    numbers = (f"{ctid + step:08X}" for step in range(len(taken) + 1))
    made = (":".join(("52", "54", *(each[at : at + 2] for at in (0, 2, 4, 6)))) for each in numbers)
    return next(each for each in made if each not in taken)


def _added(text: str, ctid: str, entry: dict[str, Any]) -> str:
    """The text of a declaration with an entry more; all else stays as somebody has written it."""
    wanted = json.loads(text)
    wanted["lxc_configs"] = {ctid: entry, **wanted["lxc_configs"]}
    head, _, tail = text.partition(KEY)
    colon, brace, rest = tail.partition("{")
    written = json.dumps(entry, indent=2).replace("\n", "\n    ")
    new = f'{head}{KEY}{colon}{brace}\n    "{ctid}": {written},{rest}'
    if json.loads(new) != wanted:
        raise ValueError(f"{DECLARATION}: no place was found for an entry; add it by hand: {json.dumps(entry)}")
    return new


def _checks() -> str:
    """The list of all checks: those of 920 that need nothing but a container, and the one of its own."""
    lines = [f"  {OWN}::test_greeting_is_there"]
    for line in (SUITE / "tests_920/CHECKS").read_text(encoding="utf-8").splitlines():
        name, _, check = line.strip().partition("::")
        if name.removeprefix("test_").removesuffix(".py") in REUSED and not NEEDS_MORE.search(check):
            lines.append(f"  {name}::{check}")
    stages = groupby(sorted(lines, key=lambda line: line.partition("::")[0]), lambda line: line.partition("::")[0])
    return "".join("\n".join([name[len("  test_040_") : -len(".py")], *checks, ""]) for name, checks in stages)
