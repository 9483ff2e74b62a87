"""What is judged of a GPU: its health, its speed, and what a simulated one can't show."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Lock
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fixtures.base.errors import BuildError, Simulated, Unseen
from fixtures.gpu import gpus, health, nvidia_smi
from fixtures.gpu.gpu import Gpu
from fixtures.gpu.gpus import uuids
from fixtures.proxmox.container import ContainerError
from fixtures.report import plot
from fixtures.run.build import PROBE_MB, Build
from fixtures.run.ledger import Ledger
from fixtures.run.stages import INCONCLUSIVE, Check
from fixtures.serving import vllm
from fixtures.serving.image import Image
from fixtures.serving.reference import Reference, outside
from fixtures.serving.served_model import Figure
from tests.ledgers import hear
from tests.mutations.world import UUIDS, report
from tests.suite_run import TOP

# An H100's own words, idle (nvidia-smi of driver 580.159.04)
H100 = {
    "ecc.errors.uncorrected.volatile.total": "0",
    "ecc.errors.corrected.volatile.total": "0",
    "retired_pages.pending": "[N/A]",
    "remapped_rows.pending": "No",
    "remapped_rows.failure": "No",
    "clocks_event_reasons.hw_thermal_slowdown": "Not Active",
    "temperature.gpu": "33",
    "enforced.power.limit": "700.00",
    "power.default_limit": "700.00",
    "pcie.link.width.current": "16",
    "pcie.link.width.max": "16",
    "pcie.link.gen.current": "5",
    "pcie.link.gen.max": "5",
    "persistence_mode": "Enabled",
    "compute_mode": "Default",
    "mig.mode.current": "Disabled",
}


def test_healthy_gpu_has_no_findings() -> None:
    assert health.judge(H100, loaded=True) == ([], [])


def test_consumer_card_that_reports_little_has_no_findings() -> None:
    assert health.judge(dict.fromkeys(H100, "[N/A]") | {"temperature.gpu": "60"}, loaded=True) == ([], [])


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("ecc.errors.uncorrected.volatile.total", "3", "uncorrectable memory errors"),
        ("retired_pages.pending", "Yes", "reboot"),
        ("remapped_rows.failure", "Yes", "replace the card"),
        ("clocks_event_reasons.hw_thermal_slowdown", "Active", "hardware thermal slowdown"),
        ("clocks_event_reasons.hw_power_brake_slowdown", "Active", "power brake"),
        ("gpu_recovery_action", "Reboot", "asks for this"),
        ("temperature.gpu", "95", "too hot"),
        ("compute_mode", "Prohibited", "-c DEFAULT"),
        ("mig.mode.current", "Enabled", "-mig 0"),
        ("temperature.gpu", "[GPU requires reset]", "the driver has stopped using it"),
    ],
)
def test_each_fault_is_named_with_its_fix(field: str, value: str, said: str) -> None:
    (line,), warnings = health.judge(H100 | {field: value}, loaded=True)
    assert line.startswith(f"{field} is {value}: ")
    assert said in line
    assert warnings == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ecc.errors.corrected.volatile.total", "5000"),
        ("remapped_rows.pending", "Yes"),
        ("remapped_banks.pending", "Yes"),
        ("persistence_mode", "Disabled"),
        ("enforced.power.limit", "350.00"),
        ("pcie.link.width.current", "4"),
        ("pcie.link.gen.current", "1"),
        ("compute_mode", "Exclusive_Process"),
        ("clocks_event_reasons.sw_thermal_slowdown", "Active"),
        ("temperature.gpu", "rubbish"),
        ("temperature.gpu", "[Unknown Error]"),
        ("temperature.gpu", "Insufficient Permissions"),
    ],
)
def test_what_only_deserves_a_look_warns(field: str, value: str) -> None:
    failures, (line,) = health.judge(H100 | {field: value}, loaded=True)
    assert failures == []
    assert value in line


def test_link_that_rests_is_judged_under_load_only() -> None:
    resting = H100 | {"pcie.link.gen.current": "1"}
    assert health.judge(resting, loaded=False) == ([], [])
    assert health.judge(resting, loaded=True)[1]


@pytest.mark.parametrize("values", [{}, dict.fromkeys(H100, "[N/A]"), dict.fromkeys(H100, "[Unknown Error]")])
def test_gpu_of_which_nothing_is_known_is_not_healthy(values: dict[str, str]) -> None:
    failures, _ = health.judge(values, loaded=False)
    assert "health is unknown" in failures[0]


def test_heat_is_judged_by_the_limits_of_the_card() -> None:
    assert health.judge(H100 | {"temperature.gpu": "92", "temperature.gpu.slowdown": "95"}, loaded=True) == ([], [])
    left = {"temperature.gpu.tlimit": "-2", "temperature.gpu.tlimit.slowdown": "-2"}
    assert "too hot" in health.judge(H100 | {"temperature.gpu": "86"} | left, loaded=True)[0][0]


def test_real_h100_is_healthy() -> None:
    text = (Path(__file__).parent / "data/nvidia-h100/nvidia-smi-q.xml").read_text()
    report = nvidia_smi.read(text)
    (card,) = report.gpus
    assert (report.driver, report.cuda, card.minor, card.brand) == ("580.159.04", "13.0", 0, "NVIDIA")
    assert card.value("memory.total").whole == 81559
    assert card.values["ecc.errors.uncorrected.volatile.total"] == "0"
    assert health.judge(card.values, loaded=True) == ([], [])


def test_phases_are_read_from_the_log() -> None:
    log = """[default_loader.py:430] Loading weights took 0.19 seconds
