"""A link: opened once for many commands, lost without harm, and nothing outlives it."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.proxmox.channel import Channel
from fixtures.proxmox.command import ChannelError, Command, DeadlineExceeded
from fixtures.proxmox.node import Node, NodeError
from fixtures.proxmox.remote_agent import read_results
from fixtures.remote.runner import HELLO
from tests.test_channel import has_ended

TOP = Path(__file__).parent.parent
PARENT = ("sh", "-c", "echo $PPID")  # the far side's process


@pytest.fixture
def far() -> Iterator[Channel]:
    channel = Channel("far", prefix=("env",))
    yield channel
    channel.close()


def await_end(pid: str) -> None:
    end = time.monotonic() + 15
    while not has_ended(pid):
        assert time.monotonic() < end, f"{pid} still runs"
        time.sleep(0.05)


def say(channel: Channel, *argv: str) -> str:
    return channel.run(argv, deadline=20).out


def test_many_commands_share_one_far_side(far: Channel) -> None:
    assert len({say(far, *PARENT) for _ in range(20)}) == 1


def test_container_has_a_link_of_its_own_through_the_node(far: Channel) -> None:
    inside = far.inside("ct1", ("env", "-i", f"PATH={os.defpath}", "TZ=container"))
    assert inside is far.inside("ct1", ())
    assert say(inside, "printenv", "TZ") == "container"
    assert say(inside, *PARENT) != say(far, *PARENT)
    assert inside.name == "far/ct1"


def test_commands_that_only_look_run_side_by_side(far: Channel) -> None:
    heard: list[Command] = []
    far.listeners.append(heard.append)
    far.run(["true"], deadline=20)
    begun = time.monotonic()
    three = far.run_parallel(["sh", "-c", "sleep 1.5; echo one"], ["sleep", "1.5"], ["no-such-program"], deadline=20)
    assert time.monotonic() - begun < 2.9
    assert [(each.out, each.exit_status) for each in three] == [("one", 0), ("", 0), ("", 127)]
    assert heard[1:] == three


def test_threads_do_not_wait_for_each_other(far: Channel) -> None:
    far.run(["true"], deadline=20)
    slow = threading.Thread(target=far.run, args=(["sleep", "3"],), kwargs={"deadline": 20})
    begun = time.monotonic()
    slow.start()
    far.run(["true"], deadline=20)
    assert time.monotonic() - begun < 2.5
    slow.join()


def test_link_that_has_ended_meanwhile_is_opened_anew(far: Channel) -> None:
    """As by a restart of the container."""
    first = say(far, *PARENT)
    os.kill(int(first), signal.SIGKILL)
    await_end(first)
    assert say(far, *PARENT) != first


def test_way_can_be_opened_ahead(far: Channel) -> None:
    far.open()
    far.open()
    (opened,) = far._agents
    assert select.select([opened._stdout], [], [], 20)[0], "it has not said that it is there"
    say(far, "true")
    assert far._agents == [opened]
    shut = Channel("far", prefix=("false",))
    shut.open()
    assert shut.run(["true"], deadline=20).exit_status == 1


CUT = '[ -e "$1" ] && { echo again; exit; }; touch "$1"; echo x >> "$1.count"; kill -9 $PPID; sleep 60'


def test_what_only_reads_runs_once_more_when_it_was_cut(far: Channel, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    done = far.run(["sh", "-c", CUT, "sh", str(mark)], deadline=20, only_reads=True)
    assert done.out == "again"


def test_what_changes_something_is_never_run_again(far: Channel, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(ChannelError, match=r"on far was cut off: .*the result is unknown"):
        far.run(["sh", "-c", CUT, "sh", str(mark)], deadline=20)
    assert (tmp_path / "mark.count").read_text() == "x\n"
    assert say(far, "echo", "well") == "well"


def test_far_side_that_stays_silent_is_left(far: Channel) -> None:
    """It is stopped from here: a command that stops it might not have begun when a busy machine's deadline passes."""
    agent = int(say(far, *PARENT))
    os.kill(agent, signal.SIGSTOP)
    with pytest.raises(ChannelError, match=r"is silent, 0\.5 s after the deadline"):
        far.run(["true"], deadline=0.5, grace=0.5)
    assert int(say(far, *PARENT)) != agent


def test_way_that_never_opens_ends_with_the_deadline() -> None:
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"on far took longer than 0\.3 s"):
        Channel("far", prefix=("sh", "-c", "sleep 60")).run(["true"], deadline=0.3, grace=0.2)
    assert time.monotonic() - begun < 5


