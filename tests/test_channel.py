"""The channel: exact ends, deadlines that kill, nothing left to a shell."""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.proxmox.changes import Changes
from fixtures.proxmox.channel import Channel
from fixtures.proxmox.command import ChannelError, Command, DeadlineExceeded
from fixtures.proxmox.destination import open_channel
from fixtures.remote import runner
from fixtures.remote.runner import KILL_GRACE, CommandRequest

LOCAL = Channel("local")
FAR = Channel("far", prefix=("env",))  # over a link, as to a lab node or over ssh
INSIDE = LOCAL.inside("ct920", ("env",))  # over a link of its own, as into a container
anywhere = pytest.mark.parametrize("channel", [LOCAL, FAR, INSIDE], ids=["here", "far", "inside"])


@anywhere
@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_exit_status_is_exact(channel: Channel, status: int) -> None:
    assert channel.run(["sh", "-c", f"exit {status}"], deadline=10).exit_status == status


@anywhere
def test_signal_is_told_as_a_shell_does(channel: Channel) -> None:
    assert channel.run(["sh", "-c", "kill -9 $$"], deadline=10).exit_status == 137


@anywhere
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40))
def test_words_arrive_as_they_are(channel: Channel, word: str) -> None:
    assert channel.run(["printf", "%s", word], deadline=10).stdout == word.encode()


@anywhere
def test_output_is_bytes(channel: Channel) -> None:
    command = channel.run(["printf", r"\377\000ok"], deadline=10)
    assert command.stdout == b"\xff\x00ok"
    assert command.out.endswith("ok")


@anywhere
def test_standard_input_is_closed_or_given(channel: Channel) -> None:
    assert channel.run(["cat"], deadline=10).stdout == b""
    assert channel.run(["cat"], deadline=10, stdin=b"hello").stdout == b"hello"


@anywhere
def test_deadline_kills_what_was_started(channel: Channel, tmp_path: Path) -> None:
    begun = time.monotonic()
    script = f"sleep 60 & echo $! > {tmp_path}/pid; wait"
    with pytest.raises(DeadlineExceeded, match=r"longer than 0\.5 s"):
        channel.run(["sh", "-c", script], deadline=0.5)
    assert time.monotonic() - begun < 5
    pid = (tmp_path / "pid").read_text().strip()
    while not has_ended(pid):
        assert time.monotonic() - begun < 10
        time.sleep(0.05)


@anywhere
def test_command_may_clean_up_before_it_is_killed(channel: Channel, tmp_path: Path) -> None:
    """`pct` undoes what it has half done when it is asked to end."""
    script = 'trap "touch $1; exit" TERM; while :; do sleep 0.05; done'
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        channel.run(["sh", "-c", script, "sh", str(tmp_path / "undone")], deadline=1.5)
    assert (tmp_path / "undone").exists()
    assert time.monotonic() - begun < 1.5 + KILL_GRACE


def has_ended(pid: str) -> bool:
    """Whether a process is gone, or only waits for its parent to hear of it."""
    try:
        process = Path(f"/proc/{pid}")
        # while other threads of it still go, it can't be waited for, and holds its pipes
        return (process / "stat").read_text().split()[2] == "Z" and len(list((process / "task").iterdir())) == 1
    except OSError:
        return True


def test_each_command_is_heard() -> None:
    heard: list[Command] = []
    channel = Channel("here", listeners=[heard.append])
    channel.run(["true"], deadline=10)
    channel.inside("ct920", ("env",)).run(["false"], deadline=10)
    told = [(command.where, command.argv, command.exit_status) for command in heard]
    assert told == [("here", ("true",), 0), ("here/ct920", ("false",), 1)]


@pytest.mark.parametrize("way", [(), ("env", "A=b c")])
def test_line_for_the_node_can_be_pasted_here(way: tuple[str, ...]) -> None:
    line = "printf '%s|' one 'two three' $(echo four); echo $A"
    shown = Channel("here", prefix=way).pasteable(line)
    assert subprocess.check_output(["sh", "-c", shown], text=True) == f"one|two three|four|{'b c' * bool(way)}\n"


def test_missing_program_is_named() -> None:
    done = LOCAL.run(["no-such-program"], deadline=10)
    assert (done.exit_status, done.err) == (127, "no-such-program: No such file or directory")