[monitor.py:53] torch.compile took 27.17 s in total
[monitor.py:81] Initial profiling/warmup run took 33.73 s
[model_runner.py:726] Graph capturing finished in 5 secs, took 0.38 GiB
[core.py:337] init engine (profile, create kv cache, warmup model) took 87.12 s (compilation: 27.17 s)"""
    assert list(vllm.phases(log).values()) == [0.19, 27.17, 33.73, 5.0, 87.12]
    assert vllm.phases("nothing of the kind") == {}


def figures(speed: float, ready: float = 50.0) -> list[Figure]:
    return [Figure("one request", speed, "tokens/s", speed, speed), Figure("until ready", ready, "s", ready, ready)]


def reference(folder: Path, model: str = "m") -> Reference:
    gpu = Gpu(0, "GPU-1", "NVIDIA H100 80GB HBM3", "580", 81559, "9.0")
    settings = SimpleNamespace(test_model=model, server_args=("--a",), reference_folder=folder)
    return Reference(cast(Any, settings), gpu, Image("v", f"v@sha256:{'a' * 64}", (), 0))


def test_reference_is_the_median_with_its_spread(tmp_path: Path) -> None:
    for speed in (470.0, 480.0, 400.0):
        reference(tmp_path).add(figures(speed))
    book = reference(tmp_path)
    assert book.path.name == "nvidia-h100-80gb-hbm3-aaaaaaaaaaaa.json"
    assert book.values["one request"] == [470.0, -34, None, "tokens/s"]
    assert book.values["until ready"] == [50.0, None, 30, "s"]
    one = book.compared(figures(460.0)[0])
    assert one.history == [470.0, 480.0, 400.0]
    assert outside(one) == ""
    assert "polyline" in plot.history(one)


def test_worse_figure_is_outside_and_better_one_is_not(tmp_path: Path) -> None:
    reference(tmp_path).add(figures(470.0))
    book = reference(tmp_path)
    slow, late = (book.compared(each) for each in figures(400.0, 80.0))
    assert "one request: 400.0 tokens/s (repeats 400.0 to 400.0) is below 470 -10 %" in outside(slow)
    assert "is above 50 +30 %" in outside(late)
    assert [outside(book.compared(each)) for each in figures(900.0, 5.0)] == ["", ""]


def test_two_very_different_runs_do_not_allow_any_speed(tmp_path: Path) -> None:
    for speed in (1.0, 1000.0):
        reference(tmp_path).add(figures(speed))
    assert outside(reference(tmp_path).compared(figures(0.01)[0]))


def test_gpus_are_told_apart_by_their_uuid() -> None:
    lines = ["GPU 0: NVIDIA H100 (80 GB) (UUID: GPU-1)", "  MIG 1g.10gb Device 0: (UUID: MIG-2)", "Failed to", ""]
    assert uuids(lines) == ["GPU-1"]


def test_gpu_is_named_by_what_its_owner_can_find() -> None:
    """By its device, its PCI address and its UUID, where the order of the devices is not that of the addresses."""
    first = Gpu(0, "GPU-a", "H100", "580", 81559, "9.0", "00000000:01:00.0", minor=1)
    second = Gpu(1, "GPU-b", "H100", "580", 81559, "9.0", "00000000:41:00.0", minor=0)
    cards = [first, second]
    assert [gpus.index_of(cards, device, (0, 1)) for device in (0, 1)] == [1, 0]
    assert [gpus.selector(cards, device) for device in (0, 1)] == ["GPU-b", "GPU-a"]
    assert gpus.named(cards, 0, 1) == "GPU 0 (H100, 00000000:41:00.0, GPU-b)"
    assert gpus.named(cards, 1, 0) == "GPU 1 (H100, 00000000:01:00.0, GPU-a)"
    assert gpus.named([replace(first, minor=None)], 1, 0) == "GPU 1 (H100, 00000000:01:00.0, GPU-a)", "by its place"
    unknown = "GPU 1 (/dev/nvidia1 on the node, not listed)"
    assert (gpus.selector([], 1), gpus.named([], 1, 0), gpus.named(cards, 1, 1)) == ("1", unknown, unknown)
    assert gpus.others(cards, {0: second, 1: first}) == [] == gpus.others([replace(first, minor=None)], {0: second})
    assert gpus.others(cards, {0: replace(second, uuid="GPU-c"), 1: first}) == [
        "GPU 0 (H100, 00000000:41:00.0, GPU-b), on the node GPU 0 (H100, 00000000:41:00.0, GPU-c)"
    ]
    assert [each.is_in("NVRM: Xid (PCI:0000:41:00): 79, pid=1") for each in cards] == [False, True]
    assert not replace(first, pci="0000:01:00.0").is_in("12:01:00 NVRM: Xid (PCI:0000:41:00): 79"), "drivers before 367"


def test_answer_about_another_card_is_no_answer() -> None:
    said = SimpleNamespace(out=report(1), err="", exit_status=0)
    container: Any = SimpleNamespace(ctid=920, execute=lambda *_, **__: said)
    known = nvidia_smi.read(report(0, 1), 0, "").gpus
    assert gpus.state(container, 1, known).uuid == UUIDS[1]
    with pytest.raises(ContainerError, match=f"index 0, reports {UUIDS[1]}; expected GPU 0 .*{UUIDS[0]}"):
        gpus.state(container, 0, known)


def asked(cards: int, memory_mb: int) -> Any:
    listed = [Gpu(index, f"GPU-{index}", "H100", "580", 81559, "9.0") for index in range(cards)]
    return SimpleNamespace(gpus=listed, room_for_probes=memory_mb // PROBE_MB, asked_of_gpus={})


def test_all_gpus_are_asked_at_the_same_time_and_judged_apart() -> None:
    meet, build, seen = Barrier(2), asked(2, 4096), list[int]()

    def ask(index: int) -> str:
        meet.wait(60)  # for the other one
        seen.append(index)
        if index == 0:
            raise ContainerError("Xid 79")
        return f"from {index}"

    with pytest.raises(ContainerError, match="Xid 79"):
        Build.ask_gpu(build, 0, "torch", ask)
    assert Build.ask_gpu(build, 1, "torch", ask) == "from 1"
    assert sorted(seen) == [0, 1]
    with pytest.raises(BuildError, match="one with index 2"):
        Build.ask_gpu(build, 2, "torch", ask)


@pytest.mark.parametrize(("memory_mb", "most"), [(512, 1), (4096, 2), (8192, 5)])
def test_no_more_gpus_are_asked_at_once_than_there_is_memory_for(memory_mb: int, most: int) -> None:
    build, lock, now, seen = asked(8, memory_mb), Lock(), 0, 0

    def ask(index: int) -> int:
        nonlocal now, seen
        with lock:
            now += 1
            seen = max(seen, now)
        time.sleep(0.01)
        with lock:
            now -= 1
        return index

    assert [Build.ask_gpu(build, index, "torch", ask) for index in range(8)] == list(range(8))
    assert 1 <= seen <= most


def test_reference_of_another_model_does_not_count(tmp_path: Path) -> None:
    reference(tmp_path).add(figures(470.0))
    assert reference(tmp_path, model="other").runs == []


def test_spoilt_reference_is_named(tmp_path: Path) -> None:
    path = reference(tmp_path).path
    makes: tuple[Callable[[], object], ...] = (lambda: path.write_text("[]"), path.mkdir, lambda: os.mkfifo(path))
    for make in makes:
        make()
        with pytest.raises(BuildError, match="fix or remove it"):
            reference(tmp_path)
        (path.rmdir if path.is_dir() else path.unlink)()


def test_what_a_simulated_gpu_can_not_show_is_no_hole() -> None:
    """It is excused only where GPUs are simulated; the same exception on real hardware leaves the check unproved."""
    for simulated, verdict, unproved in ((True, INCONCLUSIVE, []), (False, "skipped", ["a"])):
        book = Ledger([Check("one", "a"), Check("two", "c")])
        book.begin("a")
        hear(book, "a", "skipped", Simulated("x"), simulated=simulated)
        assert book.outcomes == {"a": verdict}
        assert book.unproved(before="two") == unproved
    assert issubclass(Simulated, pytest.skip.Exception)


@pytest.mark.parametrize(("error", "unproved"), [(Unseen("unknown: x"), []), (Simulated("x"), ["a.py::test_x"])])
def test_what_was_not_seen_hinders_no_sealing(error: BaseException, unproved: list[str]) -> None:
    """On real hardware too, as a later check proves it by function; the check itself has never passed."""
    ledger = Ledger([Check("one", "a.py::test_x"), Check("two", "a.py::test_y")])
    ledger.begin("a.py::test_x")
    hear(ledger, "a.py::test_x", "skipped", error)
    assert ledger.outcomes["a.py::test_x"] != "passed"
    assert ledger.unproved(before="two") == unproved


def test_value_that_cannot_be_read_is_not_healthy() -> None:
    """An unknown error of a field that this card has is neither a fault nor health."""
    failures, notes = health.judge(H100 | {"remapped_rows.failure": "[Unknown Error]"}, loaded=True)
    assert failures == []
    with pytest.raises(Unseen, match=r"remapped_rows\.failure is .Unknown Error"):
        health.report("GPU 0", notes)
    health.report("GPU 0", ["a fan is loud"])


def test_inconclusive_check_is_no_skipped_test(tmp_path: Path) -> None:
    """A test of a check that could see nothing would be skipped without a word, as it raises what pytest skips by."""
    test = tmp_path / "test_it.py"
    test.write_text("from fixtures.base.errors import Unseen\ndef test_it(): raise Unseen('unknown: GPU 1')\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", str(test)]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "so this test proves nothing: unknown: GPU 1" in done.stdout
