"""The record names what could have changed a check: commit, files, plugins, options."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.record import origin
from tests.suite_run import Suite

MINE = "def pytest_configure():\n    pass\n"


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", f"safe.directory={folder}")
    return subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "tests_920").mkdir(parents=True)
    (folder / "a.py").write_text("")
    git(tmp_path, "init", "--quiet", str(folder))
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "One")
    return folder


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a folder to somebody else")
def test_case_32_dubious_ownership(checkout: Path) -> None:
    """git refuses a checkout of another user; the record names its commit even so."""
    commit = git(checkout, "rev-parse", "HEAD").strip()
    for path in (checkout, *checkout.rglob("*")):
        os.chown(path, 1000, 1000)
    refused = subprocess.run(["git", "-C", str(checkout), "status"], capture_output=True, text=True, check=False)
    assert "dubious ownership" in refused.stderr
    assert origin.suite(checkout) | {"requirements_sha256": ""} == {
        "commit": commit,
        "changed": "no",
        "requirements_sha256": "",
    }


def test_file_that_git_does_not_know_is_a_change(checkout: Path) -> None:
    assert origin.suite(checkout)["changed"] == "no"
    (checkout / "tests_920/conftest.py").write_text(MINE)
    assert origin.suite(checkout)["changed"] == "yes"


@pytest.mark.parametrize("bit", ["--assume-unchanged", "--skip-worktree"])
def test_file_that_git_is_told_not_to_look_at_is_a_change(checkout: Path, bit: str) -> None:
    git(checkout, "update-index", bit, "a.py")
    (checkout / "a.py").write_text(MINE)
    assert "dirty" not in git(checkout, "describe", "--always", "--dirty")
    assert origin.suite(checkout)["changed"] == "yes"


def test_repository_around_the_suite_is_not_its_own(checkout: Path) -> None:
    inner = checkout / "unpacked"
    inner.mkdir()
    version = origin.suite(inner)
    assert (version["commit"], version["changed"]) == ("", "")
    assert f"the repository around it, {checkout}, is another one" in version["no_commit"]


def test_no_repository_is_said(tmp_path: Path) -> None:
    assert "not a git repository" in origin.suite(tmp_path)["no_commit"]


def test_record_names_what_was_loaded(tmp_path: Path) -> None:
    run = Suite(tmp_path).run("-k", "test_node_is_proxmox", plugin=MINE, PYTEST_ADDOPTS="--no-clone")
    loaded = run.record.loaded
    digest = hashlib.sha256(MINE.encode()).hexdigest()
    assert loaded["files"][str(tmp_path / "plugin_of_the_test.py")] == digest
    assert {"conftest.py", "tests_920/test_010_preflight.py", "fixtures/run/stages.py"} <= set(loaded["files"])
    assert {"tests_920/CHECKS", "fixtures/remote/secret_files.py", "fixtures/template/read_identity.sh"} <= set(
        loaded["files"]
    )
    assert {"pytest-html", "pytest-order"} <= set(loaded["plugins"])
    assert loaded["options"]["PYTEST_ADDOPTS"] == "--no-clone"
    assert "site-packages" not in " ".join(loaded["files"])


def test_record_names_a_conftest_beside_the_checks(tmp_path: Path) -> None:
    """pytest takes it out of the list of modules when it loads another of that name; as a plugin it stays."""
    path = tmp_path / "conftest.py"
    path.write_text(MINE)
    plugins = SimpleNamespace(
        get_plugins=lambda: [SimpleNamespace(__file__=str(path))], list_plugin_distinfo=lambda: []
    )
    invocation = SimpleNamespace(args=("tests_920",))
    config: Any = SimpleNamespace(
        pluginmanager=plugins, getini=lambda _: [], invocation_params=invocation, inipath=None
    )
    assert origin.loaded(config, tmp_path)["files"][str(path)] == hashlib.sha256(MINE.encode()).hexdigest()
