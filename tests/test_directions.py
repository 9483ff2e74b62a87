"""A difference has a direction: too many is not too few, and each is named with its own cause and fix."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.base.errors import Unseen
from fixtures.diagnosis.failure_modes import diagnose
from fixtures.gpu.gpu import Gpu
from fixtures.gpu.node_gpus import NodeGpus
from fixtures.proxmox import conf
from fixtures.proxmox.changes import Changes
from fixtures.proxmox.integrity import Mismatch, left_lock
from fixtures.proxmox.node import Node, NodeError
from fixtures.proxmox.tasks import ChangeRefused
from fixtures.serving.model import Model
from fixtures.serving.registry import Published
from tests.cards import cards

CHECKS = Path(__file__).parent.parent / "tests_920"
BOTH = "dev0: /dev/nvidia0\ndev1: /dev/nvidia1\n"
RAW = "lxc.mount.entry: /dev/nvidia1 dev/nvidia1 none bind,optional,create=file\n"
BACKUP = "UPID:pve:0001A2B3:0C0FFEE0:6B0D2F81:vzdump:{}:root@pam:"
UUIDS = ("GPU-0", "GPU-1", "GPU-2")


def check(module: str, name: str) -> Callable[..., None]:
    """A check of the suite, or of a class of it."""
    found: Any = runpy.run_path(str(CHECKS / f"{module}.py"))
    return vars(found["TestServer"])[name] if name not in found else found[name]  # type: ignore[no-any-return]


def said(module: str, name: str, *given: Any) -> tuple[str, list[str]]:
    """What a check says when it fails, and the ids of the modes that are named; empty if it passes."""
    try:
        check(module, name)(*given)
    except AssertionError as error:
        message = str(error)
        return message, [found.mode.id for found in diagnose({"check": name, "failure": message})]
    return "", []


def meant(name: str, message: str) -> tuple[str, str]:
    """What is said to be wrong, and its fix."""
    (found,) = diagnose({"check": name, "failure": message})
    return found.mode.what, found.mode.fix


# --- GPUs: more, fewer, others ------------------------------------------------------------------------

PASSED = "test_gpus_are_passed_where_it_counts"


def passed(text: str, *assigned: int, exists: bool = False, cgroup: str = "cgroup2fs") -> tuple[str, list[str]]:
    node = SimpleNamespace(read_conf=lambda _: conf.parse(text.encode()), ask=lambda *_, **__: f"{cgroup}\n")
    declared, parent = SimpleNamespace(gpus=assigned), SimpleNamespace(ctid=903)
    template = SimpleNamespace(ctid=920, exists=exists, declared=declared, parent=parent, parent_snapshot="snap")
    return said("test_010_preflight", PASSED, node, template, SimpleNamespace())


def test_parent_that_passes_what_is_assigned_is_good() -> None:
    assert passed(f"{BOTH}[snap]\n{BOTH}", 0, 1) == ("", [])
    assert passed(f"{BOTH}[snap]\n{BOTH}", 1, 0) == ("", [])
    assert passed(f"[snap]\ndev0: /dev/nvidia0\n{RAW}dev3: /dev/nvidia-uvm\ndev4: /dev/nvidiactl\n", 0) == ("", [])
    assert passed("hostname: x\n[snap]\nhostname: x\n", 0) == ("", [])  # where nothing passes it another check says so


@pytest.mark.parametrize(("kind", "refused"), [("cgroup2fs", True), ("tmpfs", False)])
def test_rules_for_another_version_of_cgroup_are_found_before_the_clone(kind: str, refused: bool) -> None:
    """They were taken for rules, so that 920 was cloned, and its devices were called forbidden there."""
    old = "lxc.cgroup.devices.allow: c 195:* rwm\nlxc.cgroup.devices.allow: c 507:* rwm\n"
    message, modes = passed(f"{old}[snap]\n{old}", 0, 1, cgroup=kind)
    if refused:
        assert "903@snap allows devices only by ['lxc.cgroup.devices.allow: c 195:* rwm'" in message
        assert "run: pct set 903 --dev0 /dev/nvidia0 --dev1 /dev/nvidia1 --dev2 /dev/nvidiactl --dev3 " in message
        assert modes == ["B16"]
    else:
        assert (message, modes) == ("", [])
    assert passed(f"{BOTH}{old}[snap]\n{BOTH}{old}", 0, 1, cgroup=kind) == ("", [])  # what has an effect is there too
    assert passed(f"{old}[snap]\n{old}", cgroup=kind) == ("", [])  # no GPU is assigned


def test_gpu_that_is_passed_but_not_assigned_is_found_before_the_clone() -> None:
    message, modes = passed(f"{BOTH}[snap]\n{BOTH}", 0)
    assert "903@snap passes more GPUs than are assigned: ['dev1: /dev/nvidia1']; expected only GPUs (0,)" in message
    assert message.endswith("run: pct set 903 --delete dev1; pct delsnapshot 903 snap; pct snapshot 903 snap")
    assert modes == ["B53"]
    message, modes = passed(BOTH, 1, exists=True)
    assert message.startswith("920 passes more GPUs than are assigned: ['dev0: /dev/nvidia0']")
    assert message.endswith("run: pct set 920 --delete dev0")
    assert modes == ["B53"]


@pytest.mark.parametrize("line", [BOTH, f"dev0: /dev/nvidia0\n{RAW}"])
def test_snapshot_that_is_older_than_the_lines_is_to_be_taken_again(line: str) -> None:
    """They stand above the first heading: to move them there helps nobody."""
    message, modes = passed(f"{line}[snap]\nhostname: x\n", 0, 1)
    assert message.startswith(
        "903@snap passes fewer GPUs than container 903 does now: it has no ['dev0: /dev/nvidia0',"
    )
    assert "above" not in message
    assert message.endswith("run: pct delsnapshot 903 snap; pct snapshot 903 snap")
    assert modes == ["A67"]
    _, modes = passed(f"hostname: x\n[snap]\nhostname: x\n[other]\n{line}", 0, 1)
    assert modes == ["A3"]  # only another snapshot has them


def card(number: int, uuid: str = "") -> Gpu:
    pci = f"0000000{number}:1B:00.0"
    return Gpu(number, uuid or UUIDS[number], "NVIDIA H200", "580.95.05", 143_771, "9.0", pci, minor=number)


@pytest.mark.parametrize(
    ("assigned", "listed", "mode"),
    [
        ((0,), (0, 1), "B53"),
        ((0, 1), (0, 1, 2), "B53"),
        ((0, 1), (0,), "B12"),
        ((0, 1), (), "B12"),
        ((0, 1), (0, 1), ""),
    ],
)
def test_gpus_in_the_container(
    assigned: tuple[int, ...], listed: tuple[int, ...], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fixtures.gpu.gpus.listed", lambda _: list(map(card, listed)))
    container = SimpleNamespace(ctid=920, pasteable=lambda *words: " ".join(words))
    build = SimpleNamespace(gpus=[], missing=set(), node_gpus={})
    name = "test_gpus_are_listed"
    message, modes = said("test_030_inherited_stack", name, container, SimpleNamespace(gpus=assigned), build)
    assert modes == ([mode] if mode else [])
    if mode:
        assert message.startswith(
            "more GPUs are listed than" if mode == "B53" else f"GPUs {assigned} are assigned, but"
        )
        assert ("--delete devN" in meant(name, message)[1]) is (mode == "B53")
        assert ("pass the missing" in meant(name, message)[1]) is (mode == "B12")


def test_card_that_is_passed_twice_is_no_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fixtures.gpu.gpus.listed", lambda _: [card(0), card(1, UUIDS[0])])
    container = SimpleNamespace(ctid=920, pasteable=lambda *words: " ".join(words))
    build = SimpleNamespace(gpus=[], missing=set(), node_gpus={})
    words = ("test_030_inherited_stack", "test_gpus_are_listed")
    assert "two GPUs have the same UUID" in said(*words, container, SimpleNamespace(gpus=(0,)), build)[0]


@pytest.mark.parametrize(
    ("listed", "given", "begins", "modes"),
    [
        ((0, 1), (0,), "in clone 990 more GPUs are listed than the assigned (0,)", ["B53"]),
        ((), (0,), "GPUs (0,) are assigned, but none are listed in clone 990", ["B12"]),
        ((1,), (0,), "in clone 990 other GPUs are listed than in the template", []),
        ((0,), (0,), "", []),
    ],
)
def test_gpus_in_a_clone(
    listed: tuple[int, ...], given: tuple[int, ...], begins: str, modes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fixtures.gpu.gpus.listed", lambda _: list(map(card, listed)))
    container = SimpleNamespace(ctid=990, pasteable=lambda *words: " ".join(words))
    clone = SimpleNamespace(ctid=990, container=container, declared=SimpleNamespace(tensor_parallel=1, gpus=given))
    acceptance = SimpleNamespace(build=SimpleNamespace(gpus=list(map(card, given))), lost_gpus="")
    message, found = said("test_080_clone_acceptance", "test_clone_sees_every_gpu", acceptance, clone)
    assert (message.startswith(begins), bool(message), found) == (True, bool(begins), modes)


@pytest.mark.parametrize(("listed", "mode"), [((0, 1), "B53"), ((), "B12")])
def test_gpus_after_the_restart(listed: tuple[int, ...], mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fixtures.gpu.gpus.listed", lambda _: list(map(card, listed)))
    container = SimpleNamespace(ctid=920, pasteable=lambda *words: " ".join(words))
    template = SimpleNamespace(declared=SimpleNamespace(tensor_parallel=1, gpus=(0,)))
    given = (container, template, SimpleNamespace(gpus=[card(0)]))
    assert said("test_070_sealed", "test_gpus_are_listed_again", *given)[1] == [mode]


@pytest.mark.parametrize(
    ("seen", "cause"),
    [(UUIDS[:2], "the NVIDIA runtime ignores --gpus"), ((), "did not get all of them, or has lost one")],
)
def test_gpus_of_a_server(seen: tuple[str, ...], cause: str) -> None:
    lines = [f"GPU {number}: NVIDIA H200 (UUID: {uuid})" for number, uuid in enumerate(seen)]
    server = SimpleNamespace(gpus="device=0", devices=lambda: lines)
    container = SimpleNamespace(pasteable=lambda *words: " ".join(words))
    build = SimpleNamespace(gpus=[card(0), card(1)], template=SimpleNamespace(container=container))
    assert cause in said("test_050_serving", "test_server_sees_its_gpus", None, server, build)[0]


def test_gpu_that_the_nodes_driver_does_not_list_is_not_to_be_passed_through() -> None:
    template = SimpleNamespace(declared=SimpleNamespace(tensor_parallel=1, gpus=(0, 1)))
    name = "test_gpus_are_on_the_node"
    message, modes = said("test_014_gpus_and_model", name, template, NodeGpus({0: card(0)}))
    assert modes == ["B12"]
    what, fix = meant(name, message)
    assert what == "The node's driver does not list an assigned GPU"
    assert "--devN" not in fix


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("compute_mode", "Prohibited", "The GPU's compute mode is Prohibited: no process can use it"),
        ("mig.mode.current", "Enabled", "MIG is on: the card is split into MIG instances, or has none"),
        ("gpu_recovery_action", "Reset", "A GPU needs a reset"),
        ("gpu_recovery_action", "Reboot", "A GPU needs a reboot of its node"),
    ],
)
def test_gpu_that_can_serve_nothing_is_found_before_the_clone(field: str, value: str, what: str) -> None:
    healthy = next(each.card for each in cards() if not each.fails and not each.warns and each.free)
    sick = replace(healthy, values={**healthy.values, field: value})
    template = SimpleNamespace(declared=SimpleNamespace(tensor_parallel=1, gpus=(0,)))
    name = "test_gpus_are_on_the_node"
    assert said("test_014_gpus_and_model", name, template, NodeGpus({0: healthy, 1: sick}))[0] == ""
    message, _ = said("test_014_gpus_and_model", name, template, NodeGpus({0: sick}))
    assert f"{field} is {value}" in message
    assert meant(name, message)[0] == what


# --- versions: newer, older ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "mode", "cause"),
    [
        ("cuda>=13.5", "B10", "install a newer driver on the node"),
        ("driver>=600", "B10", "install a newer driver on the node"),
        ("cuda>=12.0,driver<550", "B54", "set vllm_image to a newer image"),
        ("cuda<13.0", "B54", "set vllm_image to a newer image"),
        ("cuda>=12.0,arch>=10.0", "D1", "set vllm_image to an older one, or use another GPU"),
        ("cuda>=12.0,arch<9.0", "D1", "set vllm_image to a newer one, or use another GPU"),
    ],
)
def test_condition_of_an_image_that_is_not_met(asked: str, mode: str, cause: str) -> None:
    template, image = (
        SimpleNamespace(declared=SimpleNamespace(tensor_parallel=1, gpus=(0,))),
        Published(env=(f"NVIDIA_REQUIRE_CUDA={asked}",)),
    )
    found = NodeGpus({0: card(0)}, cuda="13.0")
    message, modes = said("test_014_gpus_and_model", "test_driver_serves_the_image", template, image, found)
    assert message.startswith(f"the image needs {asked.rpartition(',')[2]}, the node's driver 580.95.05")
    assert cause in message
    assert modes == [mode]


BUILT = "TORCH_CUDA_ARCH_LIST=7.5 8.0 8.6 8.9 9.0 10.0 12.0"
NEEDS = "NVIDIA_REQUIRE_CUDA=cuda>=12.9 brand=tesla,driver>=535,driver<536"
WITHOUT = 'set gpu_assignment to "{}"'


def several(*capabilities: str, gpus: tuple[int, ...] = (), parallel: int = 1, **of: Any) -> tuple[Any, NodeGpus]:
    """A template with these GPUs assigned, and the node that has them."""
    found = {
        number: replace(card(0), index=number, minor=number, capability=each)
        for number, each in enumerate(capabilities)
    }
    found = {
        number: replace(each, **{key: value[number] for key, value in of.items()}) for number, each in found.items()
    }
    declared = SimpleNamespace(gpus=gpus or tuple(found), tensor_parallel=parallel)
    return SimpleNamespace(ctid=920, declared=declared), NodeGpus(found, cuda="12.2")


@pytest.mark.parametrize(
    ("capabilities", "cause"),
    [
        (("6.1", "8.6"), WITHOUT.format(1)),
        (("8.6", "6.1", "9.0"), WITHOUT.format("0,2")),
        (("", "6.1"), WITHOUT.format(0)),  # one that does not say may fit
        (("6.1",), "no image of vLLM is built for 6.1, only for 7.0 and later: use another GPU"),
        (("6.1", "6.1", "6.1", "8.6", "6.1"), WITHOUT.format(3)),
        (("6.1", "6.1", "6.1"), "no image of vLLM is built for 6.1"),
        (("6.1", "5.2"), "for 6.1, only for 7.0 and later: use another GPU; no image of vLLM is built for 5.2"),
        (("7.0",), "set vllm_image to an older one, of CUDA 12, or use another GPU"),
        (("13.0",), "set vllm_image to a newer one, or use another GPU"),
        (("11.0",), "set vllm_image to another one, or use another GPU"),
    ],
)
def test_card_that_an_image_does_not_serve_is_left_out_where_others_fit(
    capabilities: tuple[str, ...], cause: str
) -> None:
    name = "test_image_has_kernels_for_the_gpus"
    template, found = several(*capabilities)
    message, modes = said("test_014_gpus_and_model", name, template, Published(env=(BUILT,)), found)
    assert cause in message
    unfit = [each for each in capabilities if each not in ("", "8.6", "9.0")]
    assert (message.count("has compute capability"), modes) == (len(unfit), ["D1"])
    what, fix = meant(name, message)
    assert ("too old for vLLM" in what) is cause.startswith(("no", "for"))
    assert ("to the value that the check names" in fix) is cause.startswith("set gpu")
    assert "no image" in message or cause.startswith("set")
    asked = Published(env=("NVIDIA_REQUIRE_CUDA=arch>=7.5,arch<11.0",))
    message, modes = said("test_014_gpus_and_model", "test_driver_serves_the_image", template, asked, found)
    assert (cause.partition(";")[0].removeprefix("for ") in message) is (capabilities != ("11.0",))
    assert modes == ["D1"]


def test_card_that_only_starts_through_the_library_of_the_image_is_used_alone() -> None:
    """The driver is one for all, but serves data-centre cards alone with a newer CUDA."""
    name, image = "test_driver_serves_the_image", Published(env=(NEEDS,))
    drivers = ["535.230.02"] * 2
    template, found = several("8.9", "8.0", driver=drivers, brand=["GeForce", "Tesla"], parallel=2)
    message, modes = said("test_014_gpus_and_model", name, template, image, found)
    assert "with GPU 0 (" in message
    assert f"{WITHOUT.format(1)}, leaving it out, vllm_tensor_parallel_size to 1; run: " in message
    assert modes == ["B10"]
    template, found = several("8.9", "8.9", driver=drivers, brand=["GeForce"] * 2)
    message, _ = said("test_014_gpus_and_model", name, template, image, found)
    assert "; install a newer driver on the node, or set vllm_image to an older image" in message


def test_what_is_unknown_of_one_card_hides_nothing_of_another() -> None:
    for name, env in (
        ("test_image_has_kernels_for_the_gpus", BUILT),
        ("test_driver_serves_the_image", "NVIDIA_REQUIRE_CUDA=arch>=7.5"),
    ):
        template, found = several("", "6.1")
        assert (
            "6.1" in said("test_014_gpus_and_model", name, template, Published(env=(env,)), found)[0]
            or name[5:11] == "driver"
        )
        assert WITHOUT.format(0) in said("test_014_gpus_and_model", name, template, Published(env=(env,)), found)[0]
        template, found = several("", "9.0")
        with pytest.raises(Unseen, match="GPU 0 "):
            said("test_014_gpus_and_model", name, template, Published(env=(env,)), found)


def test_other_cards_are_named_where_one_is_sick_taken_small_or_missing() -> None:
    settings: Any = SimpleNamespace(gpu_share=0.9, server_option=lambda *_: "")
    full = {"memory.free": "100", "memory.total": "143771"}
    free = {**full, "memory.free": "143000"}
    template, found = several("9.0", "9.0", values=[full, free])
    message, _ = said("test_014_gpus_and_model", "test_gpu_memory_is_free", template, found, settings)
    assert f"utilization 0.5), or {WITHOUT.format(1)}" in message
    template, found = several("9.0", "9.0", values=[full, full])
    assert (
        "gpu_assignment" not in said("test_014_gpus_and_model", "test_gpu_memory_is_free", template, found, settings)[0]
    )
    bad = [{"compute_mode": "Prohibited"}, {"compute_mode": "Default"}]
    template, found = several("9.0", "9.0", values=bad)
    message, _ = said("test_014_gpus_and_model", "test_gpus_are_on_the_node", template, found)
    assert f"; meanwhile {WITHOUT.format(1)}" in message
    template, found = several("9.0", gpus=(0, 1))
    message, _ = said("test_014_gpus_and_model", "test_gpus_are_on_the_node", template, found)
    assert f"; meanwhile {WITHOUT.format(0)}" in message
    template, found = several("9.0", "9.0", memory_mib=[2048, 143_771])
    model = Model({}, 10 * 2**30)
    message, _ = said("test_014_gpus_and_model", "test_model_fits_the_gpus", template, model, found, settings)
    assert " MiB of GPU memory are available on GPU 0 (" in message
    assert WITHOUT.format(1) in message
    template, found = several("9.0", "9.0", memory_mib=[2048, 2048])
    message, _ = said("test_014_gpus_and_model", "test_model_fits_the_gpus", template, model, found, settings)
    assert "use a smaller or quantised test_model" in message


# --- a lock: held, left -------------------------------------------------------------------------------


BACKED_UP = "lock: backup\nhostname: x\n"


def locked(answer: Any, template_lock: str = "", *, only_reads: bool = False, parent: str = BACKED_UP) -> str:
    """What is said of a parent that a backup has locked; a run that only reads looks at the template's own lock."""

    def get(*_: str, **__: str) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    files = {903: parent, 920: f"{template_lock}hostname: y\n"}
    node: Any = SimpleNamespace(name="pve", get=get, read_conf=lambda ctid: conf.parse(files[ctid].encode()))
    node.active_tasks = lambda *ctids: Node.active_tasks(node, *ctids)
    template, build = SimpleNamespace(ctid=920, parent=SimpleNamespace(ctid=903)), SimpleNamespace()
    build.only_reads = only_reads
    return said("test_010_preflight", "test_nothing_holds_a_lock", node, template, build)[0]


