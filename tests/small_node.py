"""A node in memory: containers as configuration files, and `pct` on their text. Other hands can act between calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.base.declaration import Declared, load
from fixtures.base.settings import Settings
from fixtures.proxmox import tasks
from fixtures.proxmox.command import Command
from fixtures.proxmox.conf import ABSENT, Configuration, Section, parse
from fixtures.proxmox.node import Node
from fixtures.proxmox.pmxcfs import Guest
from fixtures.proxmox.prefetched import Prefetched

POOL = "rpool/data"
DECLARATION = load(Path(__file__).parent.parent / "phoenix_lxc_configs.json")
SETTINGS: Settings = SimpleNamespace(  # type: ignore[assignment]
    shutdown_deadline=1.0, clone_deadline=1.0, boot_deadline=1.0, ready_deadline=1.0, clone_ctids=(990, 991)
)


class SmallNode(Node):
    """Answers what the engine asks before it changes something, and changes the files.

    Attributes:
        files: The configuration files by number.
        on: Who runs.
        journal: What stands in the generations' files.
        done: Every command that changed something, in order.
        err: What each command that changes something says beside it.
        before: Called with each such command before it is looked at: where other hands act, or a failure is raised.
        unreadable: Whether a configuration file can't be read.
        volumes: What the storage holds under each number.
        stored: The snapshots of 920's disk that the storage has; None for those that the configuration has.
        written: Bytes that were written since a snapshot.
        active: The tasks that run.
        elsewhere: The machines of other nodes of the cluster.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lock: Any = SimpleNamespace(held=True, invocation="run", file="lock")
        nothing = dict.fromkeys(("leave", "prefetch"), lambda *_: None)
        channel = SimpleNamespace(name="n", run=self._channel_run, prefetched=Prefetched(), **nothing)
        super().__init__(channel, 1.0, lock)  # type: ignore[arg-type]
        self.__dict__["name"] = "n"
        self.files: dict[int, str] = {}
        self.on: set[int] = set()
        self.journal: dict[str, str] = {}
        self.done: list[tuple[str, ...]] = []
        self.err = b""
        self.before: Callable[[tuple[str, ...]], None] = lambda _: None
        self.unreadable = False
        self.volumes: dict[int, list[str]] = {}
        self.stored: list[str] | None = None
        self.written = "0"
        self.active: list[dict[str, str]] = []
        self.elsewhere: dict[int, Guest] = {}
        self.time = 1000
        monkeypatch.setattr(tasks, "run", self._task)

    def _channel_run(self, argv: Sequence[str], *, stdin: bytes = b"", **_: object) -> Command:
        if stdin:
            self.journal[argv[-1]] = stdin.decode()
        return Command("n", tuple(argv), 0.0, 0.0, 0, b"", b"")

    def run(self, *argv: str, **_: object) -> Command:
        status, out = 0, b""
        if "generations" in argv[-1]:
            status, out = (0, "".join(self.journal.values()).encode()) if self.journal else (3, b"")
        elif argv[0] == "zfs":
            out = self._zfs(argv).encode()
        elif argv[0] == "sh":
            text = self.files.get(int(argv[-1]))
            status, out = (1, b"") if self.unreadable else (ABSENT, b"") if text is None else (0, text.encode())
        return Command("n", argv, 0.0, 0.0, status, out, b"")

    def _zfs(self, argv: Sequence[str]) -> str:
        """What `zfs` prints of a pool, of the snapshots of a volume, or of what was written since one."""
        if argv[1] == "get":
            return self.written
        if argv[-1] == POOL:
            held = (name.partition(":")[2] for names in self.volumes.values() for name in names)
            return "".join(f"{line}\n" for line in (POOL, *(f"{POOL}/{name}" for name in held)))
        number = int(argv[-1].split("-")[1])
        known = [*self.read(number).snapshots] if number in self.files else []
        return zfs_list(argv[-1], self.stored if self.stored is not None else known)

    def running(self, ctid: int) -> bool:
        return ctid in self.on

    def configuration(self, ctid: int) -> Configuration:
        return self.read(ctid)

    def config(self, ctid: int, snapshot: str | None = None) -> dict[str, Any]:
        found = self.read(ctid)
        section = found.sections[snapshot] if snapshot else found.head
        return {**section.values, "description": section.description}

    def guests(self) -> dict[int, Guest]:
        return {**self.elsewhere, **{ctid: Guest("lxc", "n") for ctid in self.files}}

    def storage(self, name: str) -> dict[str, Any]:
        return {"type": "zfspool", "pool": POOL}

    def get(self, path: str, **parameters: str) -> Any:
        assert path == "tasks"
        asked = parameters.get("vmid")  # of which pvesh tells no task that names no guest
        found = [each for each in self.active if asked in (None, each["id"])]
        return found[: int(parameters.get("limit", 50))]

    def read(self, ctid: int) -> Configuration:
        return parse(self.files[ctid].encode())

    def write(self, ctid: int, found: Configuration) -> None:
        sections = [("", found.head), *found.sections.items()]
        self.files[ctid] = "\n".join(_text(name, section) for name, section in sections)

    def snapshot(self, ctid: int, name: str, description: str) -> None:
        """Take a snapshot by hand, or by `pct`."""
        found, self.time = self.read(ctid), self.time + 1
        found.sections[name] = Section(description, {**found.head.values, "snaptime": str(self.time)})
        self.write(ctid, found)

    def delete(self, ctid: int, name: str) -> None:
        """Delete a snapshot by hand, or by `pct`."""
        found = self.read(ctid)
        del found.sections[name]
        self.write(ctid, found)

    def _task(self, _: object, ctid: int, argv: tuple[str, ...], *, expected: str, **__: object) -> Command:
        self.before(argv)
        text = self.files.get(ctid)
        now = tasks.ABSENT if text is None else sha256(text.encode()).hexdigest()
        assert expected == now, "the node refuses: the configuration has changed"
        self.done.append(argv)
        match argv:
            case ["pct", "snapshot", _, name, _, description]:
                self.snapshot(ctid, name, description)
            case ["pct", "delsnapshot", _, name]:
                self.delete(ctid, name)
            case ["pct", "destroy", *_]:
                del self.files[ctid]
            case ["pct", "unlock", _]:
                found = self.read(ctid)
                found.head.values.pop("lock")
                self.write(ctid, found)
            case ["pvesm", "free", volume]:
                self.volumes[ctid].remove(volume)
            case ["pct", "stop" | "shutdown", *_]:
                self.on.discard(ctid)
            case ["pct", "start", *_]:
                self.on.add(ctid)
            case ["pvesh", "set", path, _, description]:
                found = self.read(ctid)
                name = path.split("/")[-2]
                found.sections[name] = replace(found.sections[name], description=description)
                self.write(ctid, found)
        return Command("n", argv, 0.0, 0.0, 0, b"", self.err)

    @property
    def verbs(self) -> list[str]:
        """The commands that changed something, in short."""
        return [" ".join((*words[:2], *words[3:4])) for words in self.done]


def zfs_list(dataset: str, snapshots: Iterable[str], clones: str = "-") -> str:
    """What `zfs list -H -p -t snapshot -o name,guid,createtxg,clones` prints (OpenZFS 2.3)."""
    return "".join(f"{dataset}@{name}\t{number}\t4{number}\t{clones}\n" for number, name in enumerate(snapshots, 1))


def _text(name: str, section: Section) -> str:
    values = (f"{key}: {value}\n" for key, value in section.values.items())
    description = f"#{section.description.replace('%', '%25')}\n" if section.description else ""
    return (f"[{name}]\n" if name else "") + description + "".join(values)


def conf_of(declared: Declared, description: str, **more: str) -> str:
    """The configuration file of a container that is as declared."""
    values = {
        "hostname": declared.name,
        "memory": declared.memory_mb,
        "cores": declared.cores,
        "features": declared.features,
        "net0": declared.net0,
        "rootfs": f"{declared.storage_pool}:subvol-{declared.ctid}-disk-0,size={declared.storage_size_gb}G",
        **more,
    }
    return f"#{description}\n" + "".join(f"{key}: {value}\n" for key, value in values.items())
