"""The first minute of `make accept`: it asks for root before anything is made, and says how far a build is."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from lab import cache, doctor, vllm
from tests.suite_run import TOP


def test_accept_asks_for_root_before_it_makes_anything(tmp_path: Path) -> None:
    fake = tmp_path / "bin/id"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 1000\n")
    fake.chmod(0o755)
    env = {**os.environ, "HOME": str(tmp_path), "PHOENIX_CACHE": "", "PATH": f"{fake.parent}:{os.environ['PATH']}"}
    for goal in ("accept", "lab-up", "lab-reset"):
        done = subprocess.run(["make", goal], cwd=TOP, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2, done.stdout
        assert (
            f"this needs root, for namespaces, mounts and containers; nothing was made: sudo make {goal}" in done.stderr
        )
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


@pytest.mark.parametrize(("sudo", "uid"), [("", 0), ("sudo ", 1000)])
def test_doctor_says_what_to_type(sudo: str, uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lab installs its packages by itself, so they are no lack."""
    monkeypatch.setattr(doctor, "SUDO", sudo)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(doctor, "_said", lambda *argv: "lxc skopeo" if argv[-1] == "missing" else "")
    assert doctor.tests().missing == (("git make", f"{sudo}apt-get install git make"),)
    found = doctor.laboratory()
    assert found.seen.endswith("; it installs 2 packages")
    assert (found.missing[:1] == (("root, for namespaces, mounts and containers", "sudo make accept"),)) is bool(sudo)


def test_what_is_built_says_its_size_and_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PHOENIX_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "SHOWN_EACH", 0.01)
    said = ""

    def build(folder: Path) -> None:
        nonlocal said
        (folder / "some").write_bytes(b"x" * 3_000_000)
        end = time.monotonic() + 60
        while "MB so far" not in said and time.monotonic() < end:
            said += capfd.readouterr().err
            time.sleep(0.01)

    assert (cache.built("thing", "recipe", build) / "some").is_file()
    assert "lab: building thing (only once; about a minute)" in said
    assert "lab: thing: " in said
    assert "MB so far, " in said


def test_steps_say_how_many_are_left(capfd: pytest.CaptureFixture[str]) -> None:
    steps = cache.Steps("vllm", {"one": 120, "two": 50})
    steps.next()
    steps.next()
    assert capfd.readouterr().err == ("lab: vllm 1/2: one; about 3 min left\nlab: vllm 2/2: two; about 1 min left\n")


def test_every_step_of_the_image_is_said() -> None:
    assert Path(vllm.__file__).read_text().count("    steps.next()\n") == len(vllm.STEPS)
