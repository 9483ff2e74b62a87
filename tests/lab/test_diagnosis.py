"""Real faults of the lab, and what they are put down to in terminal, report, record and folder."""

from __future__ import annotations

import html

import pytest

from fixtures.record.model import from_json
from tests.faults.catalogue import BY_NAME
from tests.faults.trial import WORDS, prepare
from tests.lab.harness import Lab, Run, says

pytestmark = pytest.mark.lab

EXPECTED = {
    "runtime-missing": ("test_nvidia_runtime_is_registered", ["B6"], "Docker has no NVIDIA runtime"),
    "gpu-missing": ("test_gpu_may_be_used[gpu1]", ["B12"], "Fewer GPUs are usable than the container is assigned"),
    "unknown-tag": ("test_image_is_pulled", ["C5"], "The registry can't be reached"),  # as there is no Hub behind ours
    "snapshot-half-made": ("test_storage_agrees_with_the_configuration", ["A13"], "A snapshot is incomplete"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_fault_is_put_down_to_its_cause(lab: Lab, name: str) -> None:
    check, diagnosis, what = EXPECTED[name]
    fault = BY_NAME[name]
    prepare(lab, fault.ground)
    with fault.put(lab):
        run = lab.build(*WORDS, *fault.words)
    assert run.failed() == fault.checks()
    assert ("needs a new clone: " in run.output) == (fault.stage == "inherited stack")
    says(run, f"{diagnosis[0]} {what}", "why: ", "fix: ")
    found = {each.name.partition("::")[2]: each.diagnosis for each in from_json(record(run)).checks}
    assert found[check] == diagnosis
    assert what in html.unescape(html.unescape(run.report))  # once for HTML, once for the data in it
    (evidence,) = run.folder.glob("evidence-*.txt")
    assert "=== node\n" in evidence.read_text()


def test_evidence_is_of_the_machines(lab: Lab) -> None:
    """In a container that runs, Docker, journal and kernel are asked too, in seconds."""
    fault = BY_NAME["unknown-tag"]
    prepare(lab, fault.ground)
    run = lab.build(*WORDS, *fault.words)
    evidence = (run.folder / "evidence-image.txt").read_text()
    assert '"Driver":"overlay2"' in evidence
    assert "status: running" in evidence
    assert "SIMULATED NVIDIA GPU" in evidence
    assert "=== journal\n" in evidence


def test_container_that_is_off_is_said(lab: Lab) -> None:
    lab.destroy()
    with lab.fault("start = die"):
        run = lab.build(*WORDS)
    assert run.failed() == {"test_container_starts"}
    assert "container '920' not running!" in (run.folder / "evidence-clone.txt").read_text()


def record(run: Run) -> str:
    return (run.folder / "record.json").read_text()