@pytest.mark.parametrize(
    "rows",
    [
        [{"upid": BACKUP.format(903), "id": "903", "type": "vzdump"}],
        [{"upid": BACKUP.format(""), "id": "", "type": "vzdump"}],  # of all containers
    ],
)
def test_lock_of_a_task_that_is_active_is_not_to_be_removed(rows: list[dict[str, str]]) -> None:
    message = locked(rows)
    assert f"locked: {{903: 'backup'}}; active: {rows[0]['upid']}" in message
    assert "pct unlock" not in message
    what, fix = meant("test_nothing_holds_a_lock", message)
    assert what == "Container 903 is locked by a task that may still be running"
    assert "pct unlock" not in fix


@pytest.mark.parametrize("number", ["903", 903])
def test_lock_of_a_clone_that_is_being_made_is_not_to_be_removed(number: object) -> None:
    """Its task names the container that is copied, not the one that is made."""
    cloning = {"upid": "UPID:pve:1:2:3:vzclone:903:root@pam:", "id": number, "type": "vzclone"}
    message = locked([cloning], "lock: create\n", only_reads=True)
    assert f"locked: {{920: 'create'}}; active: {cloning['upid']}" in message
    assert "pct unlock" not in message


@pytest.mark.parametrize("answer", [[{"id": "903"}], [3], {"a": 1}, None, NodeError("no answer")])
def test_lock_is_not_to_be_removed_where_the_tasks_are_unknown(answer: Any) -> None:
    message = locked(answer)
    assert "unknown: whether a task is active" in message
    assert message.endswith("run: pvesh get /nodes/pve/tasks --source active")


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"upid": BACKUP.format(101), "id": "101", "type": "vzdump"}],
        [{"upid": "UPID:pve:1:2:3:vncshell::root@pam:", "id": "", "type": "vncshell"}],  # somebody has a shell open
    ],
)
def test_lock_that_was_left_names_its_container(rows: list[dict[str, str]]) -> None:
    message = locked(rows)
    assert message.endswith("run: pct unlock 903")
    what, fix = meant("test_nothing_holds_a_lock", message)
    assert what == "Container 903 is locked by a backup"
    assert ": pct unlock 903; if pct listsnapshot 903 shows vzdump: pct delsnapshot 903 vzdump" in fix


