"""Values that cards show in odd places: behind passthrough, as virtual GPUs, cut into instances, asleep or lost.

The words are nvidia-smi's for NVML's errors (nvml.h, nvmlReturn_t) and those of `man nvidia-smi`.
"""

from __future__ import annotations

import importlib
import re
from contextlib import nullcontext
from types import MethodType, SimpleNamespace
from typing import Any, cast
from xml.etree import ElementTree

import pytest

from fixtures.base.declaration import Declared
from fixtures.base.errors import Unseen
from fixtures.base.settings import Settings
from fixtures.diagnosis.failure_modes import diagnose
from fixtures.gpu import gpus, health, node_gpus, nvidia_smi
from fixtures.gpu.node_gpus import NodeGpus
from fixtures.proxmox.container import FIRST_QUESTIONS, Container, ContainerError
from fixtures.proxmox.node import NodeError
from fixtures.serving.model import Model
from fixtures.template import ephemeral_clone

preflight, room, gpus_and_model, clone_checks, inherited_stack = (
    importlib.import_module(f"tests_920.test_{name}")
    for name in ("010_preflight", "012_room", "014_gpus_and_model", "020_clone", "030_inherited_stack")
)

SOUND = {
    "persistence_mode": "Enabled",
    "compute_mode": "Default",
    "temperature/gpu_temp": "45 C",
    "temperature/gpu_temp_slow_threshold": "93 C",
    "fb_memory_usage/total": "24564 MiB",
    "fb_memory_usage/free": "24263 MiB",
}
ALL = tuple(SOUND)
CARDS: dict[str, tuple[dict[str, str], list[str], list[str]]] = {  # what differs, what fails, what is a warning
    "sound": ({}, [], []),
    "passthrough: a sensor that can't be read": ({"temperature/gpu_temp": "ERR!"}, [], ["temperature.gpu"]),
    "passthrough: nothing can be read": (
        dict.fromkeys(ALL, "Unknown Error"),
        ["health is unknown"],
        ["temperature.gpu", "persistence_mode", "compute_mode"],
    ),
    "lost": ({"temperature/gpu_temp": "GPU is lost"}, ["temperature.gpu"], []),
    "lost, in brackets": ({"fb_memory_usage/free": "[GPU is lost]"}, ["memory.free"], []),
    "needs a reset": ({"persistence_mode": "Reset Required"}, ["persistence_mode"], []),
    "needs a reset, as the driver asks": ({"gpu_recovery_action": "Drain and Reset"}, ["gpu_recovery_action"], []),
    "no recovery action": ({"gpu_recovery_action": "None"}, [], []),
    "a recovery action that the card does not have": ({"gpu_recovery_action": "N/A"}, [], []),
    # NVIDIA/DCGM#263 has the action; these are words for NVML's errors in its place
    "a recovery action that the driver's library does not know": (
        {"gpu_recovery_action": "Function Not Found"},
        [],
        [],
    ),
    "a recovery action that comes too late": ({"gpu_recovery_action": "Timeout"}, [], ["gpu_recovery_action"]),
    "one of two words, and neither": (
        {"remapped_rows/remapped_row_failure": "In use by another client", "compute_mode": "No data"},
        [],
        ["remapped_rows.failure", "compute_mode"],
    ),
    "needs a reset, as a driver before 570 says": (  # pynvml#51
        {"gpu_reset_status/reset_required": "Yes"},
        ["gpu_recovery_action"],
        [],
    ),
    # an L4 (driver 555) and Rubin (driver 615) of NVIDIA/k8s-test-infra, qx-vrnvl72.xml, have these
    "repairs that wait": (
        {"ecc_errors/channel_repair_pending": "Yes", "ecc_errors/tpc_repair_pending": "No"},
        ["repairs.pending.channel"],
        [],
    ),
    "banks that wait": ({"remapped_banks/bank_remapper_pending": "Yes"}, [], ["remapped_banks.pending"]),
    "one counter of several that can't be read": (
        {"ecc_errors/volatile/dram_correctable": "0", "ecc_errors/volatile/dram_uncorrectable": "Unknown Error"}
        | {"ecc_errors/volatile/sram_uncorrectable_parity": "0", "ecc_errors/volatile/sram_correctable": "N/A"},
        [],
        ["ecc.errors.uncorrected.volatile.total"],
    ),
    "an error beside a counter that can't be read": (
        {"ecc_errors/volatile/sram_uncorrectable_parity": "N/A", "ecc_errors/volatile/dram_uncorrectable": "5"},
        ["ecc.errors.uncorrected.volatile.total"],
        [],
    ),
    "a whole section that may not be read": (
        {"clocks_event_reasons": "N/A", "ecc_errors/volatile": "Insufficient Permissions"},
        [],
        [f"ecc.errors.{kind}.volatile.total" for kind in ("uncorrected", "corrected")],
    ),
    "may not be read": ({"compute_mode": "[Insufficient Permissions]"}, [], ["compute_mode"]),
    "instances": ({"mig_mode/current_mig": "Enabled"}, ["mig.mode.current"], []),
    "instances after the next reset": (
        {"mig_mode/current_mig": "Disabled", "mig_mode/pending_mig": "Enabled"},
        [],
        ["mig.mode.pending"],
    ),
    "Tegra: no value at all": (dict.fromkeys(ALL, "Not Supported"), ["health is unknown"], []),
    "laptop, asleep": ({"temperature/gpu_temp": "N/A", "persistence_mode": "Disabled"}, [], ["persistence_mode"]),
    "degrees to the limit": (
        {"temperature/gpu_temp_tlimit": "-2 C", "temperature/gpu_temp_slow_tlimit_threshold": "-2 C"},
        ["temperature.gpu"],
        [],
    ),
    "a counter that overflows": (
        {"ecc_errors/volatile/dram_uncorrectable": str(2**64 - 1)},
        [],
        ["ecc.errors.uncorrected.volatile.total"],
    ),
    "reasons that the driver has dropped": (
        {"clocks_event_reasons": "Requested functionality has been deprecated"},
        [],
        [],
    ),
    "held back below its power": (
        {"gpu_power_readings/current_power_limit": "200 W", "gpu_power_readings/default_power_limit": "450 W"},
        [],
        ["enforced.power.limit"],
    ),
    "a virtual GPU with a licence": (
        {"vgpu_software_licensed_product/license_status": "Licensed (Expiry: never)"},
        [],
        [],
    ),
    "a virtual GPU without a licence": (
        {"vgpu_software_licensed_product/license_status": "Unlicensed (Restricted)"},
        [],
        ["vgpu.license"],
    ),
    # nvmlGpuFabricState_t and nvmlReturn_t of nvml.h; the words of NVIDIA's Fabric Manager User Guide
    "no NVSwitch": ({"fabric/state": "N/A", "fabric/status": "N/A"}, [], []),
    "in its NVLink fabric": ({"fabric/state": "Completed", "fabric/status": "Success"}, [], []),
    "a fabric manager that does not run": (
        {"fabric/state": "In Progress", "fabric/status": "N/A"},
        ["fabric.state"],
        [],
    ),
    "a fabric that was not begun": ({"fabric/state": "Not Started", "fabric/status": "N/A"}, ["fabric.state"], []),
    "refused by its NVLink fabric": (
        {"fabric/state": "Completed", "fabric/status": "Insufficient Resources"},
        [],
        ["fabric.status"],
    ),
    "a fabric that is not known": ({"fabric/state": "Unknown Error", "fabric/status": "N/A"}, [], ["fabric.state"]),
    "a fabric in a state of its own": ({"fabric/state": "Degraded", "fabric/status": "N/A"}, [], ["fabric.state"]),
    "nobody may use it": ({"compute_mode": "Prohibited"}, ["compute_mode"], []),
    "one at a time": ({"compute_mode": "Exclusive_Process"}, [], ["compute_mode"]),
}


