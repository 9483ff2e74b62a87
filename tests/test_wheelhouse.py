"""The suite as a package: made as one file, installed without a network, and run from any folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
NOWHERE = "ssh://nobody@127.0.0.1:1"
ALONE = ("unshare", "--net") if os.geteuid() == 0 else ()


def run(*argv: str | Path, cwd: Path, status: int = 0) -> str:
    """What a command prints; it must end with that status."""
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an installation that was made without a network."""
    work = tmp_path_factory.mktemp("wheelhouse")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run("env", f"PATH={path}", TOP / ".ci/wheelhouse", work, cwd=work)
    (made,) = work.glob("*.tar")
    run("tar", "--extract", "--file", made, cwd=work)
    run(*ALONE, work / made.stem / "install", work / "here", cwd=work)
    return work / "here"


def packages(installed: Path) -> Path:
    return next(installed.glob("lib/python3*/site-packages"))


def test_it_brings_nothing_of_a_common_name(installed: Path) -> None:
    names = {path.name for path in packages(installed).iterdir()}
    assert "phoenix_920" in names
    assert not names & {"fixtures", "conftest.py", "tests_920", "lab", "tests", "docs"}


def test_it_brings_no_tool_of_development(installed: Path) -> None:
    names = {path.name.partition("-")[0] for path in packages(installed).glob("*.dist-info")}
    assert "pytest" in names
    assert not names & {"mypy", "ruff", "selenium", "hypothesis", "uv"}


def test_it_runs_beside_another_package_called_fixtures(installed: Path, tmp_path: Path) -> None:
    """PyPI has one; which of the two is imported must not depend on who was installed last."""
    other = packages(installed) / "fixtures"
    other.mkdir()
    (other / "__init__.py").write_text("raise ImportError('the wrong package')\n")
    said = run(installed / "bin/phoenix-920", "--collect-only", "--quiet", cwd=tmp_path)
    assert "tests_920/test_010_preflight.py::test_node_is_proxmox" in said
    assert "the wrong package" not in said


def test_a_mistake_ends_as_in_a_checkout(installed: Path, tmp_path: Path) -> None:
    said = run(installed / "bin/phoenix-920", "--node", NOWHERE, "-o", "server_port=none", cwd=tmp_path, status=4)
    assert "server_port" in said
    assert not [*tmp_path.iterdir()], "a mistake leaves nothing"


def test_reports_and_declaration_are_the_caller_s(installed: Path, tmp_path: Path) -> None:
    """The declaration that lies in the caller's folder counts; the suite's own does where there is none."""
    declared = json.loads((TOP / "phoenix_lxc_configs.json").read_text())
    declared["lxc_configs"]["920"]["memory_mb"] = "much"
    (tmp_path / "phoenix_lxc_configs.json").write_text(json.dumps(declared))
    said = run(installed / "bin/phoenix-920", "--plan", "--node", NOWHERE, cwd=tmp_path, status=4)
    assert f"{tmp_path}/phoenix_lxc_configs.json" in said
    (tmp_path / "phoenix_lxc_configs.json").unlink()
    run(installed / "bin/phoenix-920", "--node", NOWHERE, cwd=tmp_path, status=1)
    assert [*tmp_path.glob("reports/*/record.json")]
