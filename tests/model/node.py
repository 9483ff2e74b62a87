"""A Proxmox VE node in memory: it answers the commands that the suite's engine sends.

Configuration and storage are kept apart, as on a real node, so they can disagree. Beside what the suite can see
stands the truth that it can't see: who made each container, volume and snapshot. Each command of a run is judged
by that truth at the moment when it takes effect; what it must not have done is noted in `violations`.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import shlex
import tarfile
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from fixtures.proxmox import conf, docker, pmxcfs, tasks
from fixtures.proxmox.address import ASK
from fixtures.proxmox.conf import ABSENT
from fixtures.proxmox.container import ENVIRONMENT
from fixtures.proxmox.tasks import HEARD, REFUSED, START
from fixtures.remote.container_probe import digest
from fixtures.template import generations
from fixtures.template.ephemeral_clone import KNOCK
from fixtures.template.record_store import INSIDE, KEEP, PUT, READ
from tests import pve_files

POOL, STORAGE, NODE = "rpool/data", "lxc-disks", "pve"
OTHERS = "others"  # who made what no run of the suite has made
TEMPLATE, PARENT, NAME, PARENT_SNAPSHOT = 920, 903, "vllm-base-snapshot", "docker-gpu-snapshot"
COUNTER = itertools.count(1)
BEGINNING = 1_795_000_000  # seconds since 1970; no two snapshots are taken in the same second
# What a section of a snapshot does not hold (pve-guest-common, AbstractConfig.pm)
NOT_IN_SNAPSHOT = ("lock", "parent", "unused")
CHANGES = (
    *("clone", "delsnapshot", "describe", "destroy", "free", "resize", "set"),
    *("shutdown", "snapshot", "start", "stop", "unlock"),
)
NOT_TO_ADOPTED = ("set", "resize", "stop", "destroy")
# What a run has to know of a container, from the last reading, before it changes it in this way
NEEDS = {
    **dict.fromkeys(("set", "resize", "shutdown", "start", "unlock", "free"), ("config",)),
    **dict.fromkeys(("snapshot", "delsnapshot", "describe", "clone"), ("snapshots",)),
    **dict.fromkeys(("stop", "destroy"), ("config", "snapshots")),
}


class Refused(Exception):  # noqa: N818 - what a command says when it ends with another status than 0
    """A command refuses: its exit status and words."""

    def __init__(self, words: str, status: int = 255) -> None:
        super().__init__(words)
        self.status = status


@dataclass
class Volume:
    """A volume of the storage.

    Attributes:
        files: What the suite has written into it.
        snapshots: The guid of each of its snapshots, by name.
        written: How much was ever written to it.
        marks: How much that was when each snapshot was taken.
    """

    maker: str
    size: str = "32G"
    files: dict[str, bytes] = field(default_factory=dict)
    snapshots: dict[str, int] = field(default_factory=dict)
    written: int = 0
    marks: dict[str, int] = field(default_factory=dict)


@dataclass
class Snapshot:
    """A section of a configuration; `guid` is its storage snapshot's when it was taken."""

    maker: str
    config: dict[str, str]
    description: str
    taken: int
    state: str = ""
    guid: int = 0


@dataclass
class Guest:
    """A container.

    Attributes:
        like_declared: Whether others made it as it is declared, so that it may be adopted.
        locker: Who has made the task that has locked it.
    """

    maker: str
    config: dict[str, str]
    description: str = ""
    running: bool = False
    like_declared: bool = False
    locker: str = OTHERS
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    born: int = field(default_factory=lambda: next(COUNTER))

    @property
    def volumes(self) -> list[str]:
        """The volumes that its configuration names, those of mount points and unused ones included."""
        names = ("rootfs", "mp", "unused")
        found = [value.partition(",")[0] for key, value in self.config.items() if key.startswith(names)]
        return [volume for volume in found if volume.startswith(f"{STORAGE}:")]

    def text(self) -> str:
        """Its file below /etc/pve/lxc, as pve-container writes it (PVE/LXC/Config.pm)."""
        blocks = [_block(self.description, self.config)]
        for name, each in sorted(self.snapshots.items()):
            extra = {"snaptime": str(each.taken), **({"snapstate": each.state} if each.state else {})}
            blocks.append(f"[{name}]\n{_block(each.description, {**each.config, **extra})}")
        return "\n".join(blocks)