TORN = "[snap]\nsnaptime: 1\nsnapstate: {}\n"
LEFT = {  # what a lock has left: the commands that help, and one that would not
    "mounted": ("", "run: pct unmount 903", "pct unlock"),
    "fstrim": ("", "run: umount -R /var/lib/lxc/903/rootfs; pct unlock 903", "unmount 903"),
    "create": ("", "if you need nothing of it: pct unlock 903; pct destroy 903; run: pct config 903", "wait"),
    "destroyed": ("", "partly created or removed: look at it; if you need nothing of it: pct unlock 903", "wait"),
    "rollback": ("", "repeat `pct rollback 903 NAME`; run: pct listsnapshot 903", "destroy"),
    "migrate": ("", "`pvesm list` shows copies; run: pct unlock 903", "destroy"),
    "disk": ("", "`pvesm list` shows copies; run: pct unlock 903", "destroy"),
    "backup": ("[vzdump]\nsnaptime: 1\n", "run: pct unlock 903; pct delsnapshot 903 vzdump", "wait"),
    "snapshot": (TORN.format("prepare"), "run: pct unlock 903; pct delsnapshot 903 snap", "903 snap --force"),
    "snapshot-delete": (TORN.format("delete"), "run: pct unlock 903; pct delsnapshot 903 snap", "903 snap --force"),
    "suspended": ("", "Proxmox VE has no such lock: find out what set it, then remove it; run: pct unlock 903", "wait"),
}