def report(values: dict[str, str]) -> str:
    log = ElementTree.Element("nvidia_smi_log")
    gpu = ElementTree.SubElement(log, "gpu", id="00000000:0B:00.0")
    for path, value in values.items():
        place = gpu
        for name in path.split("/"):
            found = place.find(name)
            place = ElementTree.SubElement(place, name) if found is None else found
        place.text = value
    return ElementTree.tostring(log, encoding="unicode")


def fields(lines: list[str]) -> list[str]:
    named = (re.split(" (?:is|are) |:", line.removeprefix(health.NOT_SEEN))[0] for line in lines)
    return [each for names in named for each in names.split(", ")]


def test_memory_of_nothing_is_not_known() -> None:
    card = nvidia_smi.read(report({**SOUND, "fb_memory_usage/total": "0 MiB", "fb_memory_usage/free": "0 MiB"})).gpus[0]
    assert card.memory_mib is None


@pytest.mark.parametrize("name", CARDS)
def test_value_is_judged_by_what_it_means(name: str) -> None:
    differs, fails, warns = CARDS[name]
    card = nvidia_smi.read(f"stray words\n{report({**SOUND, **differs})}\nmore\n").gpus[0]
    failures, warnings = health.judge(card.values, loaded=True)
    if "health is unknown" in fails:
        assert "health is unknown" in failures[0]
    else:
        assert fields(failures) == fails
    assert fields(warnings) == warns


