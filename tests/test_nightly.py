"""The units that run every night: both runs are made, and installing and removing touch nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from phoenix_920 import nightly
from tests.suite_run import TOP


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for units, and programs that write down how they are called."""
    programs, units = tmp_path / "bin", tmp_path / "units"
    for folder in (programs, units):
        folder.mkdir()
    for name in ("systemctl", "systemd-analyze"):
        (programs / name).write_text(
            f'#!/bin/sh\necho "{name} $@" >> {tmp_path}/calls\ncase "$*" in *nonsense*) exit 1;; esac\n'
        )
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setattr(nightly, "UNITS", units)
    return tmp_path


def test_install_and_remove(systemd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (systemd / "units/mine.timer").write_text("mine")
    assert nightly.main(["install", "--at", "Mon 04:00", "-o", "node=ssh://root@pve"]) == 0
    units = {path.name: path.read_text() for path in (systemd / "units").iterdir()}
    assert set(units) == {"mine.timer", "phoenix-920-nightly.service", "phoenix-920-nightly.timer"}
    assert "OnCalendar=Mon 04:00" in units["phoenix-920-nightly.timer"]
    assert "node=ssh://root@pve --verify; first=$$?" in units["phoenix-920-nightly.service"]
    assert "journalctl --unit phoenix-920-nightly.service" in capsys.readouterr().out
    assert nightly.main(["remove"]) == 0
    assert [path.name for path in (systemd / "units").iterdir()] == ["mine.timer"]
    assert nightly.main(["remove"]) == 0
    calls = (systemd / "calls").read_text().splitlines()
    assert calls.count("systemctl enable --now phoenix-920-nightly.timer") == 1
    assert calls.count("systemctl disable --now phoenix-920-nightly.timer") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--at", "nonsense"], "systemd-analyze calendar nonsense"),
        (["--rebuild"], "cannot be combined with a rebuild"),  # each night's run would be refused
        (["-o", "vllm_image=a\n[Service]"], "'vllm_image=a\\n[Service]' can't stand in a line of a unit"),
    ],
)
def test_mistake_installs_nothing(
    systemd: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert nightly.main(["install", *words]) == 4
    assert [*(systemd / "units").iterdir()] == []
    assert said in capsys.readouterr().err


def test_module_that_was_started_by_its_name_is_no_program_of_a_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(TOP / "phoenix_920/__main__.py")])
    assert nightly.runs(tmp_path, [])[0] == [sys.executable, "-m", "phoenix_920", "--verify"]


@pytest.mark.parametrize(("verify", "family", "status"), [(0, 0, 0), (1, 0, 1), (0, 1, 1), (2, 1, 1)])
def test_both_runs_are_made_and_one_that_fails_fails_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: int, family: int, status: int
) -> None:
    """The line of the unit as systemd reads it: `$$` is one dollar (systemd.service(5))."""
    program = tmp_path / "phoenix-920"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncase "$*" in *--verify) exit {verify};; *) exit {family};; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    text = nightly.units(tmp_path, "daily", ["-o", "test_prompt=What's 5%?"])[f"{nightly.NAME}.service"]
    line = next(each for each in text.splitlines() if each.startswith("ExecStart=")).partition("=")[2]
    shell = (
        line.replace("$$", "$").replace("%%", "%").removeprefix('/bin/sh -c "').removesuffix('"').replace('\\"', '"')
    )
    done = subprocess.run(["/bin/sh", "-c", shell.replace("\\\\", "\\")], check=False, timeout=60)
    assert done.returncode == status
    words = "-o test_prompt=What's 5%?"
    assert (tmp_path / "calls").read_text().splitlines() == [f"{words} --verify", f"{words} --family"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="this machine has no systemd-analyze")
def test_systemd_reads_the_units(tmp_path: Path) -> None:
    for name, text in nightly.units(tmp_path, "*-*-* 03:00", ["-o", "node=local"]).items():
        (tmp_path / name).write_text(text)
        words = ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert name not in done.stderr, done.stderr


def test_show_writes_nothing(systemd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nightly.main(["show"]) == 0
    assert "[Timer]" in capsys.readouterr().out
    assert [*(systemd / "units").iterdir()] == []
