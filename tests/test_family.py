"""The family: who descends from what, what fits the driver, and what is only not known; over doubles of a node."""

from __future__ import annotations

import importlib
import io
import json
import re
import tarfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.base.errors import Inconclusive
from fixtures.gpu import node_gpus, reboot
from fixtures.proxmox import disk, pmxcfs
from fixtures.proxmox.command import Command, DeadlineExceeded
from fixtures.proxmox.node import Node
from fixtures.remote import container_probe
from fixtures.run.ledger import Ledger
from fixtures.run.stages import declared_checks
from fixtures.template import descendant, kept, manifest, record_store
from fixtures.template import family as families
from fixtures.template.descendant import RECORD, USERSPACE, Descendant
from fixtures.template.family import Family
from fixtures.template.generations import Generation
from tests import pve_files
from tests.suite_run import TOP, Suite
from tests.test_verify import FOUND

DRIVER = "580.76.05"
judge = importlib.import_module("tests_920.test_095_family").test_descendant_is_sound
SNAPSHOT = "vllm-base-snapshot"


def manifest_of(number: int) -> str:
    """The manifest of a generation."""
    found = deepcopy(FOUND)
    found["template"]["software"]["docker"] = f"26.{number}"
    found["around"]["driver"] = DRIVER
    node: Any = SimpleNamespace(version="pve-manager/9 (running kernel: 6.8)")
    return manifest.to_json(manifest.make(node, {"memory": 4096}, found, {"caches": []}))


def digest_of(text: str) -> str:
    return manifest.digest(manifest.from_json(text))


MANIFESTS = {number: manifest_of(number) for number in (1, 2)}
DIGESTS = {number: digest_of(text) for number, text in MANIFESTS.items()}


def sealed(number: int) -> str:
    return f"phoenix-920: sealed T generation {number} run r image i manifest sha256:{DIGESTS[number]}"


@dataclass
class Box:
    """A container."""

    description: str = sealed(2) + " accepted T"
    status: str = "running"
    carried: str = MANIFESTS[2]
    libraries: Sequence[str] = (f"libcuda.so.{DRIVER}", "libcuda.so.1", f"libnvidia-ml.so.{DRIVER}")
    gpus: tuple[int, ...] = (0, 1)
    uvm: Any = 511  # the number of /dev/nvidia-uvm in it
    lines: tuple[str, ...] = ()
    found: dict[str, Any] = field(default_factory=dict)
    folder: bool = True  # whether the node sees its root volume
    silent: bool = False
    status_of_read: int = 0  # with which the command that reads what it carries ends
    name: str = ""

    def conf(self, ctid: int) -> str:
        text = "".join(f"#{line}\n" for line in self.description.replace("%", "%25").splitlines())
        text += f"hostname: {self.name}box{ctid}\nrootfs: p:subvol-{ctid}-disk-0,size=8G\n"
        return text + "".join(f"dev{n}: /dev/nvidia{n}\n" for n in self.gpus) + "".join(f"{x}\n" for x in self.lines)

    def facts(self) -> dict[str, Any]:
        content = manifest.from_json(self.carried) if self.carried in MANIFESTS.values() else deepcopy(FOUND)
        listed = {str(index): f"H100, GPU-{index}" for index in range(len(self.gpus))}
        return {
            "template": {**content["template"], "model": {"name": "", "folder": "", "revision": "", "files": {}}},
            "around": {**content["around"], "gpus": listed},
            "packages": content["packages"],
            "libraries": [*self.libraries],
            "devices": {"nvidia-uvm": self.uvm},
            "read": {},
            "kept": {"manifest.json": record_store.sha256(self.carried)} if self.carried else {},
            **self.found,
        }