def test_words_of_what_leads_there_are_given() -> None:
    """Such as ssh's, or those of `pct` for a container that is off."""
    shut = Channel("far", prefix=("sh", "-c", "echo container is off >&2; exit 255"))
    done = shut.run(["true"], deadline=20)
    assert (done.exit_status, done.err) == (255, "container is off")


@pytest.mark.parametrize("status", [1, 0])
def test_login_that_runs_nothing_never_succeeds_and_its_words_are_given(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as nologin(8), which speaks on standard output, and a forced command of sshd's, which may end with 0."""
    far = Channel("far", prefix=("sh", "-c", f"echo This account is currently not available.; exit {status}"))
    done = far.run(["true"], deadline=20)
    assert (done.exit_status, done.err) == (status or 255, "This account is currently not available.")
    with pytest.raises(NodeError, match=r"the node does not answer: .* This account is currently not available\."):
        assert Node(far).version
    (tmp_path / "ssh").write_text(f"#!/bin/sh\nexit {status}\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    done = Channel("far", remote=("host",)).run(["true"], deadline=20)
    fix = "if the login's shell runs no commands: usermod --shell /bin/bash LOGIN"
    assert (done.exit_status, done.err) == (status or 255, f"ssh ended with {status} without output; {fix}")


def test_login_that_is_refused_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fail2ban bans who tries five times, which a run did."""
    said = "root@pve: Permission denied (publickey,password)."
    (tmp_path / "ssh").write_text(f"#!/bin/sh\necho tried >>{tmp_path}/tried\necho '{said}' >&2\nexit 255\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    far = Channel("far", remote=("host",))
    places = (far, far, far.inside("ct920", ("pct", "exec", "920", "--")))
    done = [place.run(["true"], deadline=20) for place in places]
    assert [(each.exit_status, each.err) for each in done] == [(255, said)] * 3
    assert (tmp_path / "tried").read_text() == "tried\n"


def test_greeting_of_a_login_shell_is_no_answer() -> None:
    loud = Channel("far", prefix=("sh", "-c", 'echo welcome; echo "$0 $1" | head -c 9; exec "$@"', "sh"))
    assert say(loud, "echo", "well") == "well"
    loud.close()


def test_without_python_each_command_makes_its_own_way(tmp_path: Path) -> None:
    script = f'echo "$1" >> {tmp_path}/asked; [ "$1" != python3 ] || exit 127; exec "$@"'
    bare = Channel("far", prefix=("sh", "-c", script, "sh"))
    assert [say(bare, "echo", word) for word in "abc"] == ["a", "b", "c"]
    assert [each.out for each in bare.run_parallel(["echo", "d"], ["echo", "e"], deadline=20)] == ["d", "e"]
    assert (tmp_path / "asked").read_text().split() == ["python3", *["echo"] * 5]


RUN = """
import signal, sys
from fixtures.proxmox.channel import Channel
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background a shell lets it be ignored
try:
    Channel("far", prefix=("env",)).run(["sh", "-c", sys.argv[1], "sh", sys.argv[2]], deadline=60)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_runs_on_when_we_end(number: signal.Signals, tmp_path: Path) -> None:
    script = 'trap "touch $1.undone; exit" TERM; echo $$ > $1.new; mv $1.new $1; while :; do sleep 0.05; done'
    run = subprocess.Popen([sys.executable, "-c", RUN, script, str(tmp_path / "pid")], cwd=TOP)
    end = time.monotonic() + 30
    while not (tmp_path / "pid").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    run.send_signal(number)
    run.wait(20)
    await_end((tmp_path / "pid").read_text().strip())
    assert (tmp_path / "pid.undone").exists()  # it was asked before it was killed


@pytest.mark.parametrize("answer", ["x", "[]", "[[0,-1,0,0,0]]", "[[0,1e300,0,0,0]]", "[[0,99999999999,0,0,0]]"])
def test_answer_of_another_program_is_refused(answer: str) -> None:
    hostile = Channel("far", prefix=("sh", "-c", f"printf '{HELLO.decode().strip()}\\n{answer}\\n'; cat", "sh"))
    with pytest.raises(ChannelError, match="cut off: the connection failed: its answer"):
        hostile.run(["true"], deadline=20)


JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=9)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode() + b"\n"), st.integers(1, 2))
def test_no_answer_breaks_what_reads_it(message: bytes, count: int) -> None:
    try:
        rows = read_results(message, count)
    except ValueError:
        return
    assert len(rows) == count