@pytest.mark.parametrize("lock", LEFT)
def test_lock_is_ended_as_its_name_asks(lock: str) -> None:
    """`pct unlock` leaves a mount mounted, and a half-made container half made; check, change and catalogue agree."""
    sections, helps, hurts = LEFT[lock]
    found = f"lock: {lock}\nrootfs: a:b\nhostname: x\n{sections}"
    message = locked([], parent=found)
    assert helps in message
    assert hurts not in message
    why, run = left_lock(903, conf.parse(found.encode()))
    assert message.endswith(f"no task works on it: {why}; run: {run}")
    node: Any = SimpleNamespace(name="pve", channel=SimpleNamespace(prefetched=SimpleNamespace(forget=lambda: None)))
    node.read_conf = lambda _: conf.parse(found.encode())
    with pytest.raises(ChangeRefused) as refused:
        Changes(node).start(903, lambda _: "", 1)
    assert str(refused.value).endswith(f"--source active; if there is none, {why}: {run}")
    tried = ("start 903", "clone 903 920")
    pct = (f"`pct {command}` on pve ended with 255: CT is locked ({lock})" for command in tried)
    means = [meant("test_nothing_holds_a_lock", said) for said in (message, str(refused.value), *pct)]
    assert means == means[:1] * 4
    for what, fix in means:
        assert what.startswith("Container 903 ")
        commands = re.findall(r"(?:pct (?:unlock|unmount|destroy|delsnapshot|rollback)|umount -R) \S+", f"{why}; {run}")
        assert [each for each in commands if each.rstrip("`;,") not in fix.replace("`", "")] == []
        assert lock == "mounted" or "/tasks --" in fix


