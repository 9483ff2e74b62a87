"""Commands that change a node: never killed, only run on what was decided on, and read by the next run."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.proxmox import tasks
from fixtures.proxmox.channel import Channel
from fixtures.proxmox.command import DeadlineExceeded
from fixtures.proxmox.node import NodeError
from fixtures.proxmox.run_lock import RunLock
from fixtures.proxmox.tasks import ChangeRefused

CONF = "hostname: x\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where this machine, as the node, keeps tasks, locks and the configuration of container 920."""
    monkeypatch.setattr(tasks, "FOLDER", str(tmp_path / "tasks"))
    monkeypatch.setattr(tasks, "START", tasks.START.replace('"$4"', f'"{tmp_path}/920.conf"'))
    monkeypatch.setattr("fixtures.proxmox.run_lock.FOLDER", str(tmp_path))
    (tmp_path / "920.conf").write_text(CONF)
    return tmp_path


@pytest.fixture
def lock(place: Path) -> Iterator[RunLock]:
    """The run's lock, held."""
    one = RunLock(Channel("local"), 920)
    one.acquire("this-run", shared=False, command="a test")
    assert one.held, one.problem
    yield one
    one.release()


def run(lock: RunLock, script: str, *, expected: str | None = None, deadline: float = 60) -> tuple[int, str, str]:
    digest = hashlib.sha256(CONF.encode()).hexdigest() if expected is None else expected
    done = tasks.run(lock.channel, 920, ["sh", "-c", script], deadline=deadline, lock=lock, expected=digest)
    return done.exit_status, done.out, done.err


def settled(lock: RunLock) -> list[str]:
    return [str(task) for task in tasks.settle(lock.channel, 920, 60)]


def until(path: Path) -> None:
    """Wait until there is a file; not for long on any machine that works at all."""
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.1)
    pytest.fail(f"{path} never came")


def test_command_is_run_and_leaves_nothing(lock: RunLock, place: Path) -> None:
    assert run(lock, "echo said; echo wrong >&2; exit 3") == (3, "said", "wrong")
    assert run(lock, "exit 0") == (0, "", "")
    assert settled(lock) == []
    assert [each.name for each in (place / "tasks/920").iterdir()] == [".starting"]


def test_log_shows_the_command_itself(lock: RunLock) -> None:
    seen: list[tuple[str, ...]] = []
    lock.channel.listeners.append(lambda command: seen.append(command.argv))
    run(lock, "true")
    assert seen == [("sh", "-c", "true")]


