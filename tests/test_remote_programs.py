"""The programs that run inside a container: whatever its commands and files hold, they end, in bounded memory."""

from __future__ import annotations

import ast
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fixtures.base.number import misfit
from fixtures.remote import container_probe, leftovers, machine, program, secret_files
from fixtures.template import tidy

MEMORY = 400 << 20  # bytes of address space: an interpreter with threads, and what is kept
NONSENSE = ["", "NaN", "[[", "[" * 100_000, "[1]", "{}", '"x"', "\x00", '{"Components": 5}', '[{"Id": 1}]']


@pytest.mark.parametrize("script", ["exec yes", "exec yes >&2", "yes & exec yes", "trap '' TERM; exec yes"])
def test_command_that_floods_says_nothing(script: str) -> None:
    """In the memory that a container has, with its output and its errors."""
    code = f"""
import sys
sys.path.insert(0, {str(Path.cwd())!r})
from fixtures.remote import machine
machine.SECONDS = 2
print(repr(machine.run("sh", "-c", {script!r})))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
        check=False,
    )
    assert (done.stdout.strip(), done.returncode) == ("''", 0), done.stderr


@pytest.mark.parametrize("name", ["container_probe", "leftovers", "secret_files", "verify"])
def test_program_is_sent_with_what_it_imports_of_ours(name: str) -> None:
    """Where it runs there is nothing of this project."""
    tree = ast.parse(program(name), feature_version=(3, 9))
    assert "fixtures" not in {
        (each.module or "").partition(".")[0] for each in tree.body if isinstance(each, ast.ImportFrom)
    }
    own: dict[str, Any] = {"__name__": "sent"}
    exec(compile(tree, name, "exec"), own)
    assert own["text_of"].__module__ == own["read_json"].__module__ == "sent"


def test_command_that_does_not_end_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SECONDS", 0.3)
    assert not machine.run("sh", "-c", "echo x; sleep 60 & exec sleep 60")


@pytest.mark.parametrize("kind", ["zero", "pipe", "folder", "missing"])
def test_what_is_no_regular_file_has_no_text(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if kind == "zero":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    assert container_probe.file_digest(str(path)) == "unreadable"
    assert machine.text_of(path) == ""


def test_file_without_end_is_read_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert len(machine.text_of(path)) == machine.LARGEST_READ


@pytest.mark.parametrize("text", NONSENSE)
def test_nonsense_of_a_command_is_one_line(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And no facts of what was not understood: the suite has no answer then, and says so."""
    monkeypatch.setattr(container_probe, "run", lambda *argv: text if argv[0] == "docker" else "")
    why = ""
    try:
        machine.answer(container_probe.facts, {"image": "i", "model": "/none", "caches": []})
    except SystemExit as error:
        why = str(error)
    assert bool(capsys.readouterr().out) == (not why)
    assert not why or why.startswith("what is here can't be used: ")
    assert len(why) < 400


@pytest.mark.parametrize("text", [*NONSENSE, '{"keys": [1]}', '{"keys": null}'])
def test_note_of_another_form_is_one_line(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    note = tmp_path / "clone.json"
    note.write_text(text)
    for module in (leftovers, secret_files):
        monkeypatch.setattr(module, "NOTE", note)
    monkeypatch.setattr(leftovers, "docker_usage", lambda: {"LayersSize": 0})
    monkeypatch.setattr(leftovers, "sizes", dict)
    with pytest.raises(SystemExit, match="what is here can't be used: "):
        machine.answer(leftovers.look, {"image": "i", "folders": [], "until": 0.0})
    with pytest.raises(SystemExit, match="holds no note"):
        list(secret_files.added_keys())


def test_findings_have_the_form_that_the_suite_reads() -> None:
    here = [machine.entry("/x", "log", 1)]
    assert [misfit(here, tidy.FORMS["look"][name]) for name in ("added", "docker", "logs", "rest")] == [""] * 4
    assert misfit(here, tidy.FORMS["find"]["secrets"]) == ""


def test_more_keys_than_can_be_read_are_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = tmp_path / ".ssh/authorized_keys"
    keys.parent.mkdir()
    keys.write_text("known\n" + " " * 2000 + "ssh-ed25519 AAAA\n")
    note = tmp_path / "clone.json"
    note.write_text(json.dumps({"keys": {str(keys): "known\n"}}))
    monkeypatch.setattr(secret_files, "NOTE", note)
    monkeypatch.setattr(machine, "homes", lambda: [tmp_path])
    for module in (secret_files, machine):
        monkeypatch.setattr(module, "LARGEST_READ", 1000)
    assert [one["what"] for one in secret_files.added_keys()] == ["more keys that may log in than can be read"]
