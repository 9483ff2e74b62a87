"""The command line of `pct`: which words each verb takes (pve-container, PVE/CLI/pct.pm and API2/LXC*)."""

from __future__ import annotations

from lab.pve import schema
from lab.pve.errors import ParameterError, Refusal
from lab.pve.options import REST, Command, Given
from lab.pve.schema import Rule

LOCKS = "backup create destroyed disk fstrim migrate mounted rollback snapshot snapshot-delete"
SYSTEMS = "debian devuan ubuntu centos fedora opensuse archlinux alpine gentoo nixos unmanaged"
DISKS = ("rootfs", *(f"mp{number}" for number in range(256)))

SETTINGS: dict[str, Rule] = {
    "arch": Rule(choices=("amd64", "i386", "arm64", "armhf", "riscv32", "riscv64")),
    "cores": Rule("integer", least=1, most=8192),
    "description": Rule(longest=8192),
    "features": Rule(form=schema.FEATURES),
    "hostname": Rule(form=schema.DNS.form, longest=255),
    "lock": Rule(choices=tuple(LOCKS.split())),
    "memory": Rule("integer", least=16),
    "nameserver": schema.IP_LIST,
    "onboot": schema.BOOL,
    "ostype": Rule(choices=tuple(SYSTEMS.split())),
    "protection": schema.BOOL,
    "rootfs": Rule(form=schema.ROOTFS),
    "searchdomain": schema.DNS_LIST,
    "startup": schema.STARTUP,
    "swap": Rule("integer", least=0),
    "tags": schema.TAG_LIST,
    "template": schema.BOOL,
    "unprivileged": schema.BOOL,
    **{f"net{number}": Rule(form=schema.NET) for number in range(32)},
    **{f"dev{number}": Rule(form=schema.DEVICE) for number in range(256)},
    **{f"mp{number}": Rule(form=schema.MOUNT) for number in range(256)},
}
# Settings of the real one that the lab can't bring about. They are refused, for silence would be a lie.
NOT_HERE: dict[str, Rule] = {
    **dict.fromkeys(
        ("cmode", "cpulimit", "cpuunits", "entrypoint", "env", "hookscript", "timezone", "tty"), schema.ANY
    ),
    **dict.fromkeys(("console", "debug"), schema.BOOL),
    **{f"unused{number}": schema.ANY for number in range(256)},
}
NOT_HERE_EITHER: dict[str, Rule] = {
    **dict.fromkeys(("password", "ssh-public-keys"), schema.ANY),
    **dict.fromkeys(("force", "ha-managed", "ignore-unpack-errors", "restore", "unique"), schema.BOOL),
}
# Verbs of the real one that the lab does not simulate.
NO_VERBS = (
    *("console", "cpusets", "df", "enter", "fstrim", "help", "migrate", "mount", "move-volume"),
    *("pull", "push", "remote-migrate", "restore", "unmount"),
)

_CREATE = {
    "ostemplate": Rule(longest=255),
    "bwlimit": schema.SPEED,
    "pool": schema.POOL,
    "start": schema.BOOL,
    "storage": schema.STORAGE,
}
_CLONE = {
    "bwlimit": schema.SPEED,
    "description": schema.ANY,
    "full": schema.BOOL,
    "hostname": schema.DNS,
    "newid": schema.VMID,
    "pool": schema.POOL,
}
_RESIZE = {"digest": schema.DIGEST, "disk": Rule(choices=DISKS), "size": Rule(pattern=r"\+?[0-9]+(\.[0-9]+)?[KMGT]?")}
_SET = {"delete": schema.ID_LIST, "digest": schema.DIGEST, "revert": schema.ID_LIST}
VERBS: dict[str, tuple[str, dict[str, Rule]]] = {
    "clone": ("vmid newid", {**_CLONE, "snapname": schema.NAME, "storage": schema.STORAGE, "target": schema.NODE}),
    "config": ("vmid", {"current": schema.BOOL, "snapshot": schema.NAME}),
    "create": ("vmid ostemplate", {**SETTINGS, **NOT_HERE, **NOT_HERE_EITHER, **_CREATE}),
    "delsnapshot": ("vmid snapname", {"force": schema.BOOL, "snapname": schema.NAME}),
    "destroy": ("vmid", {"destroy-unreferenced-disks": schema.BOOL, "force": schema.BOOL, "purge": schema.BOOL}),
    "exec": (f"vmid {REST}", {REST: schema.ANY, "keep-env": schema.BOOL}),
    "fsck": ("vmid", {"device": Rule(choices=DISKS), "force": schema.BOOL}),
    "list": ("", {}),
    "listsnapshot": ("vmid", {}),
    "pending": ("vmid", {}),
    "reboot": ("vmid", {"timeout": Rule("integer", least=0)}),
    "rescan": ("", {"dryrun": schema.BOOL, "vmid": schema.VMID}),
    "resize": ("vmid disk size", _RESIZE),
    "resume": ("vmid", {}),
    "rollback": ("vmid snapname", {"snapname": schema.NAME, "start": schema.BOOL}),
    "set": ("vmid", {**SETTINGS, **NOT_HERE, **_SET}),
    "shutdown": ("vmid", {"forceStop": schema.BOOL, "timeout": Rule("integer", least=0)}),
    "snapshot": ("vmid snapname", {"description": schema.ANY, "snapname": schema.NAME}),
    "start": ("vmid", {"debug": schema.BOOL, "skiplock": schema.BOOL}),
    "status": ("vmid", {"verbose": schema.BOOL}),
    "stop": ("vmid", {"overrule-shutdown": schema.BOOL, "skiplock": schema.BOOL}),
    "suspend": ("vmid", {}),
    "template": ("vmid", {}),
    "unlock": ("vmid", {}),
}  # fmt: skip


def command(verb: str) -> Command:
    """What a verb takes."""
    arguments, rules = VERBS[verb]
    names = arguments.split()
    return Command(f"pct {verb}", names, {**rules, **({"vmid": schema.VMID} if "vmid" in names else {})})


def verb_of(word: str) -> str:
    """The verb that a word means; it may be shortened as long as that is clear.

    Raises:
        ParameterError: There is none.
    """
    known = (*VERBS, *NO_VERBS)
    found = [word] if word in known else [verb for verb in known if verb.startswith(word)]
    if not word or len(found) != 1:
        problem = f"unknown command 'pct {word}'" if word else "no command specified"
        usage = "".join(f"       {command(verb).usage}\n" for verb in VERBS)
        raise ParameterError(f"ERROR: {problem}\nUSAGE: pct <COMMAND> [ARGS] [OPTIONS]\n\n{usage}", 255)
    if found[0] in NO_VERBS:
        raise ParameterError(f"not simulated: the lab's pct has no '{found[0]}'; the real one has", 255)
    return found[0]


def check_here(given: Given) -> None:
    """Refuse options of `pct set` and `pct create` that only the real node has."""
    if names := [name for name in given if name in NOT_HERE or name in NOT_HERE_EITHER]:
        raise Refusal(f"the lab's pct has no --{', --'.join(names)}; the real one has", 2)