RELEASES = {  # os-release(5); the template that is declared, and what the check says
    "quotes, comments and carriage returns": (
        "# by hand\r\nID='debian'\r\nVERSION_ID='12'\r\n",
        "debian-12-x_1.tar",
        "",
    ),
    "another release": ('ID=debian\nVERSION_ID="13"\n', "debian-12-x_1.tar", "is debian 13; expected debian 12"),
    # pages of Debian's testing have no VERSION_ID
    "no release": ("ID=debian\nVERSION_CODENAME=forky\n", "debian-14-x_1.tar", "unknown: .*without a release"),
    "another system without a release": ("ID=arch\n", "debian-12-x_1.tar", "is arch rolling; expected debian 12"),
    "a template of one's own": ('ID=debian\nVERSION_ID="12"\n', "my-golden-image.tar.zst", "unknown: .*my-golden"),
    "an OCI image": ('ID=debian\nVERSION_ID="12"\n', "debian_bookworm.tar", "unknown: .*debian_bookworm"),
    "a backup": ('ID=debian\nVERSION_ID="12"\n', "vzdump-lxc-903-2026_11_01.tar.zst", "unknown: .*vzdump"),
}


@pytest.mark.parametrize("name", RELEASES)
def test_system_is_compared_where_both_are_stated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, template, said = RELEASES[name]
    answers = [
        SimpleNamespace(out=out, stdout=out.encode(), stderr=b"", exit_status=0) for out in ("Linux", text, "", "")
    ]
    replies = dict(zip(FIRST_QUESTIONS, answers, strict=True))
    channel = SimpleNamespace(prefetch=lambda *_: None, run=lambda argv, **_: replies[argv[-1]])
    monkeypatch.setattr(Container, "channel", channel)
    container = Container(cast(Any, SimpleNamespace(quick=1)), 920)
    declared: Any = SimpleNamespace(template=template)
    declared.os = cast(Any, Declared.os).fget(declared)
    if not said:
        inherited_stack.test_os_is_as_declared(container, declared)
        return
    with pytest.raises(Unseen if said.startswith("unknown") else AssertionError, match=said):
        inherited_stack.test_os_is_as_declared(container, declared)


def test_report_without_an_end_is_said_to_be_cut_off() -> None:
    whole = report(SOUND)
    with pytest.raises(nvidia_smi.NvidiaSmiError, match="its report is truncated: "):
        nvidia_smi.read(whole[: len(whole) // 2])


def test_gpu_that_the_report_lacks_is_noted() -> None:
    """nvidia-smi leaves out a GPU that it can't open, ends with 255 and says so in a line of its own."""
    lost = "Unable to determine the device handle for GPU1: 0000:0B:00.0: Unknown Error"
    found = nvidia_smi.read(f"{lost}\n{report(SOUND)}", 255)
    assert len(found.gpus) == 1
    assert found.notes[0] == lost
    assert "unknown error" in found.notes[1]


@pytest.mark.parametrize(
    ("uuid", "mode"), [("GPU is lost", "B11"), ("[GPU requires reset]", "B40"), ("[Unknown Error]", None)]
)
def test_gpu_without_an_identity_is_said_to_be_what_it_is(uuid: str, mode: str | None) -> None:
    done = SimpleNamespace(out=report({**SOUND, "uuid": uuid}), exit_status=0, err="")
    container = SimpleNamespace(ctid=920, execute=lambda *_, **__: done)
    with pytest.raises(ContainerError, match="reports no UUID: GPU 0 ") as raised:
        gpus.listed(cast(Any, container))
    found = diagnose({"check": "test_gpus_are_listed", "failure": str(raised.value)})
    assert [finding.mode.id for finding in found] == ([mode] if mode else [])


DECLARED: Any = SimpleNamespace(
    gpus=(0,), tensor_parallel=1, storage_pool="s", network=SimpleNamespace(address="10.0.0.9")
)
PLACE: Any = SimpleNamespace(declared=DECLARED, ctid=920, parent=SimpleNamespace(ctid=903))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "fits"),
        ("--max-model-len 4096", "fits"),
        ("--cpu-offload-gb 20", "unknown"),
        ("--cpu_offload_gb=20", "unknown"),
        ("-q bitsandbytes", "unknown"),
        ("--pipeline-parallel-size=2", "unknown"),
    ],
)
def test_weights_that_a_gpu_does_not_hold_alone_are_not_judged(words: str, said: str) -> None:
    """Of a card with 24 GB and a model of 30 GiB."""
    settings = cast(Settings, SimpleNamespace(server_args=words.split(), gpu_share=0.9))
    settings.server_option = MethodType(Settings.server_option, settings)  # type: ignore[method-assign]
    node = NodeGpus(cast(Any, {0: SimpleNamespace(number=0, memory_mib=24564)}))
    with pytest.raises(Unseen if said == "unknown" else AssertionError, match=said):
        gpus_and_model.test_model_fits_the_gpus(PLACE, Model({}, 30 * 2**30), node, settings)


