"""Several nodes in one run: which they are, the order of the checks, and that each build is as if it were alone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fixtures.nodes import places
from fixtures.recording.record import Outcome, Record, from_json
from fixtures.stages import check_name, node_in
from tests.suite_run import NODE, Suite, SuiteRun

TOP = Path(__file__).parent.parent
SECRET = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"
LOCKED = NODE.replace("echo held; exec cat >/dev/null", """echo '{"does": "a build"}'; exit 75""")
INTERRUPTED = """
def pytest_runtest_call(item):
    if "test_parent_is_as_declared" in item.name:
        raise KeyboardInterrupt
"""
SILENT = """
from fixtures.machines.node import Node
def hostname(self):
    raise KeyboardInterrupt
Node.name = property(hostname)
"""
STUCK = """
import time, pytest
from fixtures.recording.run_folder import FOLDER
def pytest_runtest_call(item):
    item.config.stash[FOLDER].joinpath("stuck").touch()
    time.sleep(60)
@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    if hasattr(session.config, "workerinput"):
        {clean_up}
"""


def test_labels_can_be_told_apart() -> None:
    words = ["lab", "lab:n-a", "ssh://root@n-a", "ssh://root@pve1:2222", "local"]
    assert [place.label for place in places(words)] == ["lab", "n-a", "n-a-2", "pve1-2222", "local"]
    words = ["ssh://root@pve", "ssh://admin@pve", "ssh://root@pve-2", "lab:pve"]
    assert [place.label for place in places(words)] == ["pve", "pve-2", "pve-2-2", "pve-3"]


@pytest.mark.parametrize(
    ("nodeid", "name", "node"),
    [
        ("tests_920/test_a.py::test_x", "test_a.py::test_x", ""),
        ("tests_920/test_a.py::TestB::test_x[gpu0]", "test_a.py::TestB::test_x[gpu0]", ""),
        ("tests_920/test_a.py::test_x[@n-a]", "test_a.py::test_x", "@n-a"),
        ("tests_920/test_a.py::test_x[gpu0-@n-a]", "test_a.py::test_x[gpu0]", "@n-a"),
        ("tests_920/test_a.py::test_x[gpu0-@n-a]@n-a", "test_a.py::test_x[gpu0]", "@n-a"),  # pytest-xdist's own mark
        ("tests_930/test_a.py::test_x[me@here]", "test_a.py::test_x[me@here]", ""),
    ],
)
def test_node_is_no_part_of_a_checks_name(nodeid: str, name: str, node: str) -> None:
    assert (check_name(nodeid), node_in(nodeid)) == (name, node)


def pytest_run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "tests_920", "-p", "no:cacheprovider", *words]
    return subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--node=local", "--node=nowhere"], "--node nowhere: not a node"),
        (["--nodes=no-such-file"], "--nodes no-such-file: can't be read: No such file"),
        (["--nodes=/dev/null"], "--nodes /dev/null: names no node"),
        (["--node=local", "-n2"], "-n: one node is one build"),
        (["--node=local", "--node=lab:x", "-n2", "--dist=worksteal"], "--dist: a build is never split"),
        (["--node=local", "--node=lab:x", "-n2", "--write-reference"], "--write-reference: not with -n"),
        (["--node=local", "--node=lab:x", "-o", "server_port=none"], "server_port: 'none' is not a number"),
        (["--node=local", "--node=lab:x", "-o", "report_folder=/dev/null"], "can't be written"),
    ],
)
def test_mistake_is_one_line(words: list[str], said: str) -> None:
    done = pytest_run(*words)
    assert (done.returncode, said in done.stderr) == (4, True), done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_checks_are_sorted_by_node_first() -> None:
    """Each node's in the order in which one node has them."""
    alone = [line for line in pytest_run("--collect-only", "-q", "--node=local").stdout.splitlines() if "::" in line]
    words = ("--collect-only", "-q", "--node=lab:b", "--node=lab:a")
    both = [line for line in pytest_run(*words).stdout.splitlines() if "::" in line]
    assert [node_in(line) for line in both] == ["@b"] * len(alone) + ["@a"] * len(alone)
    assert [check_name(line) for line in both] == [check_name(line) for line in alone] * 2


class Nodes(Suite):
    """Two nodes that are there and refuse what they are asked, and one that is down."""

    def __init__(self, top: Path, other: str = NODE) -> None:
        super().__init__(top, f": {SECRET}")
        node = top / "labs/other/node"
        node.parent.mkdir()
        node.write_text(other.replace("{told}", f": {SECRET}"))
        node.chmod(0o755)

    def both(self, *words: str, plugin: str = "") -> SuiteRun:
        return self.run("--node=lab:other", *words, plugin=plugin, HUGGING_FACE_HUB_TOKEN=SECRET)


def record(run: SuiteRun, name: str) -> Record:
    return from_json((run.folder / name / "record.json").read_text())


