"""Several nodes in one run: which they are, that each run is as if it were alone, signals, and the merged reports."""

from __future__ import annotations

import html
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fixtures.proxmox import conf
from fixtures.record.model import Record, from_json
from fixtures.run.mode import Outcome
from fixtures.run.nodes import NodeSpec, specs
from fixtures.session import node_process
from fixtures.session.node_process import NodeProcess, worst
from tests import pve_files, schemas
from tests.suite_run import NODE, Suite, SuiteRun

TOP = Path(__file__).parent.parent
SECRET = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"
LOCKED = NODE.replace("echo held; exec cat >/dev/null", """echo '{"does": "a build"}'; exit 75""")
INTERRUPTED = """
def pytest_runtest_call(item):
    if "test_parent_is_as_declared" in item.name:
        raise KeyboardInterrupt
"""
STUCK = """
import os, sys, time, pytest
if "PHOENIX_ASSIGNMENT" not in os.environ:
    os.setpgid(0, 0)  # a group of processes, as a shell makes one for each command
from fixtures.base.interrupts import INTERRUPTS
from fixtures.record.run_folder import FOLDER
@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session):
    say = INTERRUPTS.say
    def heard(text):
        with session.config.stash[FOLDER].joinpath("heard").open("a") as file:
            file.write(text)
        say(text)
    INTERRUPTS.say = heard
def pytest_runtest_call(item):
    folder = item.config.stash[FOLDER]
    folder.joinpath("stuck").write_text(str(os.getpid()))
    WHILE_STUCK
@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    session.config.stash[FOLDER].joinpath("cleaning").touch()
    CLEAN_UP
"""
SEALING = """
    with INTERRUPTS.sealing():
        while not folder.joinpath("heard").exists():
            time.sleep(0.05)
        time.sleep(0.5)
        folder.joinpath("sealed").touch()
"""
LOST = """
import os, signal
from fixtures.run.build import BUILD
def pytest_runtest_call(item):
    if item.config.stash[BUILD].channel.name == "lab:other":
        os.kill(os.getpid(), signal.SIGKILL)
"""
HOSTILE = """
import os
def pytest_sessionfinish():
    os.write(1, b"\\x1b]0;title\\x07" + b"AAA " * 100_000 + b"\\xff end\\n")
"""


def test_labels_can_be_told_apart() -> None:
    words = ["lab", "lab:n-a", "ssh://root@n-a", "ssh://root@pve1:2222", "local"]
    assert [spec.label for spec in specs(words)] == ["lab", "n-a", "n-a-2", "pve1-2222", "local"]
    words = ["ssh://root@pve", "ssh://admin@pve", "ssh://root@pve-2", "lab:pve"]
    assert [spec.label for spec in specs(words)] == ["pve", "pve-2", "pve-2-2", "pve-3"]


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        ([0, 0], 0),
        ([0, 1], 1),
        ([4, 1], 4),
        ([3, 4, 1], 3),
        ([1, 3, 2, None], 2),
        ([0, -9], 1),
        ([0, 5], 0),
        ([5, 5], 5),
        ([1, 5], 1),
        ([0, 99], 1),
    ],
)
def test_run_ends_with_the_worst_status(statuses: Sequence[int | None], status: int) -> None:
    assert worst(statuses, interrupted=False) == status
    assert worst(statuses, interrupted=True) == 2


def pytest_run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "tests_920", "-p", "no:cacheprovider", *words]
    return subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--node=local", "--node=nowhere"], "--node nowhere: not a node"),
        (["--nodes=no-such-file"], "--nodes no-such-file: can't be read: No such file"),
        (["--nodes=/dev/null"], "--nodes /dev/null: lists no node"),
        (["--node=local", "-n2"], "pytest-xdist: numprocesses is 2: each check must run exactly once"),
        (
            ["--node=local", "--node=lab:x", "-n", "2"],
            "pytest-xdist: numprocesses is 2: each check must run exactly once",
        ),
        (["--node=local", "--node=lab:x", "--parallel", "--write-reference"], "--write-reference: not with --parallel"),
        (["--node=local", "--node=lab:x", "--parallel=0"], "'0' is not a number of nodes"),
        (["--parallel", "tests_920", "--node=local"], "'tests_920' is not a number of nodes; without N, put it last"),
        (["--node=local", "--node=lab:x", "-o", "server_port=none"], "server_port: 'none' is not a number"),
        (["--node=local", "--node=lab:x", "-o", "report_folder=/dev/null"], "can't be written"),
    ],
)
def test_mistake_is_one_line(words: list[str], said: str) -> None:
    done = pytest_run(*words)
    assert (done.returncode, said in done.stderr) == (4, True), done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize("words", ["-n 2", "--dist=load --tx=popen"])
