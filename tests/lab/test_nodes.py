"""Several nodes in one run: one after the other, in parallel, one that is down, a lost process, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.record.model import Record, from_json
from fixtures.run.mode import Outcome
from lab import vllm
from lab.__main__ import up
from lab.machine import Machine
from tests.faults.fault import stand_in
from tests.lab.harness import STAND_IN, Lab, Run, says

pytestmark = pytest.mark.lab

LOCK = "/run/phoenix-920/920.lock"
READING = ("-k", "test_010_preflight or test_020_clone")
SERVING = ("-k", "test_020_clone or test_gpus_are_listed or test_image_is_pulled or test_entrypoint or TestServer")


@pytest.fixture(scope="module")
def labs(lab: Lab) -> Iterator[tuple[Lab, Lab]]:
    """Two nodes; the second is erased at the end."""
    machine = Machine(f"{lab.machine.name}-b")
    machine.erase()
    try:
        up(machine)
        machine.serve_stand_in(vllm.made() / "registry")
        yield lab, Lab(machine, lab.reports)
    finally:
        machine.erase()


def words(*names: str) -> list[str]:
    return [*STAND_IN, *(f"--node=lab:{name}" for name in names)]


def record(run: Run, name: str) -> Record:
    return from_json((run.folder / name / "record.json").read_text())


def order(run: Run) -> list[str]:
    """The node of each check that was told, in order."""
    return [name.partition("@")[2].rstrip("]") for name in run.checks()]


def assert_one_down(run: Run, one: str, two: str, down: str) -> None:
    assert run.status == 1
    assert run.failed() == {f"test_node_is_proxmox[@{down}]"}
    assert order(run).count(one) == order(run).count(two) == order(run).count(down) > 15
    assert [record(run, name).outcome for name in (one, two, down)] == [Outcome.PARTIAL] * 2 + [Outcome.FAILED]
    assert {check.verdict for check in record(run, one).checks} == {"passed", "not run"}
    assert not any("@" in check.name for check in record(run, one).checks), "a record is of one node"
    says(
        run,
        "outcome: 2 partial, 1 failed",
        f"{down} failed: No check ran; the state of 920@vllm-base-snapshot is unknown",
        "the lab is not up",
    )
    assert f'<a href="{two}/report.html">its own build record</a>' in run.report
    assert ">partial<" in (run.folder / two / "report.html").read_text()


def test_one_after_the_other(labs: tuple[Lab, Lab]) -> None:
    """Sorted by node, and the one that is down holds nobody."""
    lab, other = labs
    one, two, down = lab.machine.name, other.machine.name, "pve-off"
    run = lab.build(*words(one, down, two), *READING)
    assert_one_down(run, one, two, down)
    assert list(dict.fromkeys(order(run))) == [one, down, two]
    assert order(run) == sorted(order(run), key=[one, down, two].index)
    assert record(run, one).finished <= record(run, two).started


def test_in_parallel(labs: tuple[Lab, Lab], tmp_path: Path) -> None:
    """Fewer processes than nodes, which a file names; each node's checks in order."""
    lab, other = labs
    one, two, down = lab.machine.name, other.machine.name, "pve-off"
    (tmp_path / "nodes").write_text(f"# ours\nlab:{two}\nlab:{down}  # in repair\n")
    run = lab.build(*words(one), "--nodes", str(tmp_path / "nodes"), "--parallel=2", *READING)
    assert_one_down(run, one, two, down)
    names = [name for name in run.checks() if name.endswith(f"[@{two}]")]
    alone = lab.build(*words(two), *READING)
    assert [name.removesuffix(f"[@{two}]") for name in names] == list(alone.checks())
    assert record(run, one).started < record(run, two).finished
    assert record(run, two).started < record(run, one).finished


@pytest.mark.parametrize("moment", [0, 3])  # seconds after it has taken the lock: before its first check and later
def test_lost_process(labs: tuple[Lab, Lab], moment: int) -> None:
    """Its build is interrupted: neither gone on with nor begun anew; the other node's is not held."""
    lab, other = labs
    one, two = lab.machine.name, other.machine.name
    other.destroy(920)
    with other.fault("* = delay 8"):  # so that it is not over before it is lost
        process = lab.start(*words(one, two), "--parallel", *READING)
        pid = process_on(other, process)
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
        run = lab.finish(process, 120)
    assert run.status == 1
    assert run.failed() == {f"build[@{two}]"}
    says(run, "outcome: 1 partial, 1 build interrupted", "The process that built on this node was lost")
    assert [name for name in run.checks() if name.endswith(f"@{two}]")] == [f"build[@{two}]"]
    assert record(run, one).outcome is Outcome.PARTIAL
    assert not moment or record(run, two).outcome is Outcome.ABORTED
    other.node("flock", "--wait", "30", LOCK, "true")  # the node has found out as well


def process_on(lab: Lab, process: subprocess.Popen[str]) -> int:
    """The process that builds on a node."""
    for _ in range(600):
        said = lab.node("sh", "-c", f"cat {LOCK} 2>/dev/null || true")
        pid = int(json.loads(said)["pid"]) if said.strip() else 0
        parent = Path(f"/proc/{pid}/stat")
        if pid and parent.exists() and int(parent.read_text().rpartition(")")[2].split()[1]) == process.pid:
            return pid
        time.sleep(0.1)
    pytest.fail("no process has taken the lock")


@pytest.mark.parametrize(
    ("parallel", "number"), [(True, signal.SIGINT), (True, signal.SIGHUP), (False, signal.SIGTERM)]
)
def test_signal(labs: tuple[Lab, Lab], parallel: bool, number: signal.Signals) -> None:
    """Everything that the run has started is removed, on each node, before it ends."""
    names = [lab.machine.name for lab in labs]
    options = ("--parallel",) if parallel else ()
    process = labs[0].start(*words(*names), *options, *SERVING, *stand_in("silent"))  # it loads for ever
    serving = labs if parallel else labs[:1]
    for _ in range(300):
        if process.poll() is not None or all(lab.serves() for lab in serving):
            break
        time.sleep(0.4)
    process.send_signal(number)
    run = labs[0].finish(process, 60)
    assert run.status == 2
    assert [lab.servers() for lab in labs] == ["", ""]
    for lab in serving:
        assert record(run, lab.machine.name).outcome is Outcome.ABORTED
        page = (run.folder / lab.machine.name / "report.html").read_text()
        assert "interrupted while it ran" in page
    says(run, "outcome: 2 aborted" if parallel else "outcome: 1 aborted, 1 not begun")