class World:
    """A node of a cluster; each command that the engine sends is answered from its containers."""

    name = "n"

    def __init__(self, **boxes: Box) -> None:
        self.boxes = {int(name[2:]): box for name, box in boxes.items()}
        self.driver, self.supposed, self.boot, self.env = DRIVER, "", "end\n", list[str]()
        self.elsewhere: dict[int, Box] = {}
        self.generations = [
            Generation(920, SNAPSHOT, number, "r", DIGESTS[number], sealed(number), {SNAPSHOT: number})
            for number in MANIFESTS
        ]
        self.extra: dict[str, str] = {}
        self.asked: list[tuple[str, ...]] = []

    def look(self) -> Family:
        node = Node(self, 5.0)  # type: ignore[arg-type]
        node.__dict__["name"] = "n"
        return families.look(node, self.supposed)

    def one(self, ctid: int = 931) -> Descendant:
        family = self.look()
        assert family.unknown == []
        return next(one for one in family.members if one.ctid == ctid)

    def template(self) -> str:
        snapshots = "".join(f"[{SNAPSHOT}]\n#{sealed(2)} accepted T\nsnaptime: 2\n")
        return f"#phoenix-920: container 920 cloned from 903@d\nhostname: T\nmemory: 1\n{snapshots}"

    def files(self) -> str:
        confs = {920: self.template(), **{ctid: box.conf(ctid) for ctid, box in self.boxes.items()}}
        others = {str(ctid): {"node": "m", "type": "lxc"} for ctid in self.elsewhere.keys() - confs.keys()}
        return pve_files.files(confs, "n", "zfspool: p\n\tpool p\n", others)

    def archive(self) -> bytes:
        files = {"/etc/pve/nodes/n/lxc/920.conf": self.template()}
        files |= {f"/etc/pve/nodes/n/lxc/{ctid}.conf": box.conf(ctid) for ctid, box in self.boxes.items()}
        files |= {f"/etc/pve/nodes/m/lxc/{ctid}.conf": box.conf(ctid) for ctid, box in self.elsewhere.items()}
        for made in self.generations:
            files[f"/var/lib/phoenix-920/generations/920/{made.number}.json"] = json.dumps(asdict(made))
            files[f"/var/lib/phoenix-920/records/{made.manifest}/manifest.json"] = MANIFESTS[min(made.number, 2)]
            record = {"image": {"env": self.env}}
            files[f"/var/lib/phoenix-920/records/{made.manifest}/record.json"] = json.dumps(record)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, text in {**files, **self.extra}.items():
                member = tarfile.TarInfo(name)
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))
        return buffer.getvalue()

    def inside(self, place: str, prefix: tuple[str, ...]) -> Any:
        box = self.boxes[int(place[2:])]
        return SimpleNamespace(run=lambda argv, **more: self.run_inside(int(place[2:]), box, argv), name=place)

    def run_inside(self, ctid: int, box: Box, argv: tuple[str, ...]) -> Command:
        self.asked.append((str(ctid), *argv[:2]))
        assert box.status == "running"
        if box.silent:
            raise DeadlineExceeded("`python3` took longer than 5 s and was ended")
        said = json.dumps(box.facts()) if argv[0] == "python3" else box.carried
        status = 0 if argv[0] == "python3" else box.status_of_read
        return Command(f"n/ct{ctid}", argv, 0.0, 0.0, status, b"" if status else said.encode(), b"")

    def run_parallel(self, *argvs: tuple[str, ...], deadline: float) -> list[Command]:
        return [self.run(argv, deadline=deadline) for argv in argvs]

    def run(self, argv: Sequence[str], **_: Any) -> Command:
        status, out = self.answer([*argv])
        return Command("n", tuple(argv), 0.0, 0.0, status, out, b"")

    def answer(self, argv: list[str]) -> tuple[int, bytes]:  # noqa: PLR0911 - one line a command
        match argv:
            case ["sh", "-c", kept.FIND, *_]:
                return 0, self.archive()
            case ["cat", descendant.DRIVER]:
                return 0, f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {self.driver}  Release".encode()
            case ["sh", "-c", node_gpus.SCRIPT]:
                return 127, b""
            case ["sh", "-c", reboot.ASK]:
                return 0, self.boot.encode()
            case ["sh", "-c", pmxcfs.READ]:
                return 0, self.files().encode()
            case ["sh", "-c", pmxcfs.SOCKETS]:
                running = [ctid for ctid, box in self.boxes.items() if box.status == "running"]
                cut = "???" * any(box.status == "???" for box in self.boxes.values())
                return 0, f"{pve_files.sockets(920, *running)}{cut}".encode()
            case ["test", "-d", path]:
                return int(not self.boxes[int(path.split("-")[1])].folder), b""
            case ["sh", "-c", disk.READ, _, root, *_]:
                return 0, self.boxes[int(root.split("-")[1])].carried.encode()
            case ["sh", "-c", disk.SIZES, _, root, folder]:
                names = self.boxes[int(root.split("-")[1])].libraries if "x86_64" in folder else ()
                return 0, "".join(f"9 {name}\n" for name in names).encode()
        return 127, b""


