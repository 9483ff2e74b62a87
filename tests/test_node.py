"""The node: what it said is kept until something was changed."""

import json
from pathlib import Path

import pytest

from fixtures.machines.channel import Channel, ChannelError, Command
from fixtures.machines.node import Node, NodeError


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node whose every command is answered by a small script that counts how often it was asked."""
    command = tmp_path / "on-node"
    command.write_text(f"""#!/bin/sh
    [ "$1" != python3 ] || exit 127  # each command makes its own way
    echo "$*" >> {tmp_path}/asked
    case "$*" in
        hostname) echo pve ;;
        *status/current*) echo '{{"status": "running"}}' ;;
        *garbled*) echo 'no json' ;;
        pvesh\\ get*) wc -l < {tmp_path}/asked ;;
        "pct stop"*) exit 255 ;;
    esac""")
    command.chmod(0o755)
    node = Node(Channel("test", prefix=(str(command),)))
    assert node.name == "pve"
    return node


def test_answer_is_kept(node: Node) -> None:
    assert node.get("lxc") == node.get("lxc")
    assert node.get("lxc") != node.get("storage")


def test_answer_that_was_kept_can_be_changed_by_its_user(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "_ask", lambda _: json.dumps({"cores": 4}))
    node.get("lxc/920/config")["cores"] = 5
    assert node.get("lxc/920/config") == {"cores": 4}


def test_answer_is_asked_anew_after_a_change(node: Node) -> None:
    before = node.get("lxc")
    node.forget()
    assert before < node.get("lxc")


def test_running_is_asked_each_time(node: Node, tmp_path: Path) -> None:
    for _ in range(2):
        assert node.running(920)
    assert (tmp_path / "asked").read_text().count("status/current") == 2


def test_silent_node_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    def look(*_: object, deadline: float) -> list[Command]:
        waited.append(deadline)
        raise ChannelError("it is silent")

    silent = Node(Channel("far"))
    monkeypatch.setattr(silent.channel, "look", look)
    for _ in range(3):
        with pytest.raises(ChannelError, match="it is silent"):
            silent.get("lxc")
        with pytest.raises(ChannelError, match="it is silent"):
            _ = silent.version
    assert len(waited) == 1


def test_garbled_answer_is_not_kept(node: Node) -> None:
    for _ in range(2):
        with pytest.raises(NodeError, match="did not answer in JSON"):
            node.get("garbled")


def test_what_is_asked_ahead_is_asked_once(node: Node, tmp_path: Path) -> None:
    """In one trip; what can't be answered is asked again by whoever needs it, and fails there."""
    two = node.question("lxc"), node.question("lxc/920/config", snapshot="base")
    node.ask_ahead(*two, node.question("garbled"))
    node.ask_ahead(*two)
    assert node.get("lxc")
    assert node.get("lxc/920/config", snapshot="base")
    with pytest.raises(NodeError, match="did not answer in JSON"):
        node.get("garbled")
    asked = (tmp_path / "asked").read_text()
    assert [asked.count(" ".join(question)) for question in two] == [1, 1]
    assert asked.count("garbled") == 2


def test_change_makes_stale_what_was_asked_ahead(node: Node) -> None:
    node.ask_ahead(node.question("lxc"))
    before = node.get("lxc")
    node.forget()
    assert before < node.get("lxc")