def _block(description: str, config: dict[str, str]) -> str:
    notes = "".join(f"#{urllib.parse.quote(line, safe=' @,;=()/<>+')}\n" for line in description.splitlines())
    return notes + "".join(f"{key}: {value}\n" for key, value in sorted(config.items()))


@dataclass
class Run:
    """A run of the suite, as the truth has it.

    Attributes:
        maker: Its id.
        works_on: Whose the template was when it first changed it: one of others is adopted if it is as declared.
        began: What was made before has a lower number.
    """

    maker: str
    mode: str
    accept: int | None
    works_on: str = ""
    began: int = field(default_factory=lambda: next(COUNTER))


@dataclass
class Task:
    """A change on the node: what is noted of it, how many commands later it is done, and how it ends."""

    noted: str
    wait: int = 0
    finish: Callable[[], int] = lambda: 0
    status: int | None = None


@dataclass
class ModelNode:
    """The node.

    Attributes:
        run: The run that works on it in this moment.
        lock: Who holds the lock of the suite's runs on the template.
        by_hand: The guids of the snapshots that others took.
        stored_at: When the storage was last asked for snapshots.
        accepted: The runs whose snapshot was accepted.
        dead: Whether the run's process has been killed.
        torn: Whether a change that dies half way leaves the storage ahead of the configuration, else behind it.
        judged: Whether what is done in this moment was judged before.
        known: Whether the last reading of a fact of a container told it.
        active: The containers that a task of others works on.
        tasks: Changes whose end no run has heard.
        before: Called before each command with its kind; what others do is done there. It returns a fault.
        trace: What was run and what came of it.
        violations: What a run did that it must not.
    """

    guests: dict[int, Guest] = field(default_factory=dict)
    volumes: dict[str, Volume] = field(default_factory=dict)
    records: dict[str, bytes] = field(default_factory=dict)
    run: Run | None = None
    lock: str = ""
    by_hand: set[int] = field(default_factory=set)
    stored_at: int = 0
    accepted: set[str] = field(default_factory=set)
    known: dict[tuple[str, int], bool] = field(default_factory=dict)
    before: Callable[[str], str] = lambda _: ""
    active: set[int] = field(default_factory=set)
    tasks: list[Task] = field(default_factory=list)
    generations: dict[str, str] = field(default_factory=dict)
    judged: bool = False
    torn: bool = False
    dead: bool = False
    trace: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    # --- the truth ----------------------------------------------------------------------------------

    def blame(self, what: str) -> None:
        """Note what the run must not have done, with what led to it."""
        self.violations.append(f"{what}\n" + "\n".join(f"    {line}" for line in self.trace[-40:]))

    def on_storage(self, guest: Guest, name: str) -> bool:
        """Whether a snapshot of a container is whole in its configuration and on the storage."""
        found, root = guest.snapshots.get(name), self.volumes.get(guest.volumes[0]) if guest.volumes else None
        return bool(found and not found.state and root and root.snapshots.get(name) == found.guid)

    def good(self) -> set[str]:
        """The whole snapshots of the template that were accepted, or are generations of such."""
        guest = self.guests.get(TEMPLATE)
        names = guest.snapshots.items() if guest else ()
        return {n for n, each in names if guest and each.maker in self.accepted and self.on_storage(guest, n)}

    def judge(  # noqa: PLR0912 - one line a rule
        self, verb: str, number: int, snapshot: Snapshot | None = None, source: int = 0
    ) -> None:
        """Note whether the run may change a container in this way, or make it of another, just before it does."""
        run, guest = self.run, self.guests.get(number)
        if run is None or self.judged:
            return
        if run.mode == "verify":
            self.blame(f"`{verb} {number}` by a run that was only to compare")
        if self.lock != run.maker:
            self.blame(f"`{verb} {number}` by a run that has lost its lock")
        unknown = [fact for fact in NEEDS[verb] if not self.known.get((fact, source or number))]
        if unknown:
            self.blame(f"`{verb} {number}` though a fact about it could not be read ({', '.join(unknown)})")
        if guest is None or verb == "clone":
            return
        if verb == "unlock":
            if guest.locker == OTHERS:
                self.blame(f"`unlock {number}`: a task of others has locked it")
            return
        if number not in (TEMPLATE, run.accept, *range(990, 1000)):
            self.blame(f"`{verb} {number}`: it has nothing to do with this run")
        elif number == run.accept and guest.maker != run.maker:
            self.blame(f"`{verb} {number}`: this run has not made it")
        elif number == TEMPLATE and not run.works_on:
            run.works_on = OTHERS if guest.maker == OTHERS else "ours"
        if guest.maker == OTHERS and not (
            guest.like_declared and run.works_on == OTHERS and verb not in NOT_TO_ADOPTED
        ):
            self.blame(f"`{verb} {number}`: others made it")
        if verb in ("stop", "destroy"):
            self._judge_removal(verb, number, guest, run)
        if snapshot and snapshot.maker == OTHERS:
            self.blame(f"`{verb} {number}`: others made that snapshot")
        if snapshot and verb == "describe" and snapshot.maker != run.maker and snapshot.guid > run.began:
            self.blame(f"`{verb} {number}`: another run has made that snapshot meanwhile")

    def _judge_removal(self, verb: str, number: int, guest: Guest, run: Run) -> None:
        volumes = [self.volumes[each] for each in guest.volumes if each in self.volumes]
        by_hand = [name for name, each in guest.snapshots.items() if each.maker == OTHERS]
        # one that only the storage has, and that came after it was asked, is not to be seen: no digest holds it
        seen = {guid for guid in self.by_hand if guid < self.stored_at}
        by_hand += [f"@{name}" for each in volumes for name, guid in each.snapshots.items() if guid in seen]
        if number == TEMPLATE and run.mode != "rebuild-clone" and "rootfs" in guest.config:  # a half-made one may go
            self.blame(f"`{verb} {number}` in a run that was not asked for it")
        if guest.maker == OTHERS or guest.config.get("protection") == "1":
            self.blame(f"`{verb} {number}`: it is protected, or others made it")
        if by_hand or any(each.maker == OTHERS for each in volumes):
            self.blame(f"`{verb} {number}`: what others made goes with it (of {by_hand}, {guest.volumes})")

    # --- a command ----------------------------------------------------------------------------------

    def call(self, argv: Sequence[str], stdin: bytes = b"") -> tuple[int, bytes, bytes, str]:
        """Run a command.

        Returns:
            Exit status, output, words of error, and the fault that hinders the caller in hearing of it.
        """
        task, argv = Task(""), list(argv)
        guard: list[str] = []
        if argv[:3] == ["sh", "-c", START]:
            task, guard, argv = Task(argv[6]), argv[7:11], argv[11:]
        kind, number = kind_of(argv)
        fault = self.before(kind)
        self.torn = fault == "torn"
        if fault in ("half", "torn"):
            fault = "half" if kind in CHANGES else "refused"
        shown = [f"({kind})", *argv[4:]] if argv[:2] == ["sh", "-c"] else argv
        label, good = shlex.join(shown).replace(shlex.join(ENVIRONMENT), "...")[:130], self.good()
        self._let_tasks_go_on()
        if fault in NOT_DONE or (fault == "slow" and kind not in CHANGES):
            status, out, err = 255, "", "it fails, as the model wants it"
        elif guard and (reason := self._refusal(*guard)):
            status, out, err = REFUSED, "", reason
        elif fault == "slow":
            status, out, err = 255, "", ""
            self._begin(task, kind, number, argv)
        else:
            status, out, err = self._run(kind, number, argv, stdin, half=fault == "half")
            if fault.endswith("after") and task.noted:
                self.tasks.append(replace(task, status=status))
            out = f"{HEARD}\n" if guard else out
        self.trace.append(f"{label}{f'  !! {fault}' if fault else ''}  -> {status} {(err or out)[:60]!r}")
        self._judge_what_is_left(kind, good)
        for fact in FACTS.get(kind, ()):
            heard = not fault or fault == "interrupted after"  # which waits while the template is sealed
            self.known[fact, number] = status in (0, ABSENT) and heard
        return status, _spoiled(out, fault).encode(), err.encode(), fault

    def _judge_what_is_left(self, kind: str, good: set[str]) -> None:
        if self.run and kind in CHANGES and good and not self.good() and (self.run.mode, kind) != OWN_WISH:
            self.blame(f"`{kind}` left no accepted snapshot and no generation of one")

    def _refusal(self, file: str, digest: str, lock: str, invocation: str) -> str:
        """Why the program that starts a task on the node does not."""
        guest = self.guests.get(int(file.rpartition("/")[2].partition(".")[0]))
        if any(task.status is None for task in self.tasks):
            return "a command of an earlier run is still running"
        if digest != (sha256(guest.text().encode()).hexdigest() if guest else "absent"):
            return f"{file} has changed since it was read"
        return "" if invocation == self.lock else f"this run has lost its lock {lock}"

    def _let_tasks_go_on(self, *, to_their_end: bool = False) -> None:
        for task in self.tasks:
            task.wait -= 1
            if task.status is None and (task.wait < 0 or to_their_end):
                task.status = task.finish()

    def _begin(self, task: Task, kind: str, number: int, argv: list[str]) -> None:
        """Begin a change that goes on for some commands; its container is locked meanwhile."""
        run, guest = self.run, self.guests.get(number)
        if guest is None or "lock" in guest.config:
            return
        if kind == "clone":
            self.judge(kind, int(argv[3]), source=number)
        else:
            self.judge(kind, number, guest.snapshots.get(snapshot_in(argv)))
        held = TASK_LOCKS.get(kind)
        if held:
            self.hold(guest, held)

        def finish() -> int:
            if self.guests.get(number) is not guest:
                return 255
            if held and guest.config.get("lock") == held:
                del guest.config["lock"]
            before, good = (self.run, self.judged), self.good()
            self.run, self.judged = run, True
            status, _, words = self._run(kind, number, argv, b"", half=False)
            self.trace.append(f"    `{kind} {number}` comes to its end -> {status} {words}")
            self._judge_what_is_left(kind, good)
            self.run, self.judged = before
            return status

        self.tasks.append(replace(task, wait=3, finish=finish))

    def _run(self, kind: str, number: int, argv: Sequence[str], stdin: bytes, half: bool) -> tuple[int, str, str]:
        handler = getattr(self, f"do_{kind}", None)
        if handler is None:
            self.blame(f"the model does not know a command ({shlex.join(argv)[:600]})")
            return 127, "", "unknown"
        try:
            words, options = parse(argv)
            said = (
                handler(number, words, options, stdin) if kind not in CHANGES else handler(number, words, options, half)
            )
        except Refused as error:
            return error.status, "", str(error)
        return (255, "", "it died half way") if half and kind in CHANGES else (0, said or "", "")

    def by_others(self, act: Callable[[ModelNode], None]) -> None:
        """Let others act, who are judged by nobody."""
        run, self.run = self.run, None
        act(self)
        self.run = run

    def guest(self, number: int) -> Guest:
        """A container of the node."""
        if number not in self.guests:
            raise Refused(f"Configuration file 'nodes/{NODE}/lxc/{number}.conf' does not exist", 2)
        return self.guests[number]

    def hold(self, guest: Guest, lock: str) -> None:
        """Lock a container, as a task does."""
        guest.config["lock"], guest.locker = lock, self.maker

    def unlocked(self, number: int) -> Guest:
        """A container of the node that no task has locked."""
        guest = self.guest(number)
        if lock := guest.config.get("lock"):
            raise Refused(f"CT is locked ({lock})")
        return guest

    # --- what only reads ----------------------------------------------------------------------------

    def do_version(self, *_: Any) -> str:
        return "pve-manager/9.2.11/abc (running kernel: 6.17.2-1-pve)"

    def do_name(self, *_: Any) -> str:
        return NODE

    def do_files(self, *_: Any) -> str:
        return pve_files.files({number: guest.text() for number, guest in self.guests.items()}, NODE)

    def do_sockets(self, *_: Any) -> str:
        return pve_files.sockets(*(number for number, guest in self.guests.items() if guest.running))

    def do_storages(self, *_: Any) -> str:
        sizes = {"total": 900 << 30, "avail": 500 << 30, "used": 400 << 30}
        return json.dumps([{"storage": STORAGE, "type": "zfspool", "active": 1, "enabled": 1, **sizes}])

    def _snapshot(self, number: int, name: str) -> Snapshot:
        found = self.guest(number).snapshots
        if name not in found:
            raise Refused(f"snapshot '{name}' does not exist")
        return found[name]

    def do_conf(self, number: int, *_: Any) -> str:
        if number not in self.guests:
            raise Refused("", ABSENT)
        return self.guests[number].text()

    def do_told(self, _number: int, words: list[str], *_: Any) -> str:
        if int(words[-2 if words[-1] in ("forget", "") else -1]):
            self._let_tasks_go_on(to_their_end=True)
        states = ["running" if task.status is None else str(task.status) for task in self.tasks]
        said = "".join(f"{state}  {task.noted}\n" for state, task in zip(states, self.tasks, strict=True))
        if words[-1] == "forget":
            self.tasks = [task for task in self.tasks if task.status is None]
        return said

    def do_read_generations(self, *_: Any) -> str:
        if not self.generations:
            raise Refused("", ABSENT)
        return "".join(self.generations.values())

    def do_write_generation(self, number: int, words: list[str], options: dict[str, str], stdin: bytes) -> str:
        self.generations[words[-1]] = stdin.decode()
        return ""

    def do_zfs(self, _number: int, words: list[str], options: dict[str, str], _stdin: bytes) -> str:
        since = next(word.partition("@")[2] for word in words if word.startswith("written@"))
        found = self._dataset(words[-1])
        if since not in found.snapshots:
            raise Refused(f"cannot open '{words[-1]}@{since}': dataset does not exist", 1)
        return str(found.written - found.marks.get(since, 0))

    def do_stored(self, _number: int, words: list[str], *_: Any) -> str:
        self.stored_at, found = next(COUNTER), self._dataset(words[-1])
        return "".join(f"{words[-1]}@{name}\t{mark}\t{mark}\t-\n" for name, mark in found.snapshots.items())

    def _dataset(self, name: str) -> Any:
        found = self.volumes.get(f"{STORAGE}:{name.removeprefix(f'{POOL}/')}")
        if found is None:
            raise Refused(f"cannot open '{name}': dataset does not exist", 1)
        return found

    def do_volumes(self, *_: Any) -> str:
        return f"{POOL}\n" + "".join(f"{POOL}/{each.partition(':')[2]}\n" for each in self.volumes)

    def do_active(self, number: int, *_: Any) -> str:
        """A task of each container that is worked on, or of that number."""
        own = {json.loads(task.noted)["ctid"] for task in self.tasks if task.status is None} | self.active
        found = sorted(own & {number} if number else own)
        return json.dumps([{"upid": f"UPID:pve:{each}", "id": str(each)} for each in found])

    def do_other_node(self, *_: Any) -> str:
        raise Refused("hostname lookup failed - failed to get address info: Temporary failure in name resolution", 11)

    def do_links(self, *_: Any) -> str:
        return "lo   UNKNOWN  00:00:00:00:00:00 <LOOPBACK,UP>\nvmbr0   UP   <BROADCAST>\n"

    def do_path(self, *_: Any) -> str:
        raise Refused("no path", 1)  # as on a storage whose files can't be seen

    def do_knock(self, *_: Any) -> str:
        raise Refused("", 1)  # nobody answers

    def do_ask_around(self, *_: Any) -> str:
        return "Sent 1 probes (1 broadcast(s))\nReceived 0 response(s)\n"

    def do_keep_record(self, number: int, words: list[str], options: dict[str, str], stdin: bytes) -> str:
        self.records[words[-1]] = stdin
        return ""

    def do_read_record(self, number: int, words: list[str], *_: Any) -> str:
        if words[-1] not in self.records:
            raise Refused("", 3)
        return self.records[words[-1]].decode()

    def do_exec(self, number: int, words: list[str], options: dict[str, str], stdin: bytes) -> str:
        guest = self.guest(number)
        if not guest.running:
            raise Refused(f"container '{number}' not running!")
        files = self.volumes[guest.volumes[0]].files
        match words[words.index(ENVIRONMENT[-1]) + 1 :]:
            case ["systemctl", "is-system-running"]:
                return "running"
            case ["sh", "-c", script, *_] if script == PUT:
                with tarfile.open(fileobj=io.BytesIO(stdin)) as archive:
                    files.update({each.name: archive.extractfile(each).read() for each in archive})  # type: ignore[union-attr]
            case ["cat", path] if path.startswith(INSIDE):
                if (name := path.rpartition("/")[2]) not in files:
                    raise Refused(f"cat: {path}: No such file or directory", 1)
                return files[name].decode()
            case ["python3", "-", *_]:
                return self._content(files)
            case ["sh", "-c", script, *_] if script == docker.LIST:
                return docker.WHOLE
            case ["df", *_]:
                return "Used\n1000000"
        return ""

    def _content(self, files: dict[str, bytes]) -> str:
        """What the suite's script that looks inside says."""
        packages: dict[str, str] = {}
        image = {"name": "vllm/vllm-openai:latest", "id": "sha256:x", "digest": "x"}
        model = {"name": "m", "folder": "", "revision": "", "files": {}}
        stated = {"count": 0, "sha256": digest(packages)}
        template = {"image": image, "model": model, "files": {}, "software": {}, "packages": stated}
        kept = {name: sha256(text).hexdigest() for name, text in files.items()}
        around = {"kernel": "6.17", "driver": "580", "gpus": {}}
        return json.dumps({"template": template, "around": around, "packages": packages, "kept": kept, "read": {}})

    # --- what changes something ---------------------------------------------------------------------

    @property
    def maker(self) -> str:
        """Who acts in this moment."""
        return self.run.maker if self.run else OTHERS

    def allocate(self, number: int, size: str, files: dict[str, bytes] | None = None) -> str:
        """A new volume of a container."""
        names = (f"{STORAGE}:subvol-{number}-disk-{each}" for each in itertools.count())
        name = next(each for each in names if each not in self.volumes)
        self.volumes[name] = Volume(self.maker, size, dict(files or {}))
        return name

    def do_clone(self, number: int, words: list[str], options: dict[str, str], half: bool) -> None:
        source, target = self.unlocked(number), int(words[3])
        if target in self.guests:
            raise Refused(f"CT {target} already exists on node '{NODE}'")
        of = self._snapshot(number, options["snapname"])
        self.judge("clone", target, source=number)
        config = {**of.config, "hostname": options.get("hostname", of.config["hostname"])}
        config["net0"] = config["net0"].replace("hwaddr=52:54:00", f"hwaddr=BC:{next(COUNTER) % 90 + 10}:11")
        made = self.guests[target] = Guest(self.maker, config, options.get("description", of.description))
        for key in [key for key in config if key.startswith(("rootfs", "mp"))]:
            volume, _, rest = config[key].partition(",")
            old = self.volumes[volume]
            config[key] = f"{self.allocate(target, old.size, old.files)},{rest}"
        if half:  # its worker died: the volume is an orphan, and both stay locked
            config.pop("rootfs")
            self.hold(made, "create")
            self.hold(source, "disk")

    def do_set(self, number: int, words: list[str], options: dict[str, str], half: bool) -> None:
        guest = self.unlocked(number)
        self.judge("set", number)
        guest.description = options.pop("description", guest.description)
        for key, value in list(options.items())[: 2 if half else None]:
            guest.config[key] = value

    def do_resize(self, number: int, words: list[str], options: dict[str, str], half: bool) -> None:
        guest = self.unlocked(number)
        self.judge("resize", number)
        if not half:
            guest.config["rootfs"] = f"{guest.config['rootfs'].partition(',')[0]},size={words[4]}"

    def do_start(self, number: int, words: list[str], options: dict[str, str], half: bool) -> None:
        guest = self.unlocked(number)
        if guest.running:
            raise Refused(f"CT {number} already running")
        self.judge("start", number)
        if half:
            return
        guest.running = True
        for volume in guest.volumes[:1]:
            self.volumes[volume].written += 1

    def do_stop(self, number: int, words: list[str], options: dict[str, str], half: bool) -> None:
        guest = self.unlocked(number)
        if not guest.running:
            raise Refused(f"CT {number} not running")
        self.judge(words[1], number)
        guest.running = half and words[1] == "shutdown"  # one that does not stop in time

    do_shutdown = do_stop

    def do_destroy(self, number: int, words: list[str], options: dict[str, str], half: bool) -> None:
        guest = self.unlocked(number)
        if guest.config.get("protection") == "1":
            raise Refused(f"can't remove CT {number} - protection mode enabled")
        if guest.running:
            raise Refused(f"container {number} is running")
        self.judge("destroy", number)
        for volume in guest.volumes[: 0 if half else None]:
            self.volumes.pop(volume, None)
        if half:
            self.hold(guest, "destroyed")
        else:
            del self.guests[number]

    def do_unlock(self, number: int, words: list[str], options: dict[str, str], half: bool) -> None:
        guest = self.guest(number)
        self.judge("unlock", number)
        guest.config.pop("lock", None)

    def do_free(self, number: int, words: list[str], options: dict[str, str], half: bool) -> None:
        if self.volumes[words[2]].maker == OTHERS:
            self.blame(f"`free {words[2]}`: others made it")
        self.judge("free", number)
        del self.volumes[words[2]]

    def do_snapshot(self, number: int, words: list[str], options: dict[str, str], half: bool) -> None:
        guest, name = self.unlocked(number), words[3]
        if name in guest.snapshots:
            raise Refused(f"snapshot name '{name}' already used")
        if any(value.startswith("/") for key, value in guest.config.items() if key.startswith("mp")):
            raise Refused("snapshot feature is not available")
        self.judge("snapshot", number)
        if any(name in self.volumes[each].snapshots for each in guest.volumes if each in self.volumes):
            raise Refused(f"zfs error: cannot create snapshot '{POOL}/...@{name}': dataset already exists")
        self.take(guest, name, options.get("description", ""), half=half)

    def take(self, guest: Guest, name: str, description: str, half: bool = False) -> Snapshot:
        """Take a snapshot, or begin to."""
        config = {key: value for key, value in guest.config.items() if not key.startswith(NOT_IN_SNAPSHOT)}
        guid = next(COUNTER)
        made = Snapshot(self.maker, config, description, BEGINNING + guid, guid=guid)
        guest.snapshots[name] = made
        if made.maker == OTHERS:
            self.by_hand.add(guid)
        if half and not self.torn:
            made.state = "prepare"
            self.hold(guest, "snapshot")
            return made
        if half:
            del guest.snapshots[name]
        for volume in (self.volumes[each] for each in guest.volumes if each in self.volumes):
            volume.snapshots[name], volume.marks[name] = made.guid, volume.written
        guest.config["parent"] = name
        return made

    def do_delsnapshot(self, number: int, words: list[str], options: dict[str, str], half: bool) -> None:
        guest, found = self.unlocked(number), self._snapshot(number, words[3])
        self.judge("delsnapshot", number, found)
        if self.run and self.run.mode == "plain" and words[3] == NAME and NAME in self.good():
            self.blame(f"`delsnapshot {number} {words[3]}` of an accepted snapshot by a run that was not to rebuild")
        volumes = [self.volumes[each] for each in guest.volumes if each in self.volumes]
        gone = any(words[3] not in each.snapshots for each in volumes) and "--force" not in words
        if not (half or gone) or self.torn:
            for volume in volumes:
                volume.snapshots.pop(words[3], None)
        if half or gone:
            found.state = "delete"
            self.hold(guest, "snapshot-delete")
            if gone:
                raise Refused(f"zfs error: could not find any snapshots to destroy: {words[3]}")
            return
        del guest.snapshots[words[3]]

    def do_describe(self, number: int, words: list[str], options: dict[str, str], half: bool) -> None:
        name = words[2].split("/")[-2]
        found = self._snapshot(number, name)
        self.judge("describe", number, found)
        if half:
            return
        found.description = options["description"]
        if self.run and " accepted " in found.description:
            self.accepted.add(found.maker)