def test_share_of_the_memory_is_named_as_vllm_takes_it() -> None:
    settings = cast(Any, SimpleNamespace(server_args=("--gpu_memory_utilization=0.5",)))
    settings.server_option = MethodType(Settings.server_option, settings)
    assert cast(Any, Settings.gpu_share).fget(settings) == 0.5


def test_library_of_an_older_driver_may_be_left_over() -> None:
    card = SimpleNamespace(gpus={0: SimpleNamespace(driver="580.105.08")})
    disk: Any = SimpleNamespace(
        sizes=lambda _: {f"libnvidia-ml.so.{each}": 1 for each in ("1", "575.57.08", "580.105.08")}
    )
    gpus_and_model.test_driver_is_the_same_inside(PLACE, card, disk)


def test_address_is_looked_for_on_every_interface() -> None:
    nets = {"net0": "name=eth0,ip=dhcp", "net1": "name=eth1,ip=10.0.0.9/16"}
    node: Any = SimpleNamespace(containers=lambda: {105: {}, 920: {}}, config=lambda _: nets)
    with pytest.raises(AssertionError, match=r"10.0.0.9 is the address of \[105\], too"):
        preflight.test_address_is_free(node, PLACE)
    assert ephemeral_clone.holders(node).keys() == {"dhcp", "10.0.0.9"}
    nets["net1"] = "bridge=vmbr1"
    with pytest.raises(NodeError, match="net1 is 'bridge=vmbr1', so its address is unknown"):
        preflight.test_address_is_free(node, PLACE)


def with_storage(defined: dict[str, str], name: str = "s") -> Any:
    files = SimpleNamespace(storages={"local": {"type": "dir"}, name: defined})
    return SimpleNamespace(name="pve2", cluster_files=files)


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ("pve1", "--nodes pve1,pve2"),
        ("pve1, pve3;", "or run where it is: --node pve1; run: pvesm set s --nodes pve1,pve3,pve2"),
        ("pve1,pve2", ""),
        ("pve2", ""),
    ],
)
def test_storage_of_other_nodes_is_named_with_what_helps(nodes: str, said: str) -> None:
    """Its own check says so, and says it first: no number or address is to blame."""
    node = with_storage({"type": "zfspool", "nodes": nodes})
    with (
        pytest.raises(AssertionError, match=r"^storage s is not available on pve2: ")
        if said
        else nullcontext() as raised
    ):
        preflight.test_storage_can_snapshot(node, PLACE)
    message = str(raised.value) if raised else ""
    assert said in message
    assert ("pvesm status --content rootdir" in message) is bool(said)
    marks = [each for each in room.test_clone_has_a_place.pytestmark if each.name == "needs"]
    assert [each.args for each in marks] == [("test_storage_can_snapshot",)]


@pytest.mark.parametrize(("active", "error"), [(1, NodeError), ("0", RuntimeError), (0, RuntimeError)])
def test_storage_that_is_not_active_is_named_by_its_own_check(
    monkeypatch: pytest.MonkeyPatch, active: object, error: type[Exception]
) -> None:
    def choose(*_: object) -> None:
        raise NodeError("cannot open 'tank': dataset does not exist")

    monkeypatch.setattr(ephemeral_clone, "choose", choose)
    node: Any = SimpleNamespace(figures=lambda _: {"active": active})
    build: Any = SimpleNamespace(no_clone=False, ledger=SimpleNamespace(blocked_by=RuntimeError))
    with pytest.raises(error, match="test_storage_has_room" if error is RuntimeError else "cannot open"):
        room.test_clone_has_a_place(node, PLACE, None, build)


