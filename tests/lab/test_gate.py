"""The CI job and the orchestrator for real, in the lab: on a template that is good, and on one that has drifted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab import vllm
from tests import workflows
from tests.docs import TOP
from tests.lab.harness import Lab

pytestmark = pytest.mark.lab

OPTIONS = ("--override-ini=vllm_image=vllm/vllm-openai:stand-in", "-p no:cacheprovider")
(JOB,) = workflows.steps(TOP / ".github/workflows/hardware.yml", "template")
SCRIPT = f"{TOP}/phoenix_hypervisor_setup_920.sh 920"


@pytest.fixture(scope="module")
def built(lab: Lab) -> None:
    lab.machine.serve_stand_in(vllm.made() / "registry")
    assert lab.build(OPTIONS[0], "--no-clone").outcome == "built"


@pytest.fixture
def environment(lab: Lab, built: None, tmp_path: Path) -> dict[str, str]:
    """Of a runner, whose node is the lab's."""
    node = f"lab:{lab.machine.name}"
    options = [f"@{TOP}/lab/options", f"--node={node}", *OPTIONS, f"--override-ini=report_folder={lab.reports}"]
    runner = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(tmp_path / "page.md"), "GITHUB_RUN_ID": "7"}
    runner |= {"GITHUB_SERVER_URL": "https://ci", "GITHUB_REPOSITORY": "a/b"}
    phoenix = {"PHOENIX_NODE": node, "PHOENIX_PYTHON": sys.executable, "PHOENIX_LOG": str(tmp_path / "log")}
    phoenix |= {"PHOENIX_CONFIG": str(TOP / "lab/phoenix_lxc_configs.json"), "PHOENIX_REPORTS": str(lab.reports)}
    return {**os.environ, **runner, **phoenix, "MODE": "verify", "PYTEST_ADDOPTS": " ".join(options)}


def run(line: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-e", "-c", line]
    return subprocess.run(command, cwd=TOP, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_job_on_a_good_template(environment: dict[str, str]) -> None:
    done = run(JOB, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    page = Path(environment["GITHUB_STEP_SUMMARY"]).read_text()
    assert page.startswith("## ⚠️ Template 920: verified\n\n920@vllm-base-snapshot matches its record.")
    assert "](https://ci/a/b/actions/runs/7) |" in page
    assert "::error" not in done.stdout


def test_orchestrator_on_a_good_template(environment: dict[str, str]) -> None:
    """It is there: 0, in seconds, and the log says so."""
    done = run(SCRIPT, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "920@vllm-base-snapshot was built and accepted before" in Path(environment["PHOENIX_LOG"]).read_text()


def test_job_on_a_template_that_has_drifted(lab: Lab, environment: dict[str, str]) -> None:
    lab.node("pct", "set", "920", "--memory", "5000")
    try:
        done = run(JOB, environment)
        told = run(SCRIPT, environment)
    finally:
        lab.node("pct", "set", "920", "--memory", "4096")
    assert (done.returncode, told.returncode) == (1, 1), done.stdout + done.stderr
    page = Path(environment["GITHUB_STEP_SUMMARY"]).read_text()
    assert page.startswith("## ❌ Template 920: failed\n\n920@vllm-base-snapshot does not match its record")
    assert "| recorded | The container's configuration is the one that was sealed. |" in page
    assert "memory: 4096 -> 5000" in page
    (note,) = [line for line in done.stdout.splitlines() if line.startswith("::error ")]
    assert "file=tests_920/test_075_recorded.py,line=" in note