# What a task writes into `lock:` while it goes on (pve-container, API2/LXC.pm and API2/LXC/Snapshot.pm)
TASK_LOCKS = {"clone": "disk", "snapshot": "snapshot", "delsnapshot": "snapshot-delete", "destroy": "destroyed"}
NOT_DONE = ("refused", "lost", "late", "killed", "interrupted")
OWN_WISH = ("rebuild-clone", "destroy")  # whoever asks for it wants all of the old one gone
FACTS = {"conf": ("config", "snapshots")}
ALWAYS_THERE = ("vmid", "status", "name", "description", "snaptime", "rootfs")  # in what `pvesh` answers
PATHS = (
    (r"/nodes/pve/tasks", "active"),
    (r"/nodes/pve/storage", "storages"),
    (r"/nodes/pve/lxc/(\d+)/snapshot/[\w-]+/config", "describe"),
)
SCRIPTS = {
    conf.READ: "conf",
    pmxcfs.READ: "files",
    pmxcfs.SOCKETS: "sockets",
    tasks.TOLD: "told",
    generations.READ: "read_generations",
    generations.WRITE: "write_generation",
    KEEP: "keep_record",
    READ: "read_record",
    KNOCK: "knock",
    ASK: "ask_around",
}


def kind_of(argv: Sequence[str]) -> tuple[str, int]:  # noqa: PLR0911, PLR0912 - one line a kind
    """What a command is about, in a word, and the container that it speaks of."""
    match list(argv):
        case ["pveversion"]:
            return "version", 0
        case ["hostname"]:
            return "name", 0
        case ["pvesh", "get", path, *_] if not path.startswith(("/nodes/pve", "/cluster", "/storage")):
            return "other_node", 0
        case ["pvesh", "get" | "set" as verb, path, *_]:
            found = [(kind, match) for each, kind in PATHS if (match := re.fullmatch(each, path))]
            for kind, match in found:
                if (kind == "describe") == (verb == "set"):
                    number = argv[argv.index("--vmid") + 1] if "--vmid" in argv else 0
                    return kind, int(match[1] if match.lastindex else number)
        case ["pct", verb, number, *_]:
            return verb, int(number)
        case ["lxc-attach", "-n", number, *_]:
            return "exec", int(number)
        case ["zfs", verb, *_, dataset]:
            return ("zfs" if verb == "get" else "volumes" if dataset == POOL else "stored"), 0
        case ["ip", *_]:
            return "links", 0
        case ["pvesm", "path", _] | ["uname" | "curl" | "test" | "dmesg", *_]:
            return "path", 0
        case ["pvesm", "free", volume, *_] if owner := re.search(r"-(\d+)-disk", volume):
            return "free", int(owner[1])
        case ["sh", "-c", script, *_] if script in SCRIPTS:
            return SCRIPTS[script], int(argv[-1]) if script == conf.READ else 0
    return "unknown", 0