def verdict(one: Descendant) -> str:
    return one.row()["verdict"]


def test_clone_as_it_was_sealed_is_sound() -> None:
    one = World(ct931=Box()).one()
    assert one.row() == {
        "container": "931 box931",
        "from": "920 g2, current",
        "state": "running",
        "GPUs": "0, 1",
        "NVIDIA libraries": DRIVER,
        "verdict": "sound",
        "why": "",
    }


def test_template_itself_and_strangers_are_no_descendants() -> None:
    world = World(ct101=Box("my own", carried=""), ct102=Box("", "stopped", ""), ct931=Box())
    family = world.look()
    assert [one.ctid for one in family.members] == [931]
    assert family.notes == []
    assert not [words for words in world.asked if words[0] == "101" and words[1] == "python3"]


def test_earlier_generation_is_outdated_but_sound() -> None:
    one = World(ct931=Box(sealed(1), carried=MANIFESTS[1])).one()
    assert (one.row()["from"], verdict(one)) == ("920 g1, now g2", "sound")


@pytest.mark.parametrize("description", ["", "web server of the team", "phoenix-920: container 931 cloned from 920@x"])
def test_descent_of_a_running_clone_is_in_what_it_carries(description: str) -> None:
    """Its owner has changed the description, or this suite has made it as a declared one."""
    one = World(ct931=Box(description)).one()
    assert (one.row()["from"], verdict(one)) == ("920 g2, current", "sound")
    assert ("its description was changed" in one.row()["why"]) == ("phoenix" not in description)


def test_descent_of_one_that_is_off_is_in_its_description_and_its_volume() -> None:
    one = World(ct931=Box("", "stopped"), ct932=Box(status="stopped", folder=False)).look().members
    assert [(each.ctid, each.row()["from"], verdict(each)) for each in one] == [
        (931, "920 g2, current", "not known"),
        (932, "920 g2, current", "not known"),
    ]
    assert [each.userspace for each in one] == [(DRIVER,), ()]
    assert "its storage has no folder" in one[1].row()["why"]


def test_whether_a_stranger_that_is_off_descends_is_not_known_where_its_volume_can_not_be_read() -> None:
    family = World(ct931=Box("", "stopped", folder=False)).look()
    assert (family.members, family.unknown) == ([], [])
    assert "unknown whether 931 descend: their descriptions name no template" in family.notes[0]


def test_record_that_can_not_be_read_is_not_taken_for_none() -> None:
    named = sealed(2).replace(DIGESTS[2], "f" * 64)
    world = World(ct931=Box("", status_of_read=126), ct932=Box(named, status_of_read=1))
    family = world.look()
    assert [(one.ctid, verdict(one)) for one in family.members] == [(932, "not known")]
    assert "unknown whether 931 descend" in family.notes[0]


def test_copied_description_is_no_descent() -> None:
    """A container of somebody else, into which the text was pasted."""
    one = World(ct931=Box(carried="")).one()
    assert (verdict(one), one.problems[0].rank) == ("broken", RECORD)
    assert "has no record of one in" in one.row()["why"]


def test_rebuild_that_changed_nothing_leaves_two_generations_of_one_content() -> None:
    world = World(ct931=Box(sealed(2)), ct932=Box(sealed(2).replace("generation 2", "generation 3")), ct933=Box(""))
    made = replace(world.generations[1], number=3, description=sealed(2).replace("generation 2", "generation 3"))
    world.generations.append(made)
    assert [one.row()["from"].partition(",")[0] for one in world.look().members] == ["920 g2", "920 g3", "920 g3"]
    assert "generations g2, g3 have the same content" in world.one(933).notes


def test_description_of_another_generation_is_named() -> None:
    one = World(ct931=Box(sealed(1))).one()
    assert f"names the manifest {DIGESTS[1][:12]}, it carries {DIGESTS[2][:12]}" in one.row()["why"]
    assert one.row()["from"] == "920 g2, current"