@pytest.mark.parametrize(("name", "said"), [("S", "did you mean S?"), ("lxc-disk", "or add it: pvesm add")])
def test_storage_that_is_not_there_is_named_with_those_that_are(name: str, said: str) -> None:
    place: Any = SimpleNamespace(declared=SimpleNamespace(storage_pool="Ss"))
    with pytest.raises(AssertionError, match=r"^pve2 has no storage named Ss, only local, ") as raised:
        preflight.test_storage_can_snapshot(with_storage({"type": "zfspool"}, name), place)
    assert said in str(raised.value)


@pytest.mark.parametrize("word", ["0", "no", "off", "1", "yes"])
def test_storage_is_disabled_as_proxmox_reads_it(word: str) -> None:
    node = with_storage({"type": "zfspool", "disable": word})
    with nullcontext() if word in ("0", "no", "off") else pytest.raises(AssertionError, match="storage s is disabled"):
        preflight.test_storage_can_snapshot(node, PLACE)


@pytest.mark.parametrize("content", ["images", "iso,vztmpl", "images,rootdir", None])
def test_storage_that_takes_no_container_is_refused(content: str | None) -> None:
    defined = {"type": "zfspool"} | ({"content": content} if content else {})
    node = with_storage(defined)
    refused = content is not None and "rootdir" not in content
    with pytest.raises(AssertionError, match=f"takes {content}, no disks") if refused else nullcontext():
        preflight.test_storage_can_snapshot(node, PLACE)


def test_node_whose_driver_finds_no_gpu_is_refused() -> None:
    """It was unknown, so that 920 was cloned, and the fix spoke of a device that its parent does not pass."""
    said = SimpleNamespace(out="No devices were found\ncuda=12.4\n", exit_status=6, err="")
    found = node_gpus.look(cast(Any, SimpleNamespace(run=lambda *_, **__: said)))
    template: Any = SimpleNamespace(declared=SimpleNamespace(tensor_parallel=1, gpus=(0, 1)))
    with pytest.raises(AssertionError, match=r"lists \[\]; .* newer than this one"):
        gpus_and_model.test_gpus_are_on_the_node(template, found)


def test_model_whose_weights_are_pointers_is_refused_before_the_pull() -> None:
    settings: Any = SimpleNamespace(test_model="/models/my model", gpu_share=0.9)
    template: Any = SimpleNamespace(declared=SimpleNamespace(tensor_parallel=1, gpus=(0,)))
    with pytest.raises(AssertionError, match=r"my model are 134 bytes; .* run: git -C '/models/my model' lfs pull"):
        gpus_and_model.test_model_fits_the_gpus(template, Model({}, 134), NodeGpus({}), settings)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (18, "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.105"),
        (9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest"),
    ],
)
def test_node_whose_driver_does_not_work_is_refused(status: int, words: str) -> None:
    """It was unknown, so that 920 was sealed: its own libraries worked until the node's next reboot."""
    said = SimpleNamespace(out=words, exit_status=status, err="")
    found = node_gpus.look(cast(Any, SimpleNamespace(name="pve", run=lambda *_, **__: said)))
    template: Any = SimpleNamespace(declared=SimpleNamespace(tensor_parallel=1, gpus=(0, 1)))
    with pytest.raises(AssertionError, match=rf"on pve ended with {status}: (?s:.*); expected a driver that works"):
        gpus_and_model.test_gpus_are_on_the_node(template, found)


def test_larger_disk_than_declared_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = list[str]()
    monkeypatch.setattr(clone_checks, "warn", notes.append)
    for size in ("64G", "32G"):
        node: Any = SimpleNamespace(config=lambda _, size=size: {"rootfs": f"s:subvol-920-disk-0,size={size}"})
        declared = SimpleNamespace(storage_size_gb=32)
        template: Any = SimpleNamespace(ctid=920, differences=list, declared=declared)
        clone_checks.test_container_is_as_declared(node, template)
    assert notes == ["the disk has 64 GB, declared are 32: the parent's is as large, and no disk can be shrunk"]