def snapshot_in(argv: Sequence[str]) -> str:
    """The snapshot that a command changes; empty if it changes none."""
    match argv:
        case ["pct", "delsnapshot", _, name, *_]:
            return name
        case ["pvesh", "set", path, *_]:
            return path.split("/")[-2]
    return ""


def _spoiled(out: str, fault: str) -> str:
    """An answer as a fault leaves it: no JSON, nothing, or without a field that is always there."""
    if fault == "garbled":
        return "<html>502 Bad Gateway</html>"
    if fault == "hollow" and out.startswith(("[", "{")):
        found = json.loads(out)
        for row in found if isinstance(found, list) else [found]:
            if key := next((key for key in ALWAYS_THERE if key in row), ""):
                del row[key]
        return json.dumps(found)
    if fault == "cut":
        return out[: len(out) // 2]
    if fault in ("empty", "hollow"):
        return "[]" if out.startswith("[") else "{}" if out.startswith("{") else ""
    return out


def parse(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The words of a command and its options; what follows `--` are words."""
    words: list[str] = []
    options: dict[str, str] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return words + rest, options
        if word.startswith("--") and rest and argv[0] in ("pct", "pvesh", "pvesm"):
            options[word[2:]] = rest.pop(0)
        else:
            words.append(word)
    return words, options
