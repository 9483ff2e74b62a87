"""The exit statuses that README promises, each of them once; 0 and drift (1) are seen in the lab."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast
from xml.etree import ElementTree

import pytest

from fixtures.report.recorder import Recorder
from fixtures.run.mode import Outcome
from tests.suite_run import Suite

INTERRUPTED = """
def pytest_runtest_call(item):
    raise KeyboardInterrupt
"""
BEFORE_THE_FIRST = """
def pytest_runtest_logstart():
    raise KeyboardInterrupt
"""
LOST = """
import os, signal, time
class Drops:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
def pytest_runtest_call(item):
    Drops()
"""
IN_ITS_CLEAN_UP = """
def pytest_runtest_teardown(item):
    raise KeyboardInterrupt
"""
NOT_COLLECTED = """
def pytest_collect_file(file_path):
    if file_path.name == "test_090_accepted.py":
        raise ImportError("a defect")
"""
BROKEN = """
def pytest_runtest_teardown(item):
    raise RuntimeError("a defect")
def pytest_runtest_logfinish(nodeid):
    raise RuntimeError("a defect")
"""


@pytest.mark.parametrize(
    ("words", "plugin", "status"),
    [
        ((), "", 1),
        ((), INTERRUPTED, 2),
        ((), BEFORE_THE_FIRST, 2),
        ((), LOST, 2),
        ((), BROKEN, 3),
        ((), NOT_COLLECTED, 3),
        (("--no-such-option",), "", 4),
        (("-o", "server_port=none"), "", 4),
        (("-o", "vllm_image=foo bar"), "", 4),
        (("-o", "unknown=1"), "", 4),
        (("-k", "no_such_check"), "", 5),
    ],
)
def test_exit_status(tmp_path: Path, words: tuple[str, ...], plugin: str, status: int) -> None:
    suite = Suite(tmp_path)
    run = suite.run(*words, plugin=plugin)
    assert run.status == status, run.output
    if status == 4:
        assert not suite.folders(), "a mistake leaves nothing"
    else:
        assert run.record.outcome is (Outcome.ABORTED if status == 2 else Outcome.FAILED)
        assert ("so no check ran" in run.record.sentence) is (plugin == NOT_COLLECTED)


@pytest.mark.parametrize(
    ("plugin", "first"),
    [(INTERRUPTED, "failed"), (LOST, "passed"), (IN_ITS_CLEAN_UP, "passed")],
    ids=["in the check", "lost", "in its clean-up"],
)
def test_interrupted_run_tells_of_each_check_once(tmp_path: Path, plugin: str, first: str) -> None:
    run = Suite(tmp_path).run(plugin=plugin)
    verdicts = [check.verdict for check in run.record.checks]
    assert verdicts[0] == first
    assert set(verdicts[1:]) == {"not run"}
    cases = ElementTree.parse(run.folder / "junit.xml").iter("testcase")
    assert [case.attrib["name"] for case in cases] == ["The node answers and is a Proxmox VE node"]


def test_unknown_setting_is_one_clear_line(tmp_path: Path) -> None:
    output = Suite(tmp_path).run("-o", "unknown=1").output
    assert "unknown" in output
    assert "Traceback" not in output
    assert len(output.strip().splitlines()) <= 2, output


def test_node_that_is_none_is_asked_once(tmp_path: Path) -> None:
    suite = Suite(tmp_path)
    (tmp_path / "labs/stub/node").write_text("#!/bin/sh\necho away >&2; exit 255\n")
    run = suite.run()
    verdicts = {check.name: check.verdict for check in run.record.checks}
    assert verdicts.pop("test_010_preflight.py::test_node_is_proxmox") == "failed"
    assert set(verdicts.values()) == {"skipped"}
    assert "lab:stub did not answer, so the state of 920@vllm-base-snapshot is unknown" in run.output


@pytest.mark.parametrize(("outcome", "status"), [(Outcome.FAILED, 1), (Outcome.EXISTING, 0), (Outcome.PARTIAL, 0)])
def test_run_whose_result_is_gone_at_its_end_fails(outcome: Outcome, status: int) -> None:
    """No check has failed, but the node says in the end that what they were true for is not there."""
    recorder, session = object.__new__(Recorder), SimpleNamespace(exitstatus=pytest.ExitCode.OK)
    vars(recorder).update(
        record=SimpleNamespace(finished=1.0, outcome=outcome),
        commands=[],
        _index=lambda: None,
        files=SimpleNamespace(write_all=lambda *_: True, defect=""),
        _build=SimpleNamespace(uncollected=False),
    )
    others = recorder.pytest_sessionfinish(cast(pytest.Session, session))
    next(others)
    with pytest.raises(StopIteration):
        others.send(None)
    assert session.exitstatus == status