def test_clone_of_a_clone_is_a_descendant() -> None:
    world = World(ct950=Box("phoenix-920: container 950 cloned from 920@x"))
    world.boxes[951] = replace(world.boxes[950])
    assert [(one.ctid, one.notes) for one in world.look().members] == [(950, []), (951, ["a copy of 950"])]


def test_template_made_of_this_one_is_left_to_its_own_suite() -> None:
    world = World(ct930=Box("phoenix-920: container 930 cloned from 920@x", carried="x"), ct931=Box())
    other = Generation(930, "s", 1, "r", "f" * 64, "phoenix-920: sealed", {})
    world.extra["/var/lib/phoenix-920/generations/930/1.json"] = json.dumps(asdict(other))
    assert [one.ctid for one in world.look().members] == [931]


def test_generation_that_the_node_does_not_remember_is_not_known() -> None:
    world = World(ct931=Box())
    world.generations = world.generations[:1]
    one = world.one()
    assert (one.row()["from"], verdict(one)) == ("unknown", "not known")


@pytest.mark.parametrize("kept", ["{}", "", MANIFESTS[1]])
def test_manifest_that_was_changed_on_the_node_proves_nothing(kept: str) -> None:
    world = World(ct931=Box())
    world.extra[f"/var/lib/phoenix-920/records/{DIGESTS[2]}/manifest.json"] = kept
    family = world.look()
    assert "is not the manifest that its folder is named after" in family.unknown[0]
    assert [verdict(one) for one in family.members] == ["not known"]


def test_same_number_on_another_node_of_the_cluster_is_another_container() -> None:
    world = World(ct931=Box())
    world.elsewhere = {931: Box(sealed(1)), 940: Box(), 941: Box("mine")}
    family = world.look()
    assert [(one.ctid, one.row()["from"]) for one in family.members] == [(931, "920 g2, current")]
    assert family.notes == [
        f"container {ctid} on node m also descends from a template; run --family there" for ctid in (931, 940)
    ]


def test_locked_container_is_not_known_to_be_sound() -> None:
    one = World(ct931=Box(lines=("lock: backup",))).one()
    assert (verdict(one), one.unknown) == ("not known", ["locked (backup): a task works on it"])


def test_driver_that_moved_is_named_first_and_its_cause_once() -> None:
    changed = Box(libraries=(f"libcuda.so.{DRIVER}",), found={"around": {"kernel": "", "driver": "", "gpus": {}}})
    edited = Box(found={"packages": {"bash": "5.3"}})
    edited.found["template"] = {**edited.facts()["template"], "packages": {}}
    edited.found["template"]["packages"] = {"count": 1, "sha256": container_probe.digest({"bash": "5.3"})}
    world = World(ct931=edited, ct932=changed, ct933=Box(gpus=()))
    world.driver = "590.48.01"
    family = world.look()
    assert [verdict(one) for one in family.members] == ["broken", "broken", "sound"]
    assert [problem.rank for problem in family.members[1].problems] == [USERSPACE]
    template: Any = SimpleNamespace(
        ctid=920, parent=SimpleNamespace(ctid=903), parent_snapshot="base", again=lambda *words: f"pytest {words[0]}"
    )
    assert [step.partition(":")[0] for step in family.order(template)] == ["903", "920", "931", "932"]
    assert "packages bash: 5.2 -> 5.3" in family.members[0].row()["why"]


NEEDS = "NVIDIA_REQUIRE_CUDA=cuda>={} brand=tesla,driver>=570,driver<571"


@pytest.mark.parametrize(
    ("driver", "needs", "verdicts", "why"),
    [
        (DRIVER, "12.9", "sound", ""),
        ("590.48.01", "12.9", "broken", f"its NVIDIA libraries are {DRIVER}, the node's driver would be 590.48.01"),
        ("560.35.03", "12.9", "broken", "its image needs cuda>=12.9, driver 560.35.03 supports CUDA 12.6"),
        ("999.1", "12.9", "broken", "not known: whether the node has cuda>=12.9"),
        (DRIVER, "", "not known", "does not say what it needs"),
    ],
)
def test_driver_that_is_not_there_yet(driver: str, needs: str, verdicts: str, why: str) -> None:
    world = World(ct931=Box())
    world.supposed, world.env = driver, [NEEDS.format(needs)] if needs else []
    one = world.one()
    assert (verdict(one), why in one.row()["why"]) == (verdicts, True)


