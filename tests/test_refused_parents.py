"""A parent or a node that can't serve is named by its true cause, with the command that helps."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.diagnosis.failure_modes import diagnose
from fixtures.gpu import health
from fixtures.gpu.gpu import Gpu
from fixtures.gpu.node_gpus import NodeGpus
from fixtures.proxmox import conf, pmxcfs
from fixtures.proxmox.node import Node, NodeError
from tests import pve_files
from tests.mutations.world import report
from tests.small_node import DECLARATION
from tests.test_directions import said
from tests.test_gpu_checks import H100

SNAPSHOT = "docker-gpu-snapshot"
HEAD = "hostname: BaseTemplateDockerGPU\nrootfs: lxc-disks:{},size=32G\ndev0: /dev/nvidia0\n"
CARD = Gpu(0, "GPU-1", "NVIDIA H200 NVL", "580", 1, "9.0")
TAKE = f"pct snapshot 903 {SNAPSHOT}"


class Place(Node):
    """A node of which only its files are read."""

    def __init__(
        self, head: str, *, section: str | None = "hostname: x\n", kind: str = "zfspool", more: str = "", **of: Any
    ) -> None:
        text = head + (f"[{SNAPSHOT}]\n{section}snaptime: 1795493236\n" if section is not None else "")
        found = pve_files.files({903: text}, storages=f"{kind}: lxc-disks\n\tcontent rootdir\n{more}", **of)
        self._cluster_files = pmxcfs.parse(found, "pve")
        self.__dict__["name"] = "pve"

    def read_conf(self, ctid: int) -> conf.Configuration | None:
        return self.cluster_files.containers.get(ctid)


def template(*, unprivileged: bool = False) -> Any:
    declared = replace(DECLARATION[920], unprivileged=unprivileged)
    parent = DECLARATION[903]
    return SimpleNamespace(ctid=920, exists=False, declared=declared, parent=parent, parent_snapshot=SNAPSHOT)


def parent_is_as_declared(node: Node, found: Any) -> str:
    return said("test_010_preflight", "test_parent_is_as_declared", node, found)[0]


def test_parent_without_the_declared_privilege_is_to_be_restored() -> None:
    """The flag alone changes no owner of a file."""
    head = HEAD.format("subvol-903-disk-0")
    assert parent_is_as_declared(Place(head), template()) == ""
    message = parent_is_as_declared(Place(f"{head}unprivileged: 1\n"), template())
    assert message.startswith("903 is an unprivileged container; expected a privileged one, as 920 is declared; ")
    assert "vzdump 903 --mode stop --compress 0 --dumpdir /var/tmp && pct restore 903 /var/tmp/" in message
    assert message.endswith(f" --force --unprivileged 0 --storage lxc-disks && {TAKE}")
    message = parent_is_as_declared(Place(head), template(unprivileged=True))
    assert " --force --unprivileged 1 " in message


def test_privilege_of_the_parents_snapshot_counts() -> None:
    """`pct clone --snapname` takes the configuration of the snapshot: that of now was right, and 920 was not."""
    head = HEAD.format("subvol-903-disk-0")
    message = parent_is_as_declared(Place(head, section="unprivileged: 1\n"), template())
    assert message.startswith(f"903@{SNAPSHOT} is of an unprivileged container, though 903 is a privileged one; ")
    assert message.endswith(f"; run: pct delsnapshot 903 {SNAPSHOT}; {TAKE}")
    both = Place(f"{head}unprivileged: 1\n", section="unprivileged: 1\n")
    assert parent_is_as_declared(both, template(unprivileged=True)) == ""
    assert parent_is_as_declared(Place(head, section=None), template()) == ""


def test_storage_without_snapshots_is_named_for_a_missing_one() -> None:
    words = ("test_010_preflight", "test_parent_snapshot_is_whole")
    head = HEAD.format("903/vm-903-disk-0.raw")
    message, modes = said(*words, Place(head, section=None, kind="dir"), template())
    assert message.startswith(f"903@{SNAPSHOT} does not exist, only []; expected a snapshot of the declared name; ")
    assert "; rootfs is on storage lxc-disks of type dir, which has no snapshots for containers" in message
    assert message.endswith(f"run: pct shutdown 903; pct move-volume 903 rootfs STORAGE; {TAKE}")
    assert modes == ["A5"]
    other = Place(f"{HEAD.format('v')}mp0: files:903/w.raw,mp=/a\nmp1: /srv,mp=/b\n", section=None, more="dir: files\n")
    message, modes = said(*words, other, template())
    assert "; mp0 is on storage files of type dir, which has no" in message
    assert message.endswith(f"run: pct shutdown 903; pct move-volume 903 mp0 STORAGE; {TAKE}")
    message, modes = said(*words, Place(head, section=None), template())
    assert message.endswith(f"; run: pct listsnapshot 903; {TAKE}")
    assert "storage" not in message
    assert modes == []
    assert said(*words, Place(head, kind="dir"), template()) == ("", [])


def test_snapshot_that_is_not_there_is_not_called_older() -> None:
    """The mode of a snapshot that was taken too early deletes it, and was named for one that was never taken."""
    build = SimpleNamespace(ledger=SimpleNamespace(blocked_by=RuntimeError))
    head, words = HEAD.format("x"), ("test_010_preflight", "test_gpus_are_passed_where_it_counts")
    with pytest.raises(RuntimeError, match=r"^test_parent_snapshot_is_whole$"):
        said(*words, Place(head, section=None), template(), build)
    message, modes = said(*words, Place(head), template(), build)
    assert message.startswith(f"903@{SNAPSHOT} passes fewer GPUs than container 903 does now")
    assert modes == ["A67"]


@pytest.mark.parametrize(
    ("nodes", "seen"),
    [
        ({}, "has no quorum (offline: unknown): "),
        (
            {"pve": {"online": 1}, "pve2": {"online": 0}},
            "has no quorum (offline: pve2): used numbers are unknown; run: pvecm status",
        ),
        ({"pve": {}, "pve2": {"online": "x"}}, "has no quorum (offline: unknown): "),
        ({f"n{each}": {"online": 0} for each in range(30)}, "n6, n7): "),
    ],
)
def test_cluster_without_quorum_is_named_with_the_nodes_that_are_off(nodes: dict[str, Any], seen: str) -> None:
    head = HEAD.format("x")
    lost = Place(head, cluster={"name": "lab", "nodes": 2, "quorate": 0, "version": 2}, nodelist=nodes)
    with pytest.raises(NodeError) as error:
        lost.guests()
    assert seen in str(error.value)
    (found,) = diagnose({"check": "test_number_is_free_or_a_container", "failure": str(error.value)})
    assert found.mode.id == "A16"
    assert "pvecm expected 1" in found.mode.fix


# --- a GPU ----------------------------------------------------------------------------------------------


def failures(**values: str) -> list[str]:
    return health.judge(H100 | {name.replace("__", "."): value for name, value in values.items()}, loaded=False)[0]


@pytest.mark.parametrize(
    ("field", "value", "fix"),
    [
        ("compute_mode", "Prohibited", "nvidia-smi -i {} -c DEFAULT"),
        ("mig__mode__current", "Enabled", "nvidia-smi -i {} -mig 0"),
        ("gpu_recovery_action", "Reset", "nvidia-smi --gpu-reset -i {}; if"),
    ],
)
def test_fix_names_the_card(field: str, value: str, fix: str) -> None:
    """By its address: a container numbers the cards that it has, and a command without one changes all."""
    where = "00000000:02:00.0"
    (line,) = failures(**{field: value, "pci__bus_id": where})
    assert fix.format(where) in line
    for odd in ("", "N/A", "00000000:02:00.0; reboot", "-x"):
        (line,) = failures(**{field: value, "pci__bus_id": odd})
        assert fix.format("INDEX") in line


@pytest.mark.parametrize(
    ("now", "then", "failed", "warned", "never"),
    [
        ("Enabled", "Disabled", "MIG stays on until the card is reset", "", "-mig 0"),
        ("Enabled", "Enabled", "the card is split into MIG instances", "", "--gpu-reset"),
        ("Enabled", "", "the card is split into MIG instances", "", "--gpu-reset"),
        ("Disabled", "Enabled", "", "the next reset or reboot splits the card", "--gpu-reset"),
        ("Disabled", "Disabled", "", "", "MIG"),
        ("N/A", "N/A", "", "", "MIG"),
        ("Enabled", "rubbish", "the card is split into MIG instances", "mig.mode.pending is rubbish", "--gpu-reset"),
        ("rubbish", "Disabled", "", "mig.mode.current is rubbish: this is not a valid value", "-mig 0"),
    ],
)
def test_mode_that_waits_for_a_reset_is_not_set_again(
    now: str, then: str, failed: str, warned: str, never: str
) -> None:
    found = health.judge(H100 | {"mig.mode.current": now, "mig.mode.pending": then}, loaded=False)
    for lines, told in zip(found, (failed, warned), strict=True):
        assert [told in line for line in lines] == [True] * bool(told)
        assert not [line for line in lines if never in line]


@pytest.mark.parametrize(("now", "then"), [("Enabled", "Disabled"), ("Disabled", "Enabled")])
def test_ecc_that_changes_with_the_next_reset_is_told(now: str, then: str) -> None:
    for pending, told in ((then, True), (now, False), ("N/A", False)):
        ecc = {"ecc.mode.current": now, "ecc.mode.pending": pending}
        failed, warned = health.judge(H100 | ecc, loaded=False)
        assert (failed, bool(warned)) == ([], told)
        assert not told or "the next reset or reboot changes ECC" in warned[0]


def test_broken_card_is_named_once_with_the_fix_that_helps() -> None:
    where = {"pci.bus_id": "00000000:61:00.0"}
    broken = dict.fromkeys(H100, "[GPU requires reset]") | where
    fix = "nvidia-smi --gpu-reset -i 00000000:61:00.0; if that is refused, reboot the node"
    for action, lines in (("N/A", 1), ("Reset", 1), ("Drain and Reset", 1), ("Reboot", 2)):
        failed, warned = health.judge(broken | {"gpu_recovery_action": action}, loaded=False)
        named = [line for line in failed if line != health.NONE_REPORTED]
        assert (len(named), warned) == (lines, [])
        assert " and 13 more are [GPU requires reset]: the GPU requires a reset" in named[0]
        assert named[0].endswith(fix)
        assert lines == 1 or named[1].endswith("accepts new work; reboot the node")
    lost, _ = health.judge(dict.fromkeys(H100, "GPU is lost") | where, loaded=False)
    assert next(line for line in lost if line != health.NONE_REPORTED).count("power the node off and on") == 1
    assert len(lost) == 2
    unread, warned = health.judge(dict.fromkeys(H100, "[Unknown Error]"), loaded=True)
    assert (unread, len(warned)) == ([health.NONE_REPORTED], 1)
    cards = [replace(CARD, pci=each, values=broken | {"pci.bus_id": each}) for each in ("0000:61:00.0", "0000:62:00.0")]
    node = NodeGpus({number: replace(each, minor=number) for number, each in enumerate(cards)})
    both: Any = SimpleNamespace(declared=SimpleNamespace(tensor_parallel=1, gpus=(0, 1)))
    message, modes = said("test_014_gpus_and_model", "test_gpus_are_on_the_node", both, node)
    assert (message.count("the driver has stopped using it"), modes) == (2, ["B40"])
    assert len(message) < 1000


def test_fix_of_a_mode_names_the_card() -> None:
    def fix(*cards: str) -> str:
        ours = [Gpu(each, f"GPU-{each}", "RTX 5060 Ti", "580", 1, "12.0", pci) for each, pci in enumerate(cards)]
        bad = "; ".join(f"{gpu}: compute_mode is Prohibited: no process may use the GPU" for gpu in ours)
        (found,) = diagnose({"check": "test_gpus_are_on_the_node", "failure": f"{bad}; expected healthy GPUs"})
        return found.mode.fix

    assert "nvidia-smi -i 00000000:02:00.0 -c DEFAULT" in fix("00000000:02:00.0")
    assert "nvidia-smi -i INDEX -c DEFAULT" in fix("00000000:02:00.0", "00000000:41:00.0")
    kernel = "[1.0] NVRM: Xid (PCI:0000:c1:00): 48, pid=7, name=python3, DBE (double bit error)"
    (found,) = diagnose({"check": "test_cuda_works_on_gpu", "failure": "x", "kernel": kernel})
    assert "nvidia-smi --gpu-reset -i 0000:c1:00.0 on the node" in found.mode.fix


def test_address_of_a_card_is_read() -> None:
    assert "<pci_bus_id>00000000:41:00.0<" in report(1)


def test_failed_remapping_is_named_before_a_reboot_that_can_not_help() -> None:
    lines = failures(ecc__errors__uncorrected__volatile__total="4", remapped_rows__failure="Yes")
    assert lines[0].startswith("remapped_rows.failure is Yes: a bad memory row could not be remapped; replace the card")
    assert lines[1].endswith("remaps the memory; if that failed or the error recurs, replace the card")