def test_n_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", words)
    done = pytest_run("--node=local")
    assert (done.returncode, "pytest-xdist: " in done.stderr) == (4, True), done.stdout + done.stderr


def test_ids_are_those_of_one_node() -> None:
    alone = pytest_run("--collect-only", "-q", "-overbosity_test_cases=auto", "--node=local").stdout.splitlines()
    both = pytest_run(
        "--collect-only", "-q", "-overbosity_test_cases=auto", "--node=lab:b", "--node=lab:a"
    ).stdout.splitlines()
    ids = [line for line in alone if "::" in line]
    assert len(ids) > 50
    assert [line for line in both if "::" in line] == ids


class Nodes(Suite):
    """Two nodes that are there and refuse what they are asked, and one that is down."""

    def __init__(self, top: Path, other: str = NODE) -> None:
        super().__init__(top, f": {SECRET}")
        node = top / "labs/other/node"
        node.parent.mkdir()
        node.write_text(other.replace("{told}", f": {SECRET}"))
        node.chmod(0o755)

    def both(self, *words: str, plugin: str = "", **env: str) -> SuiteRun:
        return self.run("--node=lab:other", *words, plugin=plugin, HUGGING_FACE_HUB_TOKEN=SECRET, **env)


def record(run: SuiteRun, name: str) -> Record:
    return from_json((run.folder / name / "record.json").read_text())


def cases(run: SuiteRun) -> list[str]:
    schemas.check_junit(run.folder / "junit.xml")
    return [case.attrib["name"] for case in ElementTree.parse(run.folder / "junit.xml").iter("testcase")]