def test_newer_driver_leaves_cdi_files_behind() -> None:
    found = deepcopy(FOUND)
    found["template"]["files"]["/etc/cdi/nvidia.yaml"] = "1"
    node: Any = SimpleNamespace(version="pve-manager/9")
    text = manifest.to_json(manifest.make(node, {}, found, {"caches": []}))
    world = World(ct931=Box(f"phoenix-920: manifest sha256:{digest_of(text)}", carried=text))
    world.boxes[931].found = {"template": manifest.from_json(text)["template"]}
    made = replace(world.generations[1], number=3, manifest=digest_of(text))
    world.generations.append(made)
    world.extra[f"/var/lib/phoenix-920/records/{made.manifest}/manifest.json"] = text
    world.supposed = "590.48.01"
    assert "/etc/cdi/nvidia.yaml in it names the libraries of driver 580" in world.one().row()["why"]


def test_supposed_driver_needs_the_family_and_is_a_version(tmp_path: Path) -> None:
    suite = Suite(tmp_path)
    for words, why in (
        (("--if-driver", "590.48"), "--if-driver needs --family"),
        (("--family", "--if-driver", "new"), "expected a version such as 590.48.01"),
    ):
        run = suite.start(*words)
        assert why in run.communicate(timeout=120)[0]
        assert run.returncode == 4


def test_clone_with_other_libraries_is_no_reason_to_rebuild_the_template() -> None:
    world = World(ct931=Box(libraries=("libcuda.so.590.48.01",)))
    template: Any = SimpleNamespace(ctid=920)
    assert [step.partition(":")[0] for step in world.look().order(template)] == ["931"]


@pytest.mark.parametrize(("onboot", "verdicts"), [("1", "broken"), ("0", "not known")])
def test_clone_that_did_not_come_back_at_boot_is_broken(onboot: str, verdicts: str) -> None:
    one = World(ct931=Box(status="stopped", lines=(f"onboot: {onboot}",))).one()
    assert verdict(one) == verdicts
    assert ("it has onboot: 1, but is off" in one.row()["why"]) == (onboot == "1")


def test_user_space_that_has_followed_the_driver_is_no_change() -> None:
    world = World(ct931=Box(libraries=("libcuda.so.590.48.01",)))
    world.driver = "590.48.01"
    found = world.boxes[931].facts()["template"]
    library = "/usr/lib/x86_64-linux-gnu/libcuda.so.1"
    world.boxes[931].found = {"template": {**found, "files": {**found["files"], library: "9"}}}
    assert verdict(world.one()) == "sound"
    world.driver = DRIVER
    world.boxes[931].libraries = (f"libcuda.so.{DRIVER}",)
    assert library in world.one().row()["why"], "with the same driver it is one"


@pytest.mark.parametrize(
    ("box", "why"),
    [
        (Box(libraries=("libcuda.so.1",)), "the version of NVIDIA's libraries in it"),
        (Box(silent=True), "took longer than 5 s"),
        (Box(found={"packages": {"bash": "lie"}}), "states a sha256 that is not of its packages"),
        (Box(status="???"), "whether it runs"),
    ],
)
def test_what_does_not_answer_is_not_known(box: Box, why: str) -> None:
    one = World(ct931=box).one()
    assert verdict(one) == "not known"
    assert why in one.row()["why"]
    with pytest.raises(Inconclusive, match=re.escape(why)):
        judge(one)


