"""One fault of each stage, put for real; `make faults` puts all of them.

Some also show their cause in terminal, report, record and folder.
"""

from __future__ import annotations

import html

import pytest

from fixtures.record.model import from_json
from tests.faults.catalogue import FAULTS
from tests.faults.fault import Fault
from tests.faults.trial import WORDS, prepare, try_fault
from tests.lab.harness import STAND_IN, Lab, Run, says

pytestmark = pytest.mark.lab

CAUSES = {
    "runtime-missing": ("test_nvidia_runtime_is_registered", "B6", "Docker has no runtime named nvidia"),
    "gpu-missing": ("test_gpu_may_be_used[gpu1]", "B12", "Fewer GPUs are usable than the container is assigned"),
    # no Hub behind ours
    "unknown-tag": ("test_image_is_pulled", "C5", "The container's name server does not know the public name"),
    "snapshot-half-made": ("test_storage_agrees_with_the_configuration", "A13", "A snapshot is incomplete"),
}
TRIED = [fault for fault in FAULTS if fault.quick or fault.name in CAUSES]


@pytest.mark.parametrize("fault", TRIED, ids=lambda fault: fault.name)
def test_fault_is_found(lab: Lab, fault: Fault) -> None:
    """By the right stage and by exactly the right checks; nothing is sealed, and nothing is left."""

    def look(run: Run) -> None:
        if fault.name in CAUSES:
            assert_put_down(fault, run)
        if fault.name == "unknown-tag":
            assert_evidence_is_of_the_machines(run)

    prepare(lab, fault.ground)
    assert try_fault(lab, fault, look).wrong == []


def assert_put_down(fault: Fault, run: Run) -> None:
    check, diagnosis, what = CAUSES[fault.name]
    assert ("needs a new clone: " in run.output) == (fault.stage == "inherited stack")
    says(run, f"{diagnosis} {what}", "why: ", "fix: ")
    record = from_json((run.folder / "record.json").read_text())
    assert {each.name.partition("::")[2]: each.diagnosis for each in record.checks}[check] == [diagnosis]
    assert what in html.unescape(html.unescape(run.report))  # once for HTML, once for the data in it
    (evidence,) = run.folder.glob("evidence-*.txt")
    assert "=== node\n" in evidence.read_text()


def assert_evidence_is_of_the_machines(run: Run) -> None:
    """In a container that runs, Docker, journal and kernel are asked too."""
    evidence = (run.folder / "evidence-image.txt").read_text()
    assert '"Driver":"overlay2"' in evidence
    assert "status: running" in evidence
    assert "SIMULATED NVIDIA GPU" in evidence
    assert "=== journal\n" in evidence


def test_next_run_is_green(lab: Lab) -> None:
    run = lab.build(*STAND_IN, "--rebuild")  # the last fault may have left an accepted one
    assert (run.status, run.outcome) == (0, "built")


def test_container_that_is_off_is_said(lab: Lab) -> None:
    lab.destroy()
    with lab.fault("start = die"):
        run = lab.build(*WORDS)
    assert run.failed() == {"test_container_starts"}
    assert "container '920' not running!" in (run.folder / "evidence-clone.txt").read_text()