@pytest.mark.parametrize("node", ["somewhere", "ssh://", "ssh://-oProxyCommand=x", "ssh://a b"])
def test_bad_node_is_refused(node: str) -> None:
    with pytest.raises(ChannelError, match="--node"):
        open_channel(node)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ("ssh://root@pve:2222", ["ssh://root@pve:2222"]),
        ("ssh://root@[2001:db8::1]", ["root@2001:db8::1"]),
        ("ssh://[fe80::1%25vmbr0]:2222", ["-p", "2222", "fe80::1%vmbr0"]),
    ],
)
def test_node_is_named_as_ssh_takes_it(node: str, words: list[str]) -> None:
    """OpenSSH 9.2 answers an IPv6 address in brackets with its usage."""
    channel = open_channel(node)
    assert channel._sockets
    channel._sockets.cleanup()
    assert channel.command_line(("true",), None)[-2 - len(words) :] == [*words, "--", "exec true"]
    assert channel.pasteable("true") == f"ssh -t {' '.join(words)} true"


def test_lab_that_is_down_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PHOENIX_LAB_STATE", str(tmp_path))
    with pytest.raises(ChannelError, match="make lab-up"):
        open_channel("lab")


def test_forward_carries_bytes_both_ways() -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def echo() -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(connection.recv(100).upper())

    threading.Thread(target=echo, daemon=True).start()
    far = Channel("far", prefix=("env",)).forward("127.0.0.1", server.getsockname()[1])
    with far as address, socket.create_connection(address, timeout=10) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"HELLO"
    server.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(address, timeout=2)


