"""The record as a CI server shows it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.diagnosis.failure_modes import catalogue
from fixtures.record.model import Record, Subject, Verdict
from fixtures.report import summary
from fixtures.run.mode import Outcome
from fixtures.run.stages import CheckResult
from tests.suite_run import TOP, Suite

CAUSE = catalogue()["A2"]
FAILED = CheckResult(
    "test_050_serving.py::TestServer::test_server_answers[gpu0]",
    "serving",
    "GPU 0: The server answers.",
    "failed",
    "100 % of `it` was <b>wrong</b> | no *word*",
    diagnosis=["A2", "A1"],
    cause={"what": CAUSE.what, "why": CAUSE.why, "fix": CAUSE.about({"CTID": "920"}).fix},
)
GREEN = Record(
    "1",
    1000.0,
    finished=1065.0,
    outcome=Outcome.BUILT,
    verdict=Verdict.PASSED,
    sentence="920@vllm-base-snapshot was built.",
    container={"ctid": 920},
    image={"digest": "vllm/vllm-openai@sha256:12"},
    checks=[replace(FAILED, verdict="passed", reason="")],
    subjects=[Subject("pve:node/lxc/920@vllm-base-snapshot", "ab")],
)
RED = replace(
    GREEN,
    outcome=Outcome.FAILED,
    verdict=Verdict.FAILED,
    checks=[FAILED],
    warnings=["little\nmemory"],
    simulated=["GPU", "node"],
)


def test_green_page() -> None:
    assert (
        summary.page(GREEN, "reports/1", "https://ci/1")
        == r"""## ✅ Template 920: built

920@vllm-base-snapshot was built.

| | |
|---|---|
| Subject | pve:node/lxc/920@vllm-base-snapshot `sha256:ab` |
| Image | vllm/vllm-openai@sha256:12 |
| Checks | 1 passed |
| Time | 1 min 05 s |
| Report | [reports/1](https://ci/1) |
"""
    )


def test_red_page_names_what_failed_without_markup() -> None:
    page = summary.page(RED, "reports/1")
    assert page.startswith("## ❌ Template 920: failed\n")
    assert r"| serving | GPU 0: The server answers. | 100 % of \`it\` was &lt;b>wrong&lt;/b> \| no \*word\* |" in page
    assert "| A2: Docker can't load" in page
    assert "nesting=1" in page
    assert "> Simulated, so inconclusive: GPU, node\n" in page
    assert "### Warnings\n\n- little memory\n" in page
    assert "| Report | `reports/1` |" in page


def test_annotation_stands_at_the_check() -> None:
    (line,) = summary.notes(RED, TOP / "tests_920")
    head, _, message = line.removeprefix("::error ").partition("::")
    properties = dict(each.split("=", 1) for each in head.split(","))
    assert properties["file"] == "tests_920/test_050_serving.py"
    source = (TOP / properties["file"]).read_text().splitlines()
    assert "def test_server_answers(" in source[int(properties["line"]) - 1]
    assert properties["title"] == "serving%3A GPU 0%3A The server answers."
    assert message.startswith("100 %25 of `it`")
    assert "%0AA2: Docker can't load" in message


def test_run_tells_github(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("what another step wrote\n")
    run = Suite(tmp_path).run(GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(page))
    assert page.read_text().startswith("what another step wrote\n## ❌ Template 920: failed")
    assert "### Failures" in page.read_text()
    failed = sum(check.verdict == "failed" for check in run.record.checks)
    assert len([line for line in run.output.splitlines() if line.startswith("::error file=tests_920/")]) == failed > 0
    assert (run.folder / "summary.md").read_text().partition("| Report")[0] == (
        page.read_text().removeprefix("what another step wrote\n").partition("| Report")[0]
    )


def test_elsewhere_nothing_is_told(tmp_path: Path) -> None:
    output = Suite(tmp_path).run(GITHUB_ACTIONS="", GITHUB_STEP_SUMMARY=str(tmp_path)).output
    assert "::error" not in output
    assert "GITHUB_STEP_SUMMARY" in output  # a folder: said, and no reason to fail


@pytest.mark.parametrize(("text", "status"), [("{}", 2), (None, 2), (GREEN.to_json(), 0)])
def test_command(tmp_path: Path, text: str | None, status: int) -> None:
    if text is not None:
        (tmp_path / "record.json").write_text(text)
    command = [sys.executable, "-m", "fixtures.report.summary", str(tmp_path)]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("## ✅") == (status == 0)
    assert bool(done.stderr) == (status == 2)
