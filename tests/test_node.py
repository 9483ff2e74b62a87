"""The node: what it said is kept until something was changed."""

import json
from pathlib import Path
from typing import Any

import pytest

from fixtures.proxmox import integrity
from fixtures.proxmox.channel import Channel, ChannelError, Command
from fixtures.proxmox.node import Node, NodeError
from fixtures.template import storage


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
    monkeypatch.setattr(silent.channel, "run_parallel", look)
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


ASKED: list[tuple[str, Any]] = [
    ("running", lambda node: node.running(920)),
    ("snapshots", lambda node: node.snapshots(920)),
    ("config", lambda node: node.config(920)),
    ("containers", lambda node: node.containers()),
    ("guests", lambda node: node.guests()),
    ("free", lambda node: node.free("local-zfs")),
    ("storage", lambda node: node.storage("local-zfs")),
    ("memory", lambda node: node.memory),
    ("stored", lambda node: integrity.stored_snapshots(node, "local-zfs:subvol-920-disk-0")),
    ("marks", lambda node: storage._marks(node, "local-zfs:subvol-920-disk-0", "x")),
]
BROKEN = ["null", "[]", "{}", "[null]", "[{}]", '"x"', "7", '[{"storage": "local-zfs"}]', '{"status": null}', "[[]]"]


@pytest.mark.parametrize("answer", [*BROKEN, '[{"storage": "local-zfs", "type": "zfspool", "vmid": 1, "name": "x"}]'])
@pytest.mark.parametrize(("name", "ask"), ASKED, ids=[name for name, _ in ASKED])
def test_answer_with_missing_fields_is_an_error_with_a_sentence_or_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch, name: str, ask: Any, answer: str
) -> None:
    """It never ends in an exception of Python's, and never says that something is off or free."""
    monkeypatch.setattr(node, "_ask", lambda _: answer)
    found, said = None, ""
    try:
        found = ask(node)
    except NodeError as error:
        said = str(error)
    if said:
        assert "the node" in said or "no storage" in said
    else:
        assert name in ("snapshots", "config", "containers", "guests", "storage")
        assert found in ({}, json.loads(answer)) or answer.startswith('[{"storage": "local-zfs"')