def test_node_that_does_not_say_what_runs_leaves_each_state_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is to start at boot is not taken for one that is off, and one without a description is not lost."""
    world = World(ct931=Box(lines=("onboot: 1",)), ct932=Box(""))
    monkeypatch.setattr(pve_files, "sockets", lambda *_: "")
    family = world.look()
    assert [(one.row()["state"], verdict(one), one.problems) for one in family.members] == [
        ("unknown", "not known", [])
    ]
    assert "unknown which containers run" in family.notes[0]
    assert "unknown whether 932 descend: their descriptions name no template" in family.notes[1]


def test_container_whose_configuration_says_nothing_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """It carries a record, but which GPUs it has is not known."""
    monkeypatch.setattr(Box, "conf", lambda *_: "")
    one = World(ct931=Box()).one()
    assert (verdict(one), one.unknown) == ("not known", ["its configuration, whose file is empty"])


def test_node_whose_files_say_nothing_leaves_the_family_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(ct931=Box())
    monkeypatch.setattr(world, "files", lambda: "")
    assert "the node's files in /etc/pve cannot be used" in world.look().unknown[0]


def test_driver_of_the_node_that_is_not_known_is_no_fit() -> None:
    world = World(ct931=Box())
    world.driver = "not loaded"
    assert world.one().unknown == ["the version of the node's NVIDIA driver"]


def test_gpu_that_is_assigned_and_not_listed_is_broken() -> None:
    box = Box()
    box.found = {"around": {**box.facts()["around"], "gpus": {"0": "H100, GPU-0"}}}
    one = World(ct931=box).one()
    with pytest.raises(AssertionError, match="2 GPUs are assigned, but nvidia-smi in it lists 1; expected every"):
        judge(one)


MAJORS = "device=195 nvidia\ndevice=511 nvidia-uvm\nend\n"


@pytest.mark.parametrize(
    ("uvm", "boot", "why"),
    [
        (511, MAJORS, ""),
        (511, "end\n", ""),
        (None, MAJORS, "it has no /dev/nvidia-uvm, or its device rules forbid it"),
        (None, "end\n", "it has no /dev/nvidia-uvm"),
        (238, MAJORS, "its /dev/nvidia-uvm has the number 238, the node's nvidia-uvm is 511"),
        (511, "device=195 nvidia\nend\n", "the node has not loaded nvidia-uvm"),
        ("\x1b[2J" * 9000, MAJORS, "the node's nvidia-uvm is 511"),
        ([511], MAJORS, "the node's nvidia-uvm is 511"),
    ],
)
def test_clone_that_came_back_without_uvm_is_broken(uvm: object, boot: str, why: str) -> None:
    """nvidia-smi in it lists every GPU, and CUDA finds none."""
    world = World(ct931=Box(uvm=uvm))
    world.boot = boot
    one = world.one()
    assert (verdict(one), why in one.row()["why"]) == ("broken" if why else "sound", True)
    assert "\x1b" not in str(one.row())
    assert len(one.row()["why"]) < 300


def test_stale_device_rule_is_named_once() -> None:
    world = World(ct931=Box(uvm=None, lines=("lxc.cgroup2.devices.allow: c 238:* rwm",)))
    world.boot = MAJORS
    assert world.one().row()["why"].count("nvidia-uvm") == 1


@pytest.mark.parametrize("said", ["", "device=195 nvidia\ndevice=511 nv", "device=x nvidia-uvm\nend"])
def test_clone_is_not_known_to_be_sound_on_a_node_that_does_not_say_its_devices(said: str) -> None:
    world = World(ct931=Box())
    world.boot = said
    assert (verdict(world.one()), world.one().unknown[0][:13]) == ("not known", "which numbers")


def test_clone_that_hides_its_devices_is_not_known_to_be_sound() -> None:
    one = World(ct931=Box(found={"devices": 3})).one()
    assert (verdict(one), one.unknown) == ("not known", ["which NVIDIA devices it may use"])


def test_thirty_containers_of_others_are_one_line() -> None:
    """Half of them are off on a storage that keeps no folders; one says by escape codes that it is ours."""
    off = {f"ct{ctid}": Box("", "stopped", "", folder=False) for ctid in range(101, 116)}
    on = {f"ct{ctid}": Box("\x1b[2Jphoenix-920: manifest", carried="") for ctid in range(116, 131)}
    world = World(**off, **on, ct931=Box())
    family = world.look()
    assert [(one.ctid, verdict(one)) for one in family.members] == [(931, "sound")]
    assert len(family.notes) == 1
    assert family.notes[0].startswith("unknown whether 101, 102, 103, ")


def test_forged_manifest_does_not_hide_a_change() -> None:
    """Its digest is only of what is in the template: what is around can be rewritten without another digest."""
    forged = json.loads(MANIFESTS[2])
    forged["around"]["driver"] = "590.48.01"
    box = Box(carried=json.dumps(forged))
    box.found = {**Box().facts(), "packages": {"bash": "5.3"}, "kept": {"manifest.json": "0" * 64}}
    box.found["template"]["packages"] = {"count": 1, "sha256": container_probe.digest({"bash": "5.3"})}
    one = World(ct931=box).one()
    assert "its /etc/phoenix/manifest.json was changed" in one.row()["why"]
    assert "packages bash: 5.2 -> 5.3" in one.row()["why"]


HOSTILE = [
    "{" * 100_000,
    "[" * 900 + "]" * 900,
    '{"schema": 1}',
    "\x1b[2J",
    "{}" * 400_000,
    "\0\udcff",
    MANIFESTS[1][:-9],
]


@pytest.mark.parametrize("carried", HOSTILE)
@pytest.mark.parametrize("status", ["running", "stopped"])
def test_hostile_record_is_none(carried: str, status: str) -> None:
    one = World(ct931=Box(sealed(1), status, carried.encode(errors="replace").decode())).one()
    assert verdict(one) in ("broken", "not known")
    assert "\x1b" not in str(one.row())


@pytest.mark.parametrize(("sealed_as", "verdicts"), [("a", "sound"), ("b", "broken")])
def test_record_that_was_forged_in_a_clone_is_named(sealed_as: str, verdicts: str) -> None:
    """A second generation of the same content has taken the place of the first one's record on the node."""
    box = Box(found={"kept": {"manifest.json": record_store.sha256(MANIFESTS[2]), "record.json": "a"}})
    world = World(ct931=box)
    world.extra[f"/var/lib/phoenix-920/records/{DIGESTS[2]}/SHA256SUMS"] = f"x  y\n{sealed_as}  sealed-record.json\n"
    assert verdict(world.one()) == verdicts
    assert ("record.json was changed" in world.one().row()["why"]) == (verdicts == "broken")
    world.generations.append(replace(world.generations[1], number=3))
    assert verdict(world.one()) == "sound"


