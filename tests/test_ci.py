"""The workflows: as their servers' schemas want them, and their own lines on a node that fails."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import workflows
from tests.suite_run import TOP, Suite
from tests.workflows import GITHUB, GITLAB, scripts

SHELL = [
    "phoenix_hypervisor_setup_920.sh",
    "lab/tools",
    "lab/node-init",
    "lab/list-machines",
    ".ci/run",
    ".ci/hardware",
    ".ci/install",
]


@pytest.mark.parametrize(
    ("schema", "files"), [("vendor.github-workflows", GITHUB), ("vendor.gitlab-ci", [GITLAB])], ids=["github", "gitlab"]
)
def test_workflows_are_as_the_schemas_want_them(schema: str, files: list[Path]) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def shellcheck(*words: str, stdin: str = "") -> str:
    command = [str(Path(sys.executable).with_name("shellcheck")), *words]
    done = subprocess.run(command, cwd=TOP, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout if done.returncode else ""


def test_shell_scripts_are_clean() -> None:
    assert shellcheck("--severity=style", *SHELL) == ""


@pytest.mark.parametrize(("name", "line"), scripts(), ids=[f"{name}-{n}" for n, (name, _) in enumerate(scripts())])
def test_lines_of_workflows_are_clean(name: str, line: str) -> None:
    assert "${{ inputs" not in line, "an input in a shell line is run as code; hand it over in env"
    assert shellcheck("--shell=bash", "-", stdin=re.sub(r"\$\{\{.*?\}\}", "WORD", line)) == ""


def test_hardware_runs_once_a_node_and_is_never_cut_short() -> None:
    hardware = workflows.read(TOP / ".github/workflows/hardware.yml")
    assert hardware["concurrency"]["cancel-in-progress"] is False
    assert "PHOENIX_NODE" in hardware["concurrency"]["group"]
    assert "schedule" in hardware["on"]
    assert "PHOENIX_NODE" in workflows.read(GITLAB)["template"]["resource_group"]


@pytest.mark.parametrize(
    ("mode", "node", "status"),
    [("verify", "lab:stub", 1), ("build", "lab:stub", 1), ("verify", "lab:stub lab:off", 1), ("destroy", "", 4)],
)
def test_hardware_job_on_a_node_that_fails(tmp_path: Path, mode: str, node: str, status: int) -> None:
    """The job's own line on a stub of a node, and on two: red, with a page that says so."""
    (line,) = workflows.steps(TOP / ".github/workflows/hardware.yml", "template")
    suite, page = Suite(tmp_path), tmp_path / "page.md"
    given = {"MODE": mode, "PHOENIX_NODE": node, "PHOENIX_PYTHON": sys.executable, "GITHUB_ACTIONS": "true"}
    paths = {"PHOENIX_LAB_STATE": str(tmp_path / "labs"), "GITHUB_STEP_SUMMARY": str(page)}
    addopts = {"PYTEST_ADDOPTS": f"-p no:cacheprovider --override-ini=report_folder={suite.reports}"}
    environment = {**os.environ, **given, **paths, **addopts}
    done = subprocess.run(
        ["bash", "-e", "-c", line], cwd=TOP, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert ("::error file=tests_920/" in done.stdout) == (status == 1)
    assert page.exists() == (status == 1)
    if status == 1:
        assert page.read_text().startswith("## ❌ Template 920: failed")
        assert page.read_text().count("\n## ❌ Template 920: failed") == len(node.split()) - 1


COMMANDS = (
    "::stop-commands::x",
    "  ::error::owned",
    "x##[group]y",
    "##vso[task.complete]z",
    "section_start:1:a\r\x1b[0K",
)


@pytest.mark.parametrize("words", [(), ("-rA", "-vv"), ("--plan",), ("--tb=short", "--color=yes"), ("-s", "-x")])
def test_no_word_of_a_node_is_a_command_to_a_ci_server(tmp_path: Path, words: tuple[str, ...]) -> None:
    """GitHub obeys what begins with :: after blanks, and ##[ anywhere (actions/runner, ActionCommand.cs)."""
    said = "\n".join(("", *COMMANDS, ""))
    plugin = f"def pytest_terminal_summary(terminalreporter):\n    terminalreporter.line({said!r})\n"
    run = Suite(tmp_path, said).run(*words, plugin=plugin, GITHUB_ACTIONS="true", CI="true")
    commands = [line for line in run.output.splitlines() if line.lstrip().startswith(("::", "section_"))]
    assert [line for line in commands if not line.startswith("::error file=tests_920/")] == []
    assert bool(commands) == ("--plan" not in words)
    assert "##[" not in run.output
    assert "##vso[" not in run.output
    assert "owned" in run.output


def earlier(top: Path) -> None:
    """A checkout with the record of an earlier run, and a Python that refuses a run."""
    (top / "reports/earlier").mkdir(parents=True)
    (top / "reports/earlier/junit.xml").write_text("green")
    (top / "reports/latest").symlink_to("earlier")
    shutil.copytree(TOP / ".ci", top / ".ci")
    refuses = top / "python"
    refuses.write_text("#!/bin/sh\nexit 4\n")
    refuses.chmod(0o755)


@pytest.mark.parametrize("words", ["verify", "destroy", "build"])
@pytest.mark.parametrize("python", ["python", ""])
def test_refused_run_uploads_no_record_of_an_earlier_one(tmp_path: Path, words: str, python: str) -> None:
    """The job's upload takes what `latest` leads to, and a run that ends with 4 makes no record; nor does no venv."""
    (job,) = (each for each in workflows.read(TOP / ".github/workflows/hardware.yml")["jobs"].values())
    (upload,) = (step for step in job["steps"] if "upload-artifact" in step.get("uses", ""))
    assert upload["with"]["path"] == "reports/latest/"
    assert "steps.run.outcome != 'skipped'" in upload["if"]
    assert [step.get("run") for step in job["steps"] if step.get("id") == "run"] == ['.ci/hardware "$MODE"']
    earlier(tmp_path)
    (tmp_path / ".ci/install").write_text("#!/bin/sh\nexit 1\n")
    environment = {**os.environ, "PHOENIX_PYTHON": python and str(tmp_path / python), "PHOENIX_NODE": "local"}
    done = subprocess.run(
        [tmp_path / ".ci/hardware", words], env=environment, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == (1 if not python and words != "destroy" else 4)
    assert not (tmp_path / "reports/latest").exists()
    assert (tmp_path / "reports/earlier").is_dir()


@pytest.mark.parametrize("name", ["lab", "template"])
@pytest.mark.parametrize("made", [True, False], ids=["a record", "none"])
def test_gitlab_uploads_the_record_of_this_run_or_none(tmp_path: Path, name: str, made: bool) -> None:
    """Whatever lies in a checkout that is not cleaned; a link is followed, as an artifact of a link is empty."""
    job = workflows.read(GITLAB)[name]
    assert job["artifacts"]["paths"] == ["record/"]
    assert job["artifacts"]["reports"]["junit"] == "record/junit.xml"
    earlier(tmp_path)
    (tmp_path / "record").mkdir()
    (tmp_path / "record/junit.xml").write_text("green")
    (tmp_path / "reports/this").mkdir()
    (tmp_path / "reports/this/junit.xml").write_text("red")
    run = "ln -sfn this reports/latest" if made else "true"
    lines = "\n".join([job["before_script"][0], run, job["after_script"][0]])
    subprocess.run(["bash", "-euc", lines], cwd=tmp_path, check=True, timeout=60)
    assert {path.read_text() for path in (tmp_path / "record").glob("*")} == ({"red"} if made else set())


@pytest.mark.parametrize("path", GITHUB, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(path: Path) -> None:
    used = re.findall(r"uses: (\S+)(.*)", path.read_text(encoding="utf-8"))
    assert used
    assert not [
        name for name, version in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", name) or "# v" not in version
    ]