@pytest.mark.parametrize("printed", ["yes", "yes >&2", "tr '\\0' x </dev/zero"])
def test_output_without_end_is_ended(printed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Endless lines or one endless line: the command is killed, and memory stays bounded."""
    monkeypatch.setattr("fixtures.remote.runner.LARGEST_OUTPUT", 2**20)
    heard: list[Command] = []
    channel = Channel("here", listeners=[heard.append])
    begun = time.monotonic()
    with pytest.raises(ChannelError, match="printed more than"):
        channel.run(["sh", "-c", printed], deadline=60)
    assert time.monotonic() - begun < 20
    assert len(heard[0].stdout + heard[0].stderr) < 2 * 2**20


@anywhere
def test_long_line_and_foreign_bytes_arrive(channel: Channel) -> None:
    script = "head -c 5000000 /dev/zero | tr '\\0' x; printf '\\377\\n'"
    assert channel.run(["sh", "-c", script], deadline=60).stdout == b"x" * 5_000_000 + b"\xff\n"


@anywhere
def test_much_goes_in_while_much_comes_out(channel: Channel) -> None:
    much = bytes(range(256)) * 20_000
    assert channel.run(["cat"], deadline=60, stdin=much).stdout == much
    assert channel.run(["true"], deadline=60, stdin=much).succeeded  # does not read it


NASTY = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
WORDS = st.sampled_from(
    ["$(id)", "`id`", "'", '"', "\n", "\\", "-", "--", "", " ", "*", "~", "!", "\x1b[31m", "${IFS}"]
)


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Channel]:
    """A channel over a stand-in for ssh, which hands its last word to a shell, as sshd does."""
    ssh = tmp_path_factory.mktemp("bin") / "ssh"
    ssh.write_text('#!/bin/sh\nfor word; do line=$word; done\nexec sh -c "$line"\n')
    ssh.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(ssh.parent), prepend=":")
        yield open_channel("ssh://root@node")


@given(st.lists(NASTY | WORDS, max_size=6))
@settings(max_examples=60, deadline=None)
def test_no_word_is_taken_apart_by_the_far_shell(far: Channel, words: list[str]) -> None:
    out = far.run(["printf", "%s\\0", "begin", *words], deadline=20).stdout
    assert [each.decode() for each in out.split(b"\0")[:-1]] == ["begin", *words]


def test_ssh_line_survives_the_far_shell(far: Channel) -> None:
    nasty = "a b'c\"$(id)`id`;\n*"
    assert far.run(["printf", "%s", nasty], deadline=10).stdout == nasty.encode()


def test_commands_speak_english_whatever_the_user_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words are parsed, such as those of arping(8): ssh and a login pass on the user's language."""
    for name in ("LANG", "LC_ALL", "LC_MESSAGES", "LANGUAGE"):
        monkeypatch.setenv(name, "de_DE.UTF-8")
    found = runner.run(CommandRequest(("sh", "-c", "env | grep -E '^(LANG|LC_)'"), 10))
    assert found.stdout == b"LC_ALL=C.UTF-8\n"


@pytest.mark.parametrize("node", [None, "local"])
def test_node_is_worked_on_as_root_also_by_cron(
    node: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`pct` is in /usr/sbin, which is not in the PATH of cron(8) nor of a user; a user is told of sudo."""
    (tmp_path / "pct").write_text("#!/bin/sh\necho found\n")
    (tmp_path / "pct").chmod(0o755)
    found = runner.search_path
    monkeypatch.setattr(runner, "search_path", lambda: f"{found()}:{tmp_path}")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert "/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin" in runner.environment()["PATH"]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert open_channel(node).run(("pct",), deadline=10).out.strip() == "found"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ChannelError, match="must run as root, as `pct` does: put sudo before the command"):
        open_channel(node)


def test_environment_of_the_suite_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxmox VE's `pct exec` hands the environment that it gets to the program in the container."""
    kept = {"SSH_AUTH_SOCK": "/run/agent", "LC_ALL": "C.UTF-8", "TERM": "xterm", "https_proxy": "http://proxy:3128"}
    secret = {"HF_TOKEN": "hf_x", "VLLM_API_KEY": "sk-x", "GITHUB_TOKEN": "g", "http_proxy": "http://me:secret@proxy:1"}
    for name, value in {**kept, **secret}.items():
        monkeypatch.setenv(name, value)
    fresh = Channel("far", prefix=("env",))
    far, inside = fresh, fresh.inside("ct1", ("env",))
    outputs = [channel.run(("env",), deadline=10).out for channel in (LOCAL, far, inside)]
    process = LOCAL.spawn(("env",), deadline=10, output=subprocess.PIPE)
    outputs.append(process.communicate()[0].decode())
    fresh.close()
    for said in outputs:
        names = {line.partition("=")[0] for line in said.splitlines()}
        assert set(kept) <= names
        assert not names & set(secret)


def test_folder_of_temporary_files_is_too_long_for_a_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ssh adds 17 characters to the name while it binds it; a Unix socket's path has 107 at most (unix(7))."""
    for length in (10, 60, 68, 120):
        folder = tmp_path / ("x" * max(1, length - len(str(tmp_path)) - 1))
        folder.mkdir(exist_ok=True)
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        channel = open_channel("ssh://root@node")
        (path,) = [word.partition("=")[2] for word in channel.remote if word.startswith("ControlPath=")]
        assert len(f"{path}.1234567890123456") <= 107
        assert channel._sockets
        channel._sockets.cleanup()


# --- asked ahead ------------------------------------------------------------------------------------------


def counted(file: Path) -> CommandRequest:
    """A command that prints how often it was run."""
    return CommandRequest(("sh", "-c", f"echo >>{file}; wc -l <{file}"), 20)


@anywhere
def test_answer_that_was_asked_ahead_is_used_once(channel: Channel, tmp_path: Path) -> None:
    first, second = counted(tmp_path / "a"), counted(tmp_path / "b")
    channel.prefetch(first, second).result()
    heard: list[Command] = []
    channel.listeners[:] = [heard.append]
    said = [channel.run(each.argv, deadline=20, only_reads=True).out for each in (second, first, first)]
    channel.listeners.clear()
    assert (said, len(heard)) == (["1", "1", "2"], 3)


@anywhere
def test_change_comes_before_what_was_asked_ahead(channel: Channel, tmp_path: Path) -> None:
    channel.prefetch(counted(tmp_path / "a")).result()
    (INSIDE if channel is LOCAL else channel).run(["true"], deadline=20)
    assert channel.run(counted(tmp_path / "a").argv, deadline=20, only_reads=True).out == "2"


def test_old_answer_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LOCAL.prefetch(counted(tmp_path / "a")).result()
    monkeypatch.setattr("fixtures.proxmox.prefetched.FRESH", -1)
    assert LOCAL.run(counted(tmp_path / "a").argv, deadline=20, only_reads=True).out == "2"


def test_failure_of_what_was_asked_ahead_is_heard_by_who_asks() -> None:
    LOCAL.prefetch(CommandRequest(("sleep", "20"), 0.2), CommandRequest(("false",), 20))
    assert LOCAL.run(("false",), deadline=20, only_reads=True).exit_status == 1
    with pytest.raises(DeadlineExceeded, match=r"`sleep 20` on local took longer"):
        LOCAL.run(("sleep", "20"), deadline=0.2, only_reads=True)


def test_change_rests_on_nothing_that_was_asked_ahead(tmp_path: Path) -> None:
    """Before a container is changed its configuration is read then, whatever an earlier question has brought."""
    file = tmp_path / "920.conf"
    file.write_text("before")
    request = CommandRequest(("cat", str(file)), 20)
    LOCAL.prefetch(request).result()
    file.write_text("after")
    read = lambda _: LOCAL.run(request.argv, deadline=20, only_reads=True).out  # noqa: E731
    node: Any = SimpleNamespace(channel=LOCAL, read_conf=read)
    assert cast(Any, Changes(node).read(920)) == "after"
