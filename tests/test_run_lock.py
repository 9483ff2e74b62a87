"""One run at a time: the lock is held, names its holder, and is free again however the run ends."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.proxmox import run_lock
from fixtures.proxmox.channel import Channel
from fixtures.proxmox.run_lock import LockHeld, RunLock, describe

TOP = Path(__file__).parent.parent
HOLDER = """
import sys, time
from fixtures.proxmox import run_lock
from fixtures.proxmox.channel import Channel
run_lock.FOLDER = sys.argv[1]
lock = run_lock.RunLock(Channel("local"), 920)
lock.acquire("the-first", shared=False, command="a build")
print("held" if lock.held else lock.problem, flush=True)
time.sleep(600)
"""


@pytest.fixture
def take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunLock]:
    monkeypatch.setattr(run_lock, "FOLDER", str(tmp_path))

    def one(invocation: str, shared: bool = False) -> RunLock:
        lock = RunLock(Channel("local"), 920)
        lock.acquire(invocation, shared=shared, command="a build")
        assert lock.held, lock.problem
        return lock

    return one


def test_second_run_is_told_who_was_first(take: Callable[..., RunLock]) -> None:
    first = take("the-first")
    with pytest.raises(LockHeld, match=rf"a build.*process {os.getpid()}, since 20\S+Z, invocation the-first"):
        take("the-second")
    first.release()
    assert not first.held
    take("the-third").release()


def test_runs_that_only_read_share_it(take: Callable[..., RunLock]) -> None:
    first, second = take("one", shared=True), take("two", shared=True)
    with pytest.raises(LockHeld, match="invocation two"):
        take("three")
    first.release()
    second.release()


def test_killed_run_leaves_no_lock(take: Callable[..., RunLock], tmp_path: Path) -> None:
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    run = subprocess.Popen(words, cwd=TOP, stdout=subprocess.PIPE, text=True)
    assert run.stdout
    assert run.stdout.readline() == "held\n"
    with pytest.raises(LockHeld):
        take("the-second")
    run.send_signal(signal.SIGKILL)
    run.wait()
    end = time.monotonic() + 10
    while True:
        try:
            take("the-second").release()
            break
        except LockHeld:
            assert time.monotonic() < end
            time.sleep(0.1)


def test_silent_run_loses_it(take: Callable[..., RunLock], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose connection is lost can't say that it lives; it learns that it has lost the lock."""
    monkeypatch.setattr(run_lock, "HOLD", run_lock.HOLD.replace(f"-t {run_lock.SILENCE}", "-t 1"))
    monkeypatch.setattr(run_lock, "BEAT", 60)
    first = take("the-first")
    end = time.monotonic() + 10
    while first.held:
        assert time.monotonic() < end
        time.sleep(0.1)
    take("the-second").release()


def test_node_that_has_no_lock_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(run_lock, "FOLDER", str(tmp_path / "file/none"))
    lock = RunLock(Channel("local"), 920)
    lock.acquire("x", shared=False, command="a build")
    assert not lock.held
    assert "Not a directory" in lock.problem


@pytest.mark.parametrize("pause", ["", "sleep 0.3; "])
def test_greeting_of_a_login_is_passed_over(take: Callable[..., RunLock], pause: str) -> None:
    greets = Channel("far", prefix=("sh", "-c", f'echo Welcome; {pause}exec "$@"', "sh"))
    lock = RunLock(greets, 920)
    lock.acquire("the-first", shared=False, command="a build")
    assert lock.held, lock.problem
    with pytest.raises(LockHeld, match="invocation the-first"):
        RunLock(greets, 920).acquire("the-second", shared=False, command="a build")
    lock.release()


@given(st.text())
def test_no_text_in_the_file_breaks_the_message(text: str) -> None:
    assert describe(text).isprintable()
    assert describe(f'{{"who": "\\u001b[31m{"x" * 9999}", "pid": ["\\n"]}}').isprintable()


def test_nobody_else_can_read_or_hold_the_lock(take: Callable[..., RunLock], tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    before = os.umask(0)
    try:
        lock = take("the-first")
    finally:
        os.umask(before)
    assert (tmp_path.stat().st_mode & 0o777, Path(lock.file).stat().st_mode & 0o777) == (0o700, 0o600)
    lock.release()


def test_node_that_prints_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bounded memory and time."""
    monkeypatch.setattr(run_lock, "DEADLINE", 0.5)
    floods = Channel("far", prefix=("sh", "-c", "yes & exec yes >&2", "sh"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lock = RunLock(floods, 920)
    lock.acquire("x", shared=False, command="a build")
    assert not lock.held
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024