def test_secret_of_the_environment_does_not_reach_it(lock: RunLock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    _, said, _ = run(lock, "env")
    assert sorted(line.partition("=")[0] for line in said.splitlines()) == ["HOME", "LC_ALL", "PATH", "PWD"]


@pytest.mark.parametrize("expected", ["0" * 64, tasks.ABSENT, ""])
def test_changed_configuration_is_refused(lock: RunLock, place: Path, expected: str) -> None:
    with pytest.raises(ChangeRefused, match="has changed since it was read"):
        run(lock, f"touch {place}/done", expected=expected)
    assert not (place / "done").exists()


def test_container_that_must_not_be_there(lock: RunLock, place: Path) -> None:
    (place / "920.conf").unlink()
    assert run(lock, "exit 0", expected=tasks.ABSENT)[0] == 0
    with pytest.raises(ChangeRefused, match="has changed"):
        run(lock, "exit 0")


def test_lost_lock_is_refused(lock: RunLock, place: Path) -> None:
    lock.release()
    with pytest.raises(ChangeRefused, match="has lost its lock"):
        run(lock, f"touch {place}/done")
    other = RunLock(lock.channel, 920)
    other.acquire("another-run", shared=False, command="a test")
    try:
        with pytest.raises(ChangeRefused, match="has lost its lock"):
            run(lock, f"touch {place}/done")
    finally:
        other.release()
    assert not (place / "done").exists()


def test_deadline_ends_the_waiting_only(lock: RunLock, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "START_DEADLINE", 2.0)
    script = f"while [ ! -e {place}/go ]; do sleep 0.1; done; echo $? >{place}/done; exit 5"
    with pytest.raises(DeadlineExceeded, match=r"It was not ended: it runs on as task .*/tasks/920/"):
        run(lock, script, deadline=0.5)
    monkeypatch.setattr(tasks, "START_DEADLINE", 60.0)
    (still,) = tasks.unheard(lock.channel, 920)
    assert (still.state, still.ctid, still.invocation) == ("running", 920, "this-run")
    with pytest.raises(
        ChangeRefused, match=r"`sh -c .*` is still running on the node, because changes are never killed"
    ):
        run(lock, "exit 0")
    assert [task.state for task in tasks.settle(lock.channel, 920, 0)] == ["running"]
    (place / "go").touch()
    (said,) = settled(lock)
    assert said.endswith("ended with 5")
    assert (place / "done").exists()
    assert settled(lock) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_end_of_the_suite_ends_the_waiting_only(lock: RunLock, place: Path, number: signal.Signals) -> None:
    script = f"touch {place}/begun; while [ ! -e {place}/go ]; do sleep 0.1; done; touch {place}/done"
    words = [f"{key}={value}" for key, value in (("place", place), ("script", script))]
    program = (
        "import sys, signal; from tests.test_tasks import *; "
        "values = dict(word.split('=', 1) for word in sys.argv[1:]); "
        "tasks.FOLDER = values['place'] + '/tasks'; import fixtures.proxmox.run_lock; "
        "tasks.START = tasks.START.replace('\"$4\"', '\"' + values['place'] + '/920.conf\"'); "
        "fixtures.proxmox.run_lock.FOLDER = values['place']; "
        "signal.signal(signal.SIGHUP, signal.SIG_DFL); "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "  # a job in the background ignores it
        "one = RunLock(Channel('local'), 920); one.invocation = 'this-run'; run(one, values['script'])"
    )
    suite = subprocess.Popen([sys.executable, "-c", program, *words], stderr=subprocess.DEVNULL)
    until(place / "begun")
    os.kill(suite.pid, number)
    suite.wait(60)
    (place / "go").touch()
    (said,) = settled(lock)
    assert said.endswith("ended with 0")
    assert (place / "done").exists()


def test_end_of_the_node_is_told(lock: RunLock, place: Path) -> None:
    """Its process is gone without a word; another one may have its number by now."""
    with contextlib.suppress(Exception):
        run(lock, f"kill -9 $PPID; sleep 0.5; touch {place}/late")
    (task,) = tasks.settle(lock.channel, 920, 60)
    assert task.state == "lost"
    assert "its result is unknown" in str(task)


@pytest.mark.parametrize("noted", ["half", "{}", "[]", '{"ctid": "x", "argv": [], "invocation": "", "started": 0}'])
def test_note_that_cannot_be_read_is_no_silence(lock: RunLock, place: Path, noted: str) -> None:
    folder = place / "tasks/920/1"
    folder.mkdir(parents=True)
    (folder / "task.json").write_text(f"{noted}\n")
    with pytest.raises(NodeError, match="can't be read"):
        tasks.unheard(lock.channel, 920)


@pytest.mark.parametrize("fails", ["sync .task 0", "mv pid 1"])
def test_change_that_cannot_be_noted_is_not_begun(
    lock: RunLock, place: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """As on a disk that is full: the next run would take a change that still runs for dead."""
    program, file, left = fails.split()
    (place / program).write_text(f'#!/bin/sh\ncase "$*" in */{file}) exit 1 ;; esac\nexec /bin/{program} "$@"\n')
    (place / program).chmod(0o755)
    with monkeypatch.context() as full, contextlib.suppress(ChangeRefused):
        full.setenv("PATH", f"{place}:{os.environ['PATH']}")
        assert run(lock, f"touch {place}/done")[0] == 1
    assert not (place / "done").exists()
    assert len(settled(lock)) == int(left)
    assert run(lock, f"touch {place}/done")[0] == 0


def test_output_is_bounded(lock: RunLock) -> None:
    _, said, _ = run(lock, "head -c 3000000 /dev/zero | tr '\\0' x; echo end")
    assert len(said) <= tasks.LARGEST_OUTPUT
    assert said.endswith("end")
