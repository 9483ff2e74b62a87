"""Which of several interrupts is raised, which is only answered, and which waits."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.base import interrupts as module
from fixtures.base.errors import BuildError
from fixtures.base.interrupts import Interrupts
from fixtures.record.model import from_json
from fixtures.run.mode import Outcome
from fixtures.serving.startup import Startup
from tests.suite_run import TOP, Suite

ENDING, SEALING = "clean-up is running", "the template is being sealed"


class Pressed(Interrupts):
    """Interrupts, and what was said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.say = self.said.append

    def press(self) -> None:
        self.handle(signal.SIGINT, None)

    def answers(self, text: str) -> None:
        """Be pressed, and go on."""
        before = len(self.said)
        self.press()
        assert len(self.said) == before + 1
        assert self.said[-1].startswith(text)

    def raises(self) -> None:
        """Be pressed, and end."""
        with pytest.raises(KeyboardInterrupt):
            self.press()


def test_second_one_lets_the_clean_up_finish() -> None:
    one = Pressed()
    one.raise_lost()
    one.raises()
    one.answers(ENDING)
    one.raises()


def test_first_one_is_answered_at_once() -> None:
    """Before anything else is done, in far less than the 0.2 s after which a person presses again."""
    one = Pressed()
    begun = time.thread_time()
    one.raises()
    assert time.thread_time() - begun < 0.2
    assert one.said == ["interrupted; cleaning up what this run has started, then exiting"]


def test_one_that_was_lost_is_not_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CAUGHT", 0.0)
    one = Pressed()
    one.raises()
    one.raises()
    one.ending = True
    one.raises()


def test_first_one_while_the_run_ends_is_answered() -> None:
    one = Pressed()
    one.ending = True
    one.answers(ENDING)
    assert "once more" not in one.said[-1]
    one.answers(ENDING)
    assert "press again to quit" in one.said[-1]
    one.raises()


@pytest.mark.parametrize("error", [OSError, ValueError, RuntimeError])
def test_terminal_that_is_gone_tears_no_sealing(error: type[Exception]) -> None:
    def say(_: str) -> None:
        raise error

    one = Interrupts()
    with pytest.raises(KeyboardInterrupt), one.said_by(say), one.sealing():
        one.handle(signal.SIGTERM, None)


def seal(one: Pressed, error: type[Exception] | None = None) -> None:
    with one.sealing():
        for _ in range(4):
            one.answers(SEALING)
        if error:
            raise error


def test_all_wait_while_the_template_is_sealed() -> None:
    one = Pressed()
    with pytest.raises(KeyboardInterrupt):
        seal(one)
    one.answers(ENDING)


def test_one_that_waited_for_what_has_failed_is_not_forgotten() -> None:
    one = Pressed()
    with pytest.raises(ZeroDivisionError):
        seal(one, ZeroDivisionError)
    with pytest.raises(KeyboardInterrupt):
        one.raise_lost()


def clean_up(one: Pressed, done: list[str]) -> None:
    with one.cleaning_up():
        one.answers(ENDING)
        done.append("whole")


def test_first_one_waits_for_a_clean_up_that_it_falls_into() -> None:
    one, done = Pressed(), list[str]()
    with pytest.raises(KeyboardInterrupt):
        clean_up(one, done)
    assert done == ["whole"]
    assert not one.ending


def test_clean_up_after_an_interrupt_raises_no_other() -> None:
    one, done = Pressed(), list[str]()
    one.raises()
    clean_up(one, done)
    assert done == ["whole"]
    one.raises()


def test_clean_up_in_another_leaves_the_end_to_that() -> None:
    one, done = Pressed(), list[str]()

    def outer() -> None:
        with one.cleaning_up():
            clean_up(one, done)
            done.append("the outer one too")

    with pytest.raises(KeyboardInterrupt):
        outer()
    assert done == ["whole", "the outer one too"]


def test_clean_up_that_fails_after_an_interrupt_is_reported_only(monkeypatch: pytest.MonkeyPatch) -> None:
    one, warned = Pressed(), list[str]()
    monkeypatch.setattr(module, "warn", warned.append)
    one.raises()
    with one.cleaning_up():
        raise BuildError("container 990 is locked (create)")
    assert warned == ["not cleaned up after an interrupt: container 990 is locked (create)"]
    assert one.said[-1].startswith("clean-up failed, the next run repeats it: container 990 is locked")


def test_clean_up_that_fails_by_itself_is_a_failure() -> None:
    with pytest.raises(BuildError), Pressed().cleaning_up():
        raise BuildError("container 990 is locked (create)")


def test_clean_up_raises_nothing_by_itself() -> None:
    one = Pressed()
    with one.cleaning_up():
        pass
    one.raises()


def test_lost_one_ends_the_wait_for_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    channel: Any = SimpleNamespace(waiting=lambda *_: contextlib.nullcontext())
    container: Any = SimpleNamespace(node=SimpleNamespace(channel=channel))
    startup = Startup(container, 60, str)
    startup.begin()
    monkeypatch.setattr(module.INTERRUPTS, "_count", 1)
    with pytest.raises(KeyboardInterrupt):
        startup.wait_for("nothing", lambda: False)


WAITS = """
import contextlib, time
from fixtures.base.interrupts import INTERRUPTS
def pytest_runtest_call(item):
    if "is_proxmox" in item.name:
        print("it waits", flush=True)
        with INTERRUPTS.sealing() if {sealing} else contextlib.nullcontext():
            time.sleep(2 if {sealing} else 60)
"""


@pytest.mark.parametrize("sealing", [False, True])
def test_closed_terminal_ends_a_run_with_its_reports(tmp_path: Path, sealing: bool) -> None:
    """The kernel sends SIGHUP to the session of a terminal that is closed (tty_ioctl(4)); writing to it then fails."""
    suite = Suite(tmp_path)
    (tmp_path / "plugin_of_the_test.py").write_text(WAITS.format(sealing=sealing))
    pid, terminal = pty.fork()
    if not pid:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup(1) lets be ignored by all that it starts
        os.environ |= {"PYTHONPATH": str(tmp_path), "PHOENIX_LAB_STATE": str(tmp_path / "labs")}
        words = ["-m", "pytest", "tests_920", "--node=lab:stub", "-p", "plugin_of_the_test", "-s"]
        os.chdir(TOP)
        os.execv(sys.executable, [sys.executable, *words, f"--override-ini=report_folder={suite.reports}"])
    said = b""
    while b"it waits" not in said:
        said += os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == pytest.ExitCode.INTERRUPTED
    record = from_json((suite.reports / "latest/record.json").read_text())
    assert record.outcome is Outcome.ABORTED
    assert (suite.reports / "latest/report.html").exists()