@pytest.mark.parametrize(
    "rows", [[], [{"upid": "UPID:pve:1:2:3:vzrestore:903:root@pam:", "id": "903", "type": "x"}], None]
)
@pytest.mark.parametrize("text", ["lock: destroyed\n", "lock: create\nhostname: x\n", "arch: amd64\nhostname: x\n"])
def test_parent_that_is_half_made_is_not_called_by_another_name(text: str, rows: Any) -> None:
    node: Any = SimpleNamespace(name="pve", get=lambda *_, **__: rows, containers=lambda: {903: None})
    node.cluster_files = SimpleNamespace(elsewhere={}, managed={})
    node.configuration = lambda _: conf.parse(text.encode())
    node.active_tasks = lambda *ctids: Node.active_tasks(node, *ctids)
    template = SimpleNamespace(ctid=920, parent=SimpleNamespace(ctid=903, name="x"), parent_snapshot="snap")
    message, modes = said("test_010_preflight", "test_parent_is_as_declared", node, template)
    assert message.startswith("locked: {903: '")
    assert ("pct destroy 903" in message) is (rows == [])
    assert modes == ["A6"]


@pytest.mark.parametrize(
    ("what", "mode"),
    [
        ("920@snap is incomplete (snapstate: prepare)", "A13"),
        (
            "container 920 is incomplete (lock: create, root disk: none), because its clone is still running or failed",
            "A18",
        ),
        ("920@snap is in the configuration, but storage s has no such snapshot of s:subvol-920-disk-0", "A30"),
    ],
)
@pytest.mark.parametrize("rows", [[], [{"upid": BACKUP.format(920), "id": "920", "type": "vzsnapshot"}], None])
def test_what_a_task_may_still_make_whole_is_not_to_be_unlocked(what: str, mode: str, rows: Any) -> None:
    node: Any = SimpleNamespace(name="pve", get=lambda *_, **__: rows, prefetch=lambda *_: None, read_conf=lambda _: 1)
    node.active_tasks = lambda *ctids: Node.active_tasks(node, *ctids)
    template = SimpleNamespace(ctid=920, parent=SimpleNamespace(ctid=903))
    template.mismatches = lambda _: [Mismatch(what, "pct unlock 920; pct x")]
    name = "test_storage_agrees_with_the_configuration"
    message, modes = said("test_010_preflight", name, node, template)
    assert ("pct unlock" in message) is (rows == [])
    assert modes == [mode]
    assert ("pct unlock" in meant(name, message)[1]) is (rows == [])


