"""What the node's files, its kernel and its storage say, against what `pvesh`, `pct` and `pvesm` answer of the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from fixtures.proxmox.destination import open_channel
from fixtures.proxmox.node import Node, NodeError
from fixtures.proxmox.volume import Volume, listed
from tests.lab.harness import Lab

pytestmark = pytest.mark.lab
# of each kind of line: a description that is escaped, raw keys, a change that waits, snapshots, one of them half made
MADE = r"""pct clone 903 950 --snapname docker-gpu-snapshot --full 1 --hostname other --description 'a: 100% of it
second'
printf 'lxc.mount.entry: /dev/null dev/x none bind,create=file\nlxc.cap.drop: sys_time\n' >> /etc/pve/lxc/950.conf
pct snapshot 950 first --description 'the first: one
of all'
pct set 950 --memory 300
pct snapshot 950 second
pct start 950
pct set 950 --hostname waits
echo 'snapshot-half = die' > /etc/pve/lab-faults; pct snapshot 950 torn || true; rm /etc/pve/lab-faults
pct clone 903 951 --hostname off
echo 'hostname: half' > /etc/pve/lxc/952.conf; echo 'lock: create' >> /etc/pve/lxc/952.conf"""
UNMADE = "rm /etc/pve/lxc/952.conf; pct unlock 950; pct stop 950; pct destroy 950; pct destroy 951"


@pytest.fixture(scope="module")
def node(lab: Lab) -> Iterator[Node]:
    lab.node("sh", "-ec", MADE)
    channel = open_channel(f"lab:{lab.machine.name}")
    yield Node(channel)
    channel.close()
    lab.node("sh", "-ec", UNMADE)


def asked(node: Node, path: str, *words: str) -> Any:
    """What `pvesh` answers; numbers as text, as they are in a file, and without the digest."""

    def text(value: Any) -> Any:
        return {
            key: each.strip() if isinstance(each, str) else each if isinstance(each, list) else str(each)
            for key, each in value.items()
            if key != "digest"
        }

    said = json.loads(node.run("pvesh", "get", path, *words, "--output-format", "json").out)
    return [text(row) for row in said] if isinstance(said, list) else text(said)


@pytest.mark.parametrize("ctid", [903, 950, 951, 952])
def test_configuration_and_snapshots_are_those_of_pvesh(node: Node, ctid: int) -> None:
    """What waits for the next start is no part of the configuration; a half-made snapshot is listed as such."""
    path = f"/nodes/{node.name}/lxc/{ctid}"
    assert node.config(ctid) == asked(node, f"{path}/config", "--current", "1")
    rows = {row["name"]: row for row in asked(node, f"{path}/snapshot") if row["name"] != "current"}
    assert rows.keys() == node.configuration(ctid).snapshots.keys()
    for name, row in rows.items():
        found = node.configuration(ctid).snapshots[name]
        assert (found.description, str(found.taken), found.state) == (
            *(row["description"], row["snaptime"]),
            row.get("snapstate", ""),
        )
        assert node.config(ctid, name) == asked(node, f"{path}/config", "--snapshot", name)


def test_machines_are_those_of_pvesh(node: Node) -> None:
    rows = {int(row["vmid"]): row for row in asked(node, f"/nodes/{node.name}/lxc")}
    assert {ctid: each.name for ctid, each in node.containers().items()} == {
        ctid: row["name"] for ctid, row in rows.items()
    }
    everywhere = {
        int(row["vmid"]): (row["type"], row["node"]) for row in asked(node, "/cluster/resources", "--type", "vm")
    }
    assert {ctid: (each.kind, each.node) for ctid, each in node.guests().items()} == everywhere


@pytest.mark.parametrize(("ctid", "running"), [(950, True), (951, False)])
def test_running_is_what_pct_says(node: Node, ctid: int, running: bool) -> None:
    assert node.run("pct", "status", str(ctid)).out == f"status: {'running' if running else 'stopped'}"
    assert node.running(ctid) is running


def test_memory_is_that_of_pvesh(node: Node) -> None:
    said = json.loads(node.run("pvesh", "get", f"/nodes/{node.name}/status", "--output-format", "json").out)
    assert node.cluster_files.memory == said["memory"]["total"]


@pytest.mark.parametrize("ctid", [903, 950, 951, 960])
def test_volumes_and_their_folders_are_those_of_pvesm(node: Node, ctid: int) -> None:
    _, *rows = node.run("pvesm", "list", "lxc-disks", "--vmid", str(ctid)).out.splitlines()
    volumes = listed(node, ctid, "lxc-disks")
    assert volumes == [row.split()[0] for row in rows]
    for each in volumes:
        assert Volume(node, each).folder == node.run("pvesm", "path", each).out


def test_what_another_has_changed_is_seen_where_it_counts(node: Node, lab: Lab) -> None:
    """The facts of a run are kept; what is changed is decided on the file as it is now."""
    assert node.config(951)["hostname"] == "off"
    lab.node("pct", "set", "951", "--hostname", "renamed")
    found = node.read_conf(951)
    assert found is not None
    assert (node.config(951)["hostname"], found.head.values["hostname"]) == ("off", "renamed")
    node.forget()
    assert node.config(951)["hostname"] == "renamed"


@pytest.mark.parametrize(
    ("name", "cut", "said"),
    [(".members", "", "ended with 1"), ("lxc", "", "ended with 1"), (".members", "20", "cannot be used")],
)
def test_files_that_are_not_whole_are_no_empty_node(node: Node, lab: Lab, name: str, cut: str, said: str) -> None:
    lab.node("sh", "-ec", f"cd /etc/pve; mv {name} kept; {f'head -c {cut} kept > {name}' if cut else ''}")
    node.forget()
    try:
        for ask in (node.containers, node.guests):
            with pytest.raises(NodeError, match=said):
                ask()
    finally:
        lab.node("mv", "-T", "/etc/pve/kept", f"/etc/pve/{name}")
        node.forget()
    assert {903, 950, 951, 952} == {*node.containers()}