def test_hostile_clone_says_nothing_that_a_terminal_obeys() -> None:
    box = Box(libraries=["\x1b[2Jlibcuda.so.1"] * 5000 + [f"libcuda.so.{number}.1" for number in range(500)])
    box.found = {"around": {"kernel": "k", "driver": "\x1b[2J", "gpus": {"0": "\x1b]0;x\x07"}}}
    found = box.facts()["template"]
    box.found["template"] = {**found, "software": {"docker": "\x1b[2J" + "x" * 100_000}}
    box.name = "\x1b]0;x\x07" + "y" * 10_000
    row = World(ct931=box).one().row()
    assert "\x1b" not in str(row)
    assert len(str(row)) < 3000


def test_generation_that_can_not_be_read_is_said() -> None:
    world = World(ct931=Box())
    world.extra["/var/lib/phoenix-920/generations/920/9.json"] = "{"
    family = world.look()
    assert "generations/920/9.json is no generation" in family.unknown[0]
    assert len(family.members) == 1


@pytest.mark.parametrize("archive", [b"", b"no archive" * 100, World(ct931=Box()).archive()[:1024], b"x" + bytes(2047)])
def test_answer_that_is_no_archive_leaves_the_family_unknown(archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(ct931=Box())
    monkeypatch.setattr(world, "archive", lambda: archive)
    assert "the containers of the node can't be read" in world.look().unknown[0]


def test_node_that_does_not_answer_leaves_the_family_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    monkeypatch.setattr(world, "answer", lambda argv: (1, b""))
    assert "can't be read" in world.look().unknown[0]


def test_ten_clones_are_asked_once_each() -> None:
    world = World(**{f"ct{ctid}": Box() for ctid in range(931, 941)})
    world.look()
    assert len(world.asked) == 10


def test_ledger_expects_one_check_for_each() -> None:
    checks = declared_checks(TOP / "tests_920/CHECKS", (0,))
    assert not [check for check in Ledger(checks).checks if check.role == "family"], "no part of a build"
    ledger = Ledger(checks, without=())
    ledger.repeat([931, 932])
    names = [check.name.partition("::")[2] for check in ledger.checks if check.role == "family"]
    assert names == ["test_family_is_known", "test_descendant_is_sound[931]", "test_descendant_is_sound[932]"]


def test_run_whose_node_does_not_answer_fails(tmp_path: Path) -> None:
    run = Suite(tmp_path).run("--family")
    assert run.status == 1
    assert {check.name.partition("::")[2]: check.verdict for check in run.record.checks if check.role == "family"} == {
        "test_family_is_known": "failed"
    }
