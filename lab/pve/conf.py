"""Configuration files of containers: /etc/pve/lxc/<vmid>.conf, in the real format.

A head, then the changes that wait for the next start, then one `[name]` section for each snapshot; in
each of them `#` lines with the description, `key: value` lines sorted by key, and raw `lxc.*: value`
lines in their order (pve-container, PVE/LXC/Config.pm, parser and writer).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lab.pve.errors import Refusal

FOLDER = "/etc/pve/lxc"
LIST = "/usr/share/pve-lab/lab/list-machines"
LOCKS = "/run/lock/lxc"
PENDING = "pve:pending"
SECTION = re.compile(r"^\[(pve:pending|[a-z][a-z0-9_-]+)\]\s*$", re.IGNORECASE)
RAW = re.compile(r"^(lxc\.[a-z0-9_.-]+)(?::|\s*=)\s*(|\S.*)$")
KEY = re.compile(r"^([a-z][a-z_]*[0-9]*):\s*(\S.*)$")
# The raw keys that are let through to LXC; a line with another is dropped with a warning.
LXC_KEYS = re.compile(
    r"""lxc\.( (cgroup2?|prlimit|limit|net)\..* | apparmor\.(profile|allow_incomplete|allow_nesting|raw)
    | selinux\.context | include | arch | uts\.name | signal\.(halt|reboot|stop) | init\.(cmd|cwd) | pty\.max
    | console\.(logfile|path) | tty\.max | devtty\.dir | autodev | kmsg | mount\.(fstab|entry|auto) | rootfs\.mount
    | hook\.(autodev|pre-start|pre-mount|mount|start|stop|post-stop|clone|destroy|version) | cap\.(drop|keep)
    | seccomp\.(profile|notify\.(proxy|cookie)) | idmap | log\.(level|file) | start\.(auto|delay|order) | group
    | environment(\.(runtime|hooks))?
    | sysctl\.(fs\.mqueue|kernel\.(msgmax|msgmnb|msgmni|sem|shmall|shmmax|shmmni|shm_rmid_forced)) )""",
    re.VERBOSE,
)
# What a snapshot's section does not take over from the head (pve-guest-common, AbstractConfig.pm).
NOT_IN_SNAPSHOT = ("lock", "snaptime", "snapstate")
_warned: set[str] = set()


class Section:
    """The head of a file, its pending changes, or one of the snapshots."""

    def __init__(self) -> None:
        self.description = ""
        self.values: dict[str, str] = {}
        self.raw: list[tuple[str, str]] = []

    def copy(self) -> Section:
        """The same again, without what belongs to one section only."""
        other = Section()
        other.values = {
            key: value
            for key, value in self.values.items()
            if key not in NOT_IN_SNAPSHOT and not re.fullmatch(r"unused\d+", key)
        }
        other.raw = list(self.raw)
        return other

    def text(self) -> str:
        """The section as it stands in the file."""
        lines = [f"#{escape(line)}" for line in self.description.splitlines()]
        lines += [f"{key}: {value}" for key, value in sorted(self.values.items())]
        lines += [f"{key}: {value}" for key, value in self.raw]
        return "".join(f"{line}\n" for line in lines)

    def drives(self) -> dict[str, str]:
        """The root disk and the mount points."""
        return {key: value for key, value in self.values.items() if re.fullmatch(r"rootfs|mp\d+", key)}

    def volumes(self) -> dict[str, str]:
        """The names of those that are volumes of the storage, not folders of the node; the root disk's first."""
        named = {key: value.partition(",")[0].removeprefix("volume=") for key, value in self.drives().items()}
        found = {key: place.partition(":")[2] for key, place in named.items() if not place.startswith("/")}
        return dict(sorted(found.items(), key=lambda pair: (pair[0] != "rootfs", pair[0])))