def assert_merged(run: SuiteRun) -> None:
    """The merged files lead to each node's, and no file holds a secret."""
    page = (run.folder / "report.html").read_text()
    assert all(f'<a href="{name}/report.html">' in page for name in ("stub", "other", "off"))
    summary = (run.folder / "summary.md").read_text()
    assert summary.startswith("# Template 920 on 3 nodes: 3 failed\n\n- stub: failed. Checks failed;")
    assert "HUGGING_FACE_HUB_TOKEN" in (run.folder / "stub/report.html").read_text(), "it was said, by its name"
    assert not [path for path in run.folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert SECRET not in run.output


@pytest.mark.parametrize("words", [(), ("-n", "2")])
def test_each_build_is_as_if_it_were_alone(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Checks that fail on one node block only that node's, and each has all its files."""
    suite = Nodes(tmp_path)
    alone = suite.run()
    run = suite.both(*words, "--node=lab:off")
    assert run.status == 1, run.output
    files = {path.name for path in alone.folder.iterdir()} - {"junit.xml"}
    for name in ("stub", "other"):
        one = record(run, name)
        assert [(check.name, check.verdict) for check in one.checks] == [
            (check.name, check.verdict) for check in alone.record.checks
        ]
        assert one.outcome is Outcome.FAILED
        assert one.node["reached"] == f"lab:{name}"
        assert {path.name for path in (run.folder / name).iterdir()} == files
        assert "What failed" in (run.folder / name / "report.html").read_text()
    assert len({record(run, name).invocation for name in ("stub", "other", "off")}) == 3
    assert [check.verdict for check in record(run, "off").checks][:2] == ["failed", "skipped"]
    assert "outcome: 3 failed" in run.output
    assert_merged(run)
    cases = list(ElementTree.parse(run.folder / "junit.xml").iter("testcase"))
    assert len(cases) == 3 * len([check for check in alone.record.checks if check.verdict != "not run"])


def test_node_that_another_run_works_on_is_left_alone(tmp_path: Path) -> None:
    run = Nodes(tmp_path, LOCKED).both("-n", "2")
    checks = record(run, "other").checks
    assert checks[0].verdict == "failed"
    assert "another run works on it (a build)" in checks[0].reason
    assert {check.verdict for check in checks[1:]} == {"skipped"}


@pytest.mark.parametrize("words", [(), ("-n", "2")], ids=["one after the other", "side by side"])
def test_node_none_of_whose_checks_is_selected_is_let_be(tmp_path: Path, words: tuple[str, ...]) -> None:
    run = Nodes(tmp_path).both("-k", "other and test_node_is_proxmox", *words)
    assert run.status == 0, run.output
    assert "outcome: 1 partial, 1 not selected" in run.output or "1 not selected, 1 partial" in run.output
    assert not (run.folder / "stub").exists()


def test_interrupted_run_tells_which_node_had_its_turn(tmp_path: Path) -> None:
    run = Nodes(tmp_path).both(plugin=INTERRUPTED)
    assert run.status == 2
    assert "outcome: 1 aborted, 1 not begun" in run.output
    assert record(run, "stub").outcome is Outcome.ABORTED
    assert not (run.folder / "other").exists()


def test_interrupt_before_a_node_has_answered(tmp_path: Path) -> None:
    run = Nodes(tmp_path).both(plugin=SILENT)
    assert run.status == 2, run.output
    assert "outcome: 1 aborted, 1 not begun" in run.output
    assert record(run, "stub").outcome is Outcome.ABORTED
    assert (run.folder / "stub/report.html").exists()


def test_third_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    process = started_and_stuck(tmp_path)
    begun = time.monotonic()
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(1)
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, time.monotonic() - begun < 20) == (2, True), output
    assert "press again to quit" in output
    assert "outcome: 2 aborted" in output


def test_builds_end_when_the_run_is_killed(tmp_path: Path) -> None:
    """Each still cleans up after itself, and says how it ended."""
    process = started_and_stuck(tmp_path, clean_up="")
    process.kill()
    process.communicate(timeout=60)  # until the last worker has let go of the terminal
    for name in ("stub", "other"):
        found = from_json((tmp_path / f"reports/latest/{name}/record.json").read_text())
        assert (found.outcome, found.sentence.partition(";")[0]) == (Outcome.ABORTED, "The run was interrupted")


def started_and_stuck(top: Path, clean_up: str = "time.sleep(60)") -> subprocess.Popen[str]:
    """A run whose checks, and whose clean-up, take a minute."""
    process = Nodes(top).start("--node=lab:other", "-n", "2", plugin=STUCK.format(clean_up=clean_up or "pass"))
    for _ in range(300):
        if len(list(top.glob("reports/latest/*/stuck"))) == 2:
            return process
        time.sleep(0.1)
    process.kill()
    pytest.fail(f"not begun: {process.communicate()[0]}")


def test_plan_is_made_for_each_node(tmp_path: Path) -> None:
    node = NODE.replace("  *) ", "  pvesh) echo '[]' ;;\n  *) ")
    suite = Nodes(tmp_path, node)
    (tmp_path / "labs/stub/node").write_text(node)
    run = suite.both("--plan", "-n", "2")
    assert run.status == 0, run.output
    assert "920@vllm-base-snapshot on lab:stub: to build" in run.output
    assert "920@vllm-base-snapshot on lab:other: to build" in run.output
