"""The command line of `pct`: which words each verb takes, and how the real one refuses others."""

from __future__ import annotations

import re

from lab.pve.errors import ParameterError

# A rule is a pattern and what the real one says of a value that does not match it.
Rule = tuple[str, str]
ANY: Rule = (r"(?s).*", "")
BOOL: Rule = (r"0|1|yes|no|on|off|true|false", "type check ('boolean') failed - got '{}'")
INT: Rule = (r"-?\d+", "type check ('integer') failed - got '{}'")
VMID: Rule = (r"[1-9]\d{2,8}", "type check ('integer') failed - got '{}'")
NAME: Rule = (r"[A-Za-z][A-Za-z0-9_-]+", "invalid format - invalid configuration ID '{}'")
DNS: Rule = (
    r"([a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?\.)*[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?",
    "invalid format - value does not look like a valid DNS name",
)

SETTINGS: dict[str, Rule] = {
    "arch": ANY, "cores": INT, "cpulimit": ANY, "cpuunits": INT, "description": ANY, "features": ANY, "hostname": DNS,
    "memory": INT, "nameserver": ANY, "onboot": BOOL, "ostype": ANY, "protection": BOOL, "searchdomain": ANY,
    "startup": ANY, "swap": INT, "tags": ANY, "timezone": ANY, "tty": INT, "dev": ANY, "net": ANY, "mp": ANY,
}  # fmt: skip

VERBS: dict[str, tuple[tuple[str, ...], dict[str, Rule]]] = {
    "clone": (("vmid", "newid"), {"full": BOOL, "snapname": NAME, "hostname": DNS, "description": ANY, "pool": ANY,
                                  "storage": ANY, "target": ANY, "bwlimit": INT}),
    "config": (("vmid",), {"current": BOOL, "snapshot": NAME}),
    "create": (("vmid", "ostemplate"), {**SETTINGS, "rootfs": ANY, "storage": ANY, "unprivileged": BOOL}),
    "delsnapshot": (("vmid", "snapname"), {"force": BOOL}),
    "destroy": (("vmid",), {"force": BOOL, "purge": BOOL, "destroy-unreferenced-disks": BOOL}),
    "list": ((), {}),
    "listsnapshot": (("vmid",), {}),
    "resize": (("vmid", "disk", "size"), {"digest": ANY}),
    "rollback": (("vmid", "snapname"), {"start": BOOL}),
    "set": (("vmid",), {**SETTINGS, "delete": ANY, "revert": ANY, "digest": ANY, "rootfs": ANY}),
    "shutdown": (("vmid",), {"timeout": INT, "forceStop": BOOL}),
    "snapshot": (("vmid", "snapname"), {"description": ANY}),
    "start": (("vmid",), {"skiplock": BOOL, "debug": BOOL}),
    "status": (("vmid",), {"verbose": BOOL}),
    "stop": (("vmid",), {"skiplock": BOOL, "overrule-shutdown": BOOL}),
    "unlock": (("vmid",), {}),
}  # fmt: skip
POSITIONAL: dict[str, Rule] = {
    "vmid": VMID, "newid": VMID, "snapname": NAME, "ostemplate": ANY,
    "disk": (r"rootfs|mp\d+", "value '{}' does not have a value in the enumeration 'rootfs, mp0, ...'"),
    "size": (r"\+?\d+(\.\d+)?[KMGT]?", "value does not match the regex pattern"),
}  # fmt: skip


def usage(verb: str) -> str:
    """How a verb is called, as the real one ends its complaints."""
    names, options = VERBS[verb]
    words = ["pct", verb, *(f"<{name}>" for name in names)]
    return " ".join(words + (["[OPTIONS]"] if options else []))


def parse(verb: str, words: list[str]) -> dict[str, str]:
    """Split a verb's words into its arguments and options.

    Raises:
        ParameterError: A word is missing, not known or not usable; in the real words.
    """
    names, options = VERBS[verb]
    plain, given, unknown = _split(words, options)
    if unknown:
        lines = "".join(f"Unknown option: {name}\n" for name in unknown)
        raise ParameterError(f"{lines}400 unable to parse option\n{usage(verb)}")
    if len(plain) < len(names):
        raise ParameterError(f"400 not enough arguments\n{usage(verb)}")
    if len(plain) > len(names):
        raise ParameterError(f"400 too many arguments\n{usage(verb)}")
    given.update(zip(names, plain, strict=True))
    _verify(verb, given, options)
    return given


def _rule(name: str, options: dict[str, Rule]) -> Rule | None:
    if name in options:
        return options[name]
    match = re.fullmatch(r"(dev|net|mp)\d+", name)
    return options.get(match.group(1)) if match else None


def _split(words: list[str], options: dict[str, Rule]) -> tuple[list[str], dict[str, str], list[str]]:
    plain: list[str] = []
    given: dict[str, str] = {}
    unknown: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not re.match(r"--?[a-zA-Z]", word):
            plain.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        rule = _rule(name, options)
        if rule is None:
            unknown.append(name)
        elif equals:
            given[name] = value
        elif rule is BOOL and not (rest and re.fullmatch(BOOL[0], rest[0])):
            given[name] = "1"
        elif rest:
            given[name] = rest.pop(0)
        else:
            unknown.append(f"{name} requires an argument")
    return plain, given, unknown


def _verify(verb: str, given: dict[str, str], options: dict[str, Rule]) -> None:
    complaints = []
    for name, value in given.items():
        pattern, complaint = POSITIONAL.get(name) or _rule(name, options) or ANY
        if not re.fullmatch(pattern, value):
            complaints.append(f"{name}: {complaint.format(value)}\n")
        elif name == "snapname" and len(value) > 40:
            complaints.append(f"{name}: value may only be 40 characters long\n")
    if complaints:
        raise ParameterError(f"400 Parameter verification failed.\n{''.join(complaints)}\n{usage(verb)}")


def true(given: dict[str, str], name: str) -> bool:
    """Whether an option is given and means yes."""
    return given.get(name, "0") in ("1", "yes", "on", "true")
