"""The set-up script as the orchestrator calls it: its arguments, its log, its exit codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from fixtures.record.model import Record, Verdict
from fixtures.report.orchestrator import OF_ROLE, exit_code
from fixtures.run.mode import Outcome
from fixtures.run.stages import CheckResult
from tests.suite_run import TOP, Suite

SCRIPT = TOP / "phoenix_hypervisor_setup_920.sh"
# What phoenix_establish_hypervisor.sh does with its configuration: containers by ascending number, a script for each.
ORCHESTRATOR = r"""
for ctid in $(jq -r '.lxc_configs | keys[]' "$1" | sort -n); do
  script=$2/phoenix_hypervisor_setup_$ctid.sh
  [ -x "$script" ] || continue
  "$script" "$ctid" >/dev/null; echo "$ctid ended with $?"
done
"""


@dataclass(frozen=True)
class Place:
    suite: Suite
    log: Path

    @property
    def environment(self) -> dict[str, str]:
        names = {"PHOENIX_LOG": str(self.log), "PHOENIX_REPORTS": str(self.suite.reports)}
        names |= {"PHOENIX_PYTHON": sys.executable, "PHOENIX_LAB_STATE": str(self.suite.top / "labs")}
        return {**os.environ, **names, "PYTEST_ADDOPTS": "--node=lab:stub -p no:cacheprovider"}

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, **env}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(Suite(tmp_path), tmp_path / "phoenix_hypervisor.log")


@pytest.mark.parametrize("words", [(), ("0",), ("920x",), ("-1",), ("920", "921"), ("903",), ("920; reboot",)])
def test_wrong_arguments(place: Place, words: tuple[str, ...]) -> None:
    done = place.run(str(SCRIPT), *words)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "[ERROR] phoenix_hypervisor_setup_920.sh: " in place.log.read_text()
    assert not place.suite.folders()


def test_orchestrator_is_told_that_the_parent_is_missing(place: Place) -> None:
    configuration = str(TOP / "phoenix_lxc_configs.json")
    done = place.run("bash", "-c", ORCHESTRATOR, "orchestrator", configuration, str(TOP), PHOENIX_CONFIG=configuration)
    assert done.stdout == "920 ended with 3\n", done.stdout + done.stderr
    assert "[INFO] phoenix_hypervisor_setup_920.sh: " in place.log.read_text()
    assert "outcome: failed" in place.log.read_text()
    assert len(place.suite.folders()) == 1


def test_script_is_found_through_a_link(place: Place, tmp_path: Path) -> None:
    link = tmp_path / "phoenix_hypervisor_setup_920.sh"
    link.symlink_to(SCRIPT)
    assert place.run(str(link), "920").returncode == 3


def test_bad_declaration_is_a_wrong_argument(place: Place) -> None:
    assert place.run(str(SCRIPT), "920", PHOENIX_CONFIG="/none.json").returncode == 2
    assert "/none.json: can't be read" in place.log.read_text()


def test_run_that_left_no_record_is_not_told_by_an_older_one(place: Place) -> None:
    assert place.run(str(SCRIPT), "920").returncode == 3
    killed = place.suite.top / "python"
    killed.write_text('#!/bin/sh\n[ "$1" = -c ] || kill -9 $$\n')
    killed.chmod(0o755)
    done = place.run(str(SCRIPT), "920", PHOENIX_PYTHON=str(killed))
    assert done.returncode == 1, done.stdout


def test_log_that_cannot_be_written_stops_nothing(place: Place) -> None:
    done = place.run(str(SCRIPT), "920", PHOENIX_LOG="/proc/none")
    assert done.returncode == 3
    assert "can't be written" in done.stderr


@pytest.mark.parametrize(
    ("name", "role", "code"),
    [
        ("test_010_preflight.py::test_storage_has_room", "preflight", 1),
        ("test_010_preflight.py::test_parent_is_as_declared", "preflight", 3),
        ("test_020_clone.py::test_container_is_cloned", "clone", 3),
        ("test_020_clone.py::test_container_starts", "clone", 6),
        ("test_030_inherited_stack.py::test_cuda_works_on_gpu[gpu1]", "inherited", 4),
        ("test_stack_of_another_suite.py::test_its_own", "inherited", 4),
        ("test_040_image.py::test_image_is_pulled", "image", 5),
        ("test_050_serving.py::TestServer::test_server_answers[gpu0]", "serving", 5),
        ("test_060_seal.py::sealing[1]", "seal.record", 1),
        ("test_060_seal.py::sealing[2]", "seal.shutdown", 6),
        ("test_060_seal.py::sealing[3]", "seal.generation", 7),
        ("test_060_seal.py::sealing[4]", "seal.snapshot", 7),
        ("test_060_seal.py::sealing[5]", "seal.start", 6),
        ("test_070_sealed.py::test_snapshot_is_whole", "sealed", 7),
        ("test_070_sealed.py::test_container_is_up_again", "sealed", 6),
        ("test_075_recorded.py::test_image_is_as_recorded", "recorded", 1),
        ("test_090_accepted.py::test_snapshot_is_accepted", "accepted", 7),
    ],
)
def test_first_failure_decides(name: str, role: str, code: int) -> None:
    failed = CheckResult(name, "words for people", "words for people", "failed", role=role)
    later = CheckResult("test_050_serving.py::test_no_server_is_left", "serving", "", "failed", role="serving")
    skipped = CheckResult("test_010_preflight.py::test_address_is_free", "preflight", "", "skipped", role="preflight")
    assert exit_code(Record("1", 1.0, outcome=Outcome.FAILED, checks=[skipped, failed, later])) == code


@pytest.mark.parametrize("outcome", [Outcome.BUILT, Outcome.EXISTING, Outcome.UNMANAGED])
def test_done_is_0(outcome: Outcome) -> None:
    assert exit_code(Record("1", 1.0, outcome=outcome, verdict=Verdict.WARNED)) == 0
    assert exit_code(Record("1", 1.0, outcome=outcome, verdict=Verdict.FAILED)) == 1


@pytest.mark.parametrize(
    "words", ["--collect-only", "--help", "--plan", "--setup-plan", "-k test_node_is_proxmox", "-k no_such_check"]
)
def test_run_that_proves_nothing_is_not_0(place: Place, words: str) -> None:
    options = f"--node=lab:stub -p no:cacheprovider -k test_node_is_proxmox {words}"
    done = place.run(str(SCRIPT), "920", PYTEST_ADDOPTS=options)
    assert done.returncode == (2 if words == "--plan" else 1), place.log.read_text()


def test_run_without_a_failure_that_is_not_done_is_1() -> None:
    assert exit_code(Record("1", 1.0, outcome=Outcome.ABORTED)) == 1


def test_every_step_that_has_a_code_is_one_of_sealing() -> None:
    source = (TOP / "fixtures/run/seal.py").read_text()
    taken = set(re.findall(r'\._step\("(\w+)"', source))
    coded = {role.partition(".")[2] for role in OF_ROLE if role.startswith("seal.")}
    assert coded <= taken == {"identity", "record", "shutdown", "generation", "snapshot", "start"}