def assert_merged(run: SuiteRun) -> None:
    """The merged files lead to each node's, and no file holds a secret."""
    page = (run.folder / "report.html").read_text()
    assert all(f'<a href="{name}/report.html">' in page for name in ("stub", "other", "off"))
    properties = [each.get("value") for each in ElementTree.parse(run.folder / "junit.xml").iter("property")]
    weak = [(name, caveat) for name in ("stub", "other") for caveat in record(run, name).caveats]
    assert weak, "on a stand-in, each run has something that weakens its proof"
    for name, caveat in weak:
        assert f"<li>{html.escape(caveat, quote=False)}</li>" in page, name
        assert caveat in properties
        assert f"proof weakened: {caveat.partition(':')[0]}" in run.output
    summary = (run.folder / "summary.md").read_text()
    assert summary.startswith("# Template 920 on 3 nodes: 3 failed\n\n- stub: failed. Checks failed;")
    assert "HUGGING_FACE_HUB_TOKEN" in (run.folder / "stub/report.html").read_text(), "it was said, by its name"
    assert not [path for path in run.folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert SECRET not in run.output


@pytest.mark.parametrize("words", [(), ("--parallel",)], ids=["one after the other", "in parallel"])
def test_each_run_is_as_if_it_were_alone(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Checks that fail on one node block only that node's, each has all its files, and one that is down a record."""
    suite = Nodes(tmp_path)
    alone = suite.run()
    run = suite.both("--node=lab:off", *words)
    assert run.status == 1, run.output
    for name in ("stub", "other"):
        one = record(run, name)
        assert [(check.name, check.verdict) for check in one.checks] == [
            (check.name, check.verdict) for check in alone.record.checks
        ]
        assert one.outcome is Outcome.FAILED
        assert one.node["reached"] == f"lab:{name}"
        assert {path.name for path in (run.folder / name).iterdir()} == {path.name for path in alone.folder.iterdir()}
        assert "Failures" in (run.folder / name / "report.html").read_text()
    assert len({record(run, name).invocation for name in ("stub", "other", "off")}) == 3
    down = record(run, "off").checks
    assert "the lab is not up" in down[0].reason
    assert [check.verdict for check in down] == ["failed"] + ["skipped"] * (len(down) - 1)
    assert "outcome: 3 failed" in run.output
    assert_merged(run)
    names = cases(run)
    assert len(names) == 3 * len([check for check in alone.record.checks if check.verdict != "not run"])
    assert "The node answers and is a Proxmox VE node[@stub]" in names
    assert any(name.startswith("GPU 1: ") and name.endswith("[@other]") for name in names)


def test_page_and_junit_file_go_where_the_user_wants_them(tmp_path: Path) -> None:
    run = Nodes(tmp_path).both(f"--html={tmp_path}/a/page.html", f"--junit-xml={tmp_path}/b/junit.xml", "-k", "proxmox")
    assert 'href="../reports/' in (tmp_path / "a/page.html").read_text()
    assert (tmp_path / "b/junit.xml").read_text().count("<testcase") == 2
    assert (run.folder / "stub/report.html").exists()
    assert not (run.folder / "report.html").exists()


def test_output_is_prefixed_and_bounded(tmp_path: Path) -> None:
    run = Nodes(tmp_path).both("--parallel", "-k", "test_node_is_proxmox", plugin=HOSTILE)
    before = run.output.partition("= outcome: ")[0].splitlines()
    assert all(line.startswith(("stub: ", "other: ")) for line in before[:-1]), run.output
    assert "\x1b" not in run.output
    assert max(map(len, before)) < 2 * node_process.LONGEST_LINE
    assert "AAA" in run.output


def test_output_of_a_node_is_bounded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(node_process, "LONGEST_OUTPUT", 10)
    process = NodeProcess(NodeSpec("lab:a", "a"), Path("/reports/a"), [])
    output, theirs = os.pipe()
    os.write(theirs, b"one\ntwo\nthree\nfour\nfive\n")
    os.close(theirs)
    process.show(output)
    said = ["a: one", "a: two", "a: three", "a: the rest of its output is not shown; its reports are in /reports/a"]
    assert capsys.readouterr().out.splitlines() == said


def test_node_that_another_run_works_on_is_left_alone(tmp_path: Path) -> None:
    run = Nodes(tmp_path, LOCKED).both("--parallel")
    checks = record(run, "other").checks
    assert checks[0].verdict == "failed"
    assert "another run works on it (a build)" in checks[0].reason
    assert {check.verdict for check in checks[1:]} == {"skipped"}
    commands = [line for line in (run.folder / "other/commands.jsonl").read_text().splitlines() if '"pct"' in line]
    assert not commands, "nothing of it was asked"
    begins = "No check ran; the state of 920@vllm-base-snapshot is unknown: container 920: another run works on it"
    assert record(run, "other").sentence.startswith(begins)


@pytest.mark.parametrize("words", [(), ("--parallel",)], ids=["one after the other", "in parallel"])
def test_k_selects_a_node(tmp_path: Path, words: tuple[str, ...]) -> None:
    run = Nodes(tmp_path).both("-k", "other and test_node_is_proxmox", *words)
    assert run.status == 0, run.output
    assert "outcome: 1 not selected, 1 partial" in run.output
    assert cases(run) == ["The node answers and is a Proxmox VE node[@other]"]


def test_nothing_is_selected(tmp_path: Path) -> None:
    run = Nodes(tmp_path).both("-k", "no_such_check")
    assert (run.status, "outcome: 2 not selected" in run.output) == (5, True), run.output


def test_interrupted_run_tells_which_node_had_its_turn(tmp_path: Path) -> None:
    run = Nodes(tmp_path).both(plugin=INTERRUPTED)
    assert run.status == 2
    assert "outcome: 1 aborted, 1 not begun" in run.output
    assert record(run, "stub").outcome is Outcome.ABORTED
    assert not (run.folder / "other").exists()


def test_lost_process_is_no_success(tmp_path: Path) -> None:
    run = Nodes(tmp_path).both("-k", "test_node_is_proxmox", plugin=LOST)
    assert run.status == 1, run.output
    assert "outcome: 1 partial, 1 build interrupted" in run.output
    assert "other: its process was lost: SIGKILL" in run.output
    assert cases(run) == ["The node answers and is a Proxmox VE node[@stub]", "build[@other]"]
    assert record(run, "other").outcome is Outcome.ABORTED


def test_internal_error_of_the_merged_report_is_said(tmp_path: Path) -> None:
    broken = "from fixtures.report.merged import Merged\ndef broken(*_):\n    raise ValueError('no page')\n"
    run = Nodes(tmp_path).both("-k", "test_node_is_proxmox", plugin=f"{broken}Merged.conclude = broken\n")
    assert run.status == 3, run.output
    assert "internal error: ValueError: no page" in run.output
    assert "AssertionError" not in run.output


class Stuck:
    """A run on two nodes whose checks go on until an interrupt."""

    def __init__(self, top: Path, while_stuck: str = "time.sleep(300)", clean_up: str = "pass") -> None:
        self.reports = top / "reports/latest"
        (top / "nodes").write_text("lab:other  # a file of nodes works on all of them in parallel\n")
        plugin = STUCK.replace("WHILE_STUCK", while_stuck.strip()).replace("CLEAN_UP", clean_up)
        self.process = Nodes(top).start(f"--nodes={top}/nodes", plugin=plugin)
        self.wait("stuck")

    def wait(self, name: str, words: str = "") -> None:
        """Wait until each node's process has written a file."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if len([path for path in self.reports.glob(f"*/{name}") if words in path.read_text()]) == 2:
                return
            time.sleep(0.05)
        self.process.kill()
        pytest.fail(f"{name} is not there: {self.process.communicate()[0]}")

    def heard(self) -> list[str]:
        return [path.read_text() for path in self.reports.glob("*/heard")]

    def end(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=60)
        return self.process.returncode, output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_reaches_each_process_once(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup(1) lets it be ignored by all that it starts
    try:
        run = Stuck(tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    os.killpg(run.process.pid, number)  # as a terminal does
    status, output = run.end()
    assert status == 2, output
    assert [line.partition(";")[0] for line in run.heard()] == ["interrupted"] * 2
    assert "outcome: 2 aborted" in output


def test_third_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    run = Stuck(tmp_path, clean_up="time.sleep(300)")
    run.process.send_signal(signal.SIGINT)
    run.wait("cleaning")
    run.process.send_signal(signal.SIGINT)
    run.wait("heard", "press again to quit")
    run.process.send_signal(signal.SIGINT)
    status, output = run.end()
    assert status == 2, output
    assert "outcome: 2 aborted" in output


def test_sealing_is_not_torn(tmp_path: Path) -> None:
    run = Stuck(tmp_path, while_stuck=SEALING)
    run.process.send_signal(signal.SIGTERM)
    status, output = run.end()
    assert status == 2, output
    assert [path.parent.name for path in sorted(run.reports.glob("*/sealed"))] == ["other", "stub"]


def test_no_process_outlives_a_run_that_is_killed(tmp_path: Path) -> None:
    """Each still cleans up after itself, says how it ended, and waits for nobody to read what it writes."""
    run = Stuck(tmp_path, clean_up="sys.__stdout__.write('x' * 300_000)")
    processes = [int(path.read_text()) for path in run.reports.glob("*/stuck")]
    run.process.kill()
    run.process.communicate(timeout=60)
    end = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in processes):
        assert time.monotonic() < end, "a process lives on"
        time.sleep(0.05)
    for name in ("stub", "other"):
        found = from_json((run.reports / name / "record.json").read_text())
        assert (found.outcome, found.sentence.partition(";")[0]) == (Outcome.ABORTED, "The run was interrupted")


def test_plan_is_made_for_each_node(tmp_path: Path) -> None:
    read = f"""  sh) case "$3" in say*) cat {tmp_path}/files ;; *) exit {conf.ABSENT} ;; esac ;;\n"""
    (tmp_path / "files").write_text(pve_files.files({}, "stub"))
    node = NODE.replace("  *) ", f"{read}  ip) echo vmbr0 ;;\n  *) ")
    suite = Nodes(tmp_path, node)
    (tmp_path / "labs/stub/node").write_text(node)
    run = suite.both("--plan", "--parallel")
    assert run.status == 0, run.output
    assert "stub: 920@vllm-base-snapshot on lab:stub: to build" in run.output
    assert "other: 920@vllm-base-snapshot on lab:other: to build" in run.output
    assert "outcome" not in run.output
    assert not suite.reports.exists(), "a plan leaves nothing"


def test_plan_of_a_node_that_is_down(tmp_path: Path) -> None:
    run = Nodes(tmp_path).both("--plan", "--node=lab:off")
    assert run.status == 4, run.output
    assert "off: ERROR: " in run.output