@pytest.mark.parametrize("active", [True, False])
def test_snapshot_of_the_parent_that_is_being_taken_is_waited_for(*, active: bool) -> None:
    text = f"lock: snapshot\nrootfs: a:b\n{TORN.format('prepare')}"
    rows = [{"upid": "UPID:pve:1:2:3:vzsnapshot:903:root@pam:", "id": "903", "type": "vzsnapshot"}] * active
    node: Any = SimpleNamespace(name="pve", get=lambda *_, **__: rows, cluster_files=SimpleNamespace(storages={}))
    node.configuration = lambda _: conf.parse(text.encode())
    node.config = lambda _: node.configuration(0).head.config
    node.active_tasks = lambda *ctids: Node.active_tasks(node, *ctids)
    template = SimpleNamespace(parent=SimpleNamespace(ctid=903), parent_snapshot="snap")
    message, modes = said("test_010_preflight", "test_parent_snapshot_is_whole", node, template)
    assert message.startswith("the parent's 903@snap is incomplete (snapstate: prepare)")
    assert ("pct unlock 903; pct delsnapshot 903 snap" in message) is not active
    assert modes == ["A13"]
    assert ("pct unlock" in meant("test_parent_snapshot_is_whole", message)[1]) is not active


# --- one check, several causes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "failure", "what"),
    [
        ("test_docker_is_running", "docker.service is active (running) and disabled", "does not start at boot"),
        ("test_docker_is_running", "docker.service is failed (failed) and enabled", "Docker is not running"),
        ("test_docker_storage_is_sane", "the storage driver is vfs", "storage driver is vfs, not overlay2"),
        ("test_docker_storage_is_sane", "the storage driver is zfs", "storage driver is zfs, not overlay2"),
        ("test_server_lists_the_model", "the server lists []", "lists no model"),
        ("test_server_lists_the_model", "the server lists ['other']", "serves another model"),
        ("test_server_lists_the_model", "the server lists ['a', 'b']", "lists more models"),
        ("test_gpu_may_be_used", "/dev/nvidia1 may not be used: ...", "device rules forbid"),
        ("test_gpu_may_be_used", "/dev/nvidia1 does not exist", "Fewer GPUs are usable"),
        ("test_model_fits_the_gpus", "its weights are 9 MiB, but 8 MiB of GPU memory are available", "are larger than"),
        ("test_nobody_answers_at_the_address", "bc:24:11:00:00:01 answers at 10.0.0.220", "already answers"),
    ],
)
def test_one_check_names_the_cause_that_its_words_say(name: str, failure: str, what: str) -> None:
    assert what in meant(name, failure)[0]
