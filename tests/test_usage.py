"""Careless input: one clear line, exit status 4, nothing touched."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.base.errors import BuildError
from fixtures.run import stages, suite, waivers
from lab import __main__ as lab
from phoenix_920 import __main__ as front
from phoenix_920 import new

TOP = Path(__file__).parent.parent


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "tests_920", *words]
    return subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--node", "nowhere"], "--node nowhere: not a node"),
        (["--node", "lab:none"], "the lab is not up"),
        (["--node", "ssh://root@"], "ssh://root@: not an ssh address"),
        (["--nodes", "/dev/zero"], "--nodes /dev/zero: is larger than 1 MiB"),
        (["-o", "lxc_configs=none.json"], "none.json: can't be read"),
        (["-o", "ready_deadline=soon"], "ready_deadline: 'soon' is not a number"),
        (["-o", "server_port=0"], "server_port: '0' is not between"),
        (["-o", "server_args='"], "server_args:"),
        (["-o", "server_args=--api-key=abcdefg"], "--api-key takes a secret"),
        (["-o", "server_args=--hf-token abcdefg"], "server_env=HF_TOKEN"),
        (["-o", "server_args=--port 9000"], "server_args: '--port'; expected no option that the run itself sets"),
        (["-o", "test_model=-x"], "test_model:"),
        (
            ["-o", "server_port=8000", "--html=/dev/null/page.html"],
            "/dev/null/page.html: can't be written: expected a file",
        ),
        (["-o", "server_port=8000", "--html", "/tmp"], "/tmp: can't be written"),
        (["-o", "server_port=8000", "--html=/proc/x/page.html"], "/proc/x/page.html: can't be written"),
        (["-o", "server_port=8000", f"--junit-xml=/tmp/{'a' * 300}"], "a: can't be written"),
        (["-o", "reference_folder=/dev/null", "--write-reference"], "/dev/null/GPU.json: can't be written"),
        (["-o", "server_port=8000", "--css=/dev"], "/dev: can't be read: Is a directory"),
    ],
)
def test_mistake_is_one_line(words: list[str], said: str) -> None:
    before = sorted((TOP / "reports").iterdir())
    done = run("--node", "local", *words) if words[0] == "-o" else run(*words)
    assert done.returncode == 4
    assert said in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert sorted((TOP / "reports").iterdir()) == before


def test_help_groups_our_options() -> None:
    out = run("--help").stdout
    assert "phoenix-920:" in out
    assert "--rebuild-clone" in out


def test_collecting_touches_no_node() -> None:
    done = run("--collect-only", "--quiet", "--node", "ssh://root@192.0.2.1")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "clone_ctids=99"], "clone_ctids: 99 is not a container number"),
        (["-o", "clone_addresses=10.0.0"], "clone_addresses: '10.0.0' is not an IPv4 address"),
        (["--accept", "903"], "--accept 903 is not declared as a clone of 920"),
        (["--accept", "940"], "container 940 is not declared"),
        (["--accept", "950", "--rebuild"], "--accept cannot be combined with"),
        (["--verify-parent", "--verify"], "--verify-parent cannot be combined with"),
        (["--family", "--accept", "950"], "--accept cannot be combined with"),
        (["--accept", "950", "--no-clone"], "combined with --no-clone"),
        (["--keep"], "--keep needs --accept"),
    ],
)
def test_mistake_about_clones_is_one_line(words: list[str], said: str) -> None:
    done = run("--node", "local", *words)
    assert (done.returncode, said in done.stderr) == (4, True), done.stderr
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize(("option", "stage"), [("--verify-deep", "serving"), ("--verify-parent", "inherited")])
def test_option_for_a_stage_that_a_suite_has_not_is_refused(tmp_path: Path, option: str, stage: str) -> None:
    declared = json.loads((TOP / "phoenix_lxc_configs.json").read_text())
    declared["lxc_configs"] |= json.loads((TOP / "docs/example/930.json").read_text())
    (tmp_path / "declared.json").write_text(json.dumps(declared))
    command = [sys.executable, "-m", "pytest", "docs/example/tests_930", "--node", "local", option]
    command += ["-o", f"lxc_configs={tmp_path}/declared.json"]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4
    assert f"{option}: " in done.stderr
    assert f"has no stage '{stage}', so there is nothing to do" in done.stderr


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "-x", "x y"])
def test_lab_takes_no_folder_for_the_name_of_a_node(name: str) -> None:
    """`down` removes the folder of that name with all that is in it."""
    command = [sys.executable, "-m", "lab", f"--name={name}", "down"]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"{name!r} is no name of a node" in done.stderr


@pytest.mark.parametrize(
    ("declared", "words", "said"),
    [
        (None, ["930", "--address", "10.0.0.300/24"], "lxc_configs.930.network_config.ip: "),
        (None, ["930", "--name", "a b"], "lxc_configs.930.name: "),
        (None, ["-5"], "lxc_configs.-5"),
        (None, ["930", "--parent", "999"], "the parent 999 is not declared"),
        (None, ["930", "--folder", "/proc/x"], "/proc/x: No such file or directory; nothing was written"),
        (b"[]", ["930"], "phoenix_lxc_configs.json:1: top level: []"),
        (b'{"lxc_configs": {"920": 5}}', ["930"], "lxc_configs.920: 5; expected"),
        (b"[" * 200_000, ["930"], "is nested too deeply"),
        (b"\xff", ["930"], "is not UTF-8 text"),
    ],
)
def test_new_suite_from_a_mistake_is_refused_in_plain_words(
    declared: bytes | None, words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if declared is not None:
        (tmp_path / new.DECLARATION).write_bytes(declared)
    before = sorted(tmp_path.iterdir())
    assert new.main(words if "--folder" in words else [*words, "--folder", str(tmp_path)]) == 4
    out, err = capsys.readouterr()
    assert said in err
    assert (out, sorted(tmp_path.iterdir())) == ("", before)


@pytest.mark.parametrize("content", [b"\xff", b" " * (2**20 + 1), None])
def test_list_of_checks_or_waivers_that_is_no_text_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "CHECKS"
    if content is None:
        os.mkfifo(path)  # to open it waits for somebody who writes
    else:
        path.write_bytes(content)
    for read in (
        suite.mistake,
        lambda checks: stages.declared_checks(checks, ()),
        lambda file: waivers.load(file, ()),
    ):
        with pytest.raises(BuildError, match=r"CHECKS.*: (is not UTF-8 text|is larger than 1 MiB|.* a named pipe)"):
            read(path)


def test_file_of_options_that_can_not_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "options").write_bytes(b"\xff")
    os.mkfifo(tmp_path / "pipe")
    for name in ("options", "pipe"):
        monkeypatch.setattr("sys.argv", ["phoenix-920", f"@{tmp_path}/{name}"])
        assert front.main() == 4
        assert capsys.readouterr().err.startswith(f"@{tmp_path}/{name}: can't be read: ")


@pytest.mark.parametrize(
    ("verb", "said"), [("down", "state/pve-none/pid: Not a directory"), ("exec", "lab --name pve-none up")]
)
def test_lab_says_in_one_line_what_it_can_not_do(
    verb: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state").write_text("")
    monkeypatch.setenv("PHOENIX_LAB_STATE", str(tmp_path / "state"))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("sys.argv", ["lab", "--name", "pve-none", verb])
    assert lab.main() == 1
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1