class Conf:
    """The configuration of one container."""

    def __init__(self, vmid: int) -> None:
        self.vmid = vmid
        self.head = Section()
        self.pending = Section()
        self.snapshots: dict[str, Section] = {}

    @property
    def lock(self) -> str:
        """The lock that a task holds or left behind; empty if there is none."""
        return self.head.values.get("lock", "")

    def check_lock(self) -> None:
        """Refuse if a task holds or left a lock."""
        if self.lock:
            raise Refusal(f"CT is locked ({self.lock})")

    @property
    def is_template(self) -> bool:
        """Whether the container is marked as a template, which can't run."""
        return self.head.values.get("template") == "1"

    def section(self, name: str) -> Section:
        """A snapshot's section."""
        if name not in self.snapshots:
            raise Refusal(f"snapshot '{name}' does not exist")
        return self.snapshots[name]

    def with_pending(self) -> Section:
        """The head as it will be after the next start."""
        section = self.head.copy()
        section.description = self.head.description
        section.values = {**self.head.values, **self.pending.values}
        for key in section.values.pop("delete", "").split(","):
            section.values.pop(key, None)
        return section

    def save(self) -> None:
        """Write the file, whole or not at all."""
        parts = [self.head.text()]
        parts += [f"\n[{PENDING}]\n{self.pending.text()}"] if self.pending.values else []
        parts += [f"\n[{name}]\n{section.text()}" for name, section in sorted(self.snapshots.items())]
        path = file_of(self.vmid)
        with open(f"{path}.tmp.{os.getpid()}", "w") as file:
            file.write("".join(parts))
        os.replace(f"{path}.tmp.{os.getpid()}", path)
        list_machines()


def file_of(vmid: int) -> str:
    """Path of a container's file."""
    return f"{FOLDER}/{vmid}.conf"


def all_ids() -> list[int]:
    """Numbers of all containers."""
    names = os.listdir(FOLDER) if os.path.isdir(FOLDER) else []
    return sorted(int(name[:-5]) for name in names if name.endswith(".conf") and name[:-5].isdigit())


def list_machines() -> None:
    """Let /etc/pve/.vmlist be what pmxcfs would make of the files."""
    subprocess.run([LIST], check=True, timeout=20)


def load(vmid: int) -> Conf:
    """Read a container's configuration."""
    try:
        with open(file_of(vmid)) as file:
            return parse(vmid, file.read())
    except FileNotFoundError:
        raise Refusal(f"Configuration file 'nodes/{os.uname().nodename}/lxc/{vmid}.conf' does not exist", 2) from None


def digest(vmid: int) -> str:
    """The digest of a container's file, by which a caller can say what it has read."""
    with open(file_of(vmid), "rb") as file:
        return hashlib.sha1(file.read()).hexdigest()


def parse(vmid: int, text: str) -> Conf:
    """A configuration from the text of its file; invalid lines are skipped with a warning."""
    conf = Conf(vmid)
    section = conf.head
    for line in map(str.rstrip, text.splitlines()):
        if match := SECTION.match(line):
            name = match.group(1)
            section = conf.pending if name.lower() == PENDING else conf.snapshots.setdefault(name, Section())
        elif line.startswith("#"):
            section.description += unescape(line[1:]) + "\n"
        elif (match := RAW.match(line)) and LXC_KEYS.fullmatch(match.group(1)):
            section.raw.append((match.group(1), match.group(2)))
        elif match := KEY.match(line):
            section.values[match.group(1)] = match.group(2)
        elif line.strip():
            _warn(f"vm {vmid} - unable to parse config: {line}")
    conf.head.values.pop("snapstate", None)
    return conf


def _warn(words: str) -> None:
    if words not in _warned:
        print(words, file=sys.stderr)
    _warned.add(words)


def escape(text: str) -> str:
    """Escape a line of a description: control characters, `:`, `%` and what is not ASCII, as in a URL."""
    return "".join(c if " " <= c <= "~" and c not in ":%" else "".join(f"%{b:02X}" for b in c.encode()) for c in text)


def unescape(text: str) -> str:
    """The line of a description that was escaped."""
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes([int(match.group(1), 16)]), text.encode())
    return raw.decode(errors="replace")


@contextmanager
def locked(vmid: int) -> Iterator[None]:
    """Hold the file lock of a container's configuration; after 10 s, as in the real one, give up."""
    os.makedirs(LOCKS, exist_ok=True)
    path = f"{LOCKS}/pve-config-{vmid}.lock"
    with open(path, "w") as file:
        deadline = time.monotonic() + 10
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Refusal(f"can't lock file '{path}' - got timeout") from None
                time.sleep(0.05)
        yield


@contextmanager
def held(vmid: int, lock: str) -> Iterator[None]:
    """Mark a container as locked while a task works on it; a crash leaves the mark, as in the real one."""
    with locked(vmid):
        conf = load(vmid)
        conf.check_lock()
        conf.head.values["lock"] = lock
        conf.save()
    try:
        yield
    finally:
        with locked(vmid):
            conf = load(vmid)
            conf.head.values.pop("lock", None)
            conf.save()
