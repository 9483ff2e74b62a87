"""The way to a node and into its containers, over a real ssh server: kept, lost, opened anew, and nothing is left."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from fixtures.proxmox.channel import Channel
from fixtures.proxmox.command import ChannelError
from fixtures.proxmox.container import Container
from fixtures.proxmox.destination import open_channel
from fixtures.proxmox.node import Node
from tests.lab.harness import TOP, Lab

pytestmark = pytest.mark.lab
FAR_SIDES = ("pgrep", "--count", "--full", "phoenix-92[0]$")


@pytest.fixture(scope="module", autouse=True)
def running(lab: Lab) -> Iterator[None]:
    """Container 903, running."""
    lab.node("sh", "-c", "pct status 903 | grep -q running || pct start 903")
    yield
    lab.node("sh", "-c", "pct stop 903 || true")


@pytest.fixture
def over_ssh(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Channel]:
    with lab.ssh(tmp_path, monkeypatch) as name:
        channel = open_channel(name)
        yield channel
        channel.close()


@pytest.fixture(params=["lab", "ssh"])
def node(request: pytest.FixtureRequest, lab: Lab) -> Iterator[Node]:
    if request.param == "ssh":
        yield Node(request.getfixturevalue("over_ssh"))
        return
    channel = open_channel(f"lab:{lab.machine.name}")
    yield Node(channel)
    channel.close()


def cut(lab: Lab) -> None:
    """Cut all connections to the ssh server, which itself stays."""
    lab.node("sh", "-c", "for each in $(pgrep -P $(cat /run/dropbear.pid)); do kill -9 $each; done")


def test_commands_reach_node_and_container(node: Node) -> None:
    container = Container(node, 903)
    container.wait_until_booted(60)
    assert container.check_output("hostname") == "BaseTemplateDockerGPU"
    assert {line.partition("=")[0] for line in container.ask("env").splitlines()} == {"PATH", "HOME", "LC_ALL"}
    every = bytes(range(256)) * 1000
    assert node.channel.run(["cat"], deadline=20, stdin=every).stdout == every
    assert container.execute("cat", stdin=every).stdout == every
    assert container.execute("sh", "-c", "exit 7").exit_status == 7


def test_restart_of_the_container_is_survived(node: Node, lab: Lab) -> None:
    """Ours, and one behind our back."""
    container = Container(node, 903)
    for ours in (True, False):
        container.ask("touch", "/run/before")
        if ours:  # as `Changes` does before it stops a container
            node.channel.leave("ct903")
        lab.node("pct", "stop", "903")
        off = container.execute("true")
        assert not off.succeeded
        assert "not running" in off.err
        lab.node("pct", "start", "903")
        container.wait_until_booted(60)
        assert container.execute("test", "-e", "/run/before").exit_status == 1


def test_nothing_of_it_stays(node: Node, lab: Lab) -> None:
    container = Container(node, 903)
    container.ask("true")
    node.run("true")
    assert container.ask(*FAR_SIDES) == "1"
    node.channel.close()
    end = time.monotonic() + 10
    while lab.node("sh", "-c", f"{' '.join(FAR_SIDES[:-1])} '{FAR_SIDES[-1]}' || true").strip() != "0":
        assert time.monotonic() < end
        time.sleep(0.2)


def test_cut_connection_is_opened_anew(over_ssh: Channel, lab: Lab) -> None:
    assert over_ssh.run(["echo", "one"], deadline=20).out == "one"
    cut(lab)
    time.sleep(0.5)  # a busy machine may not know of the cut by then: so it only reads
    assert over_ssh.run(["echo", "two"], deadline=20, only_reads=True).out == "two"


CUT = """[ -e "$1" ] && { echo again; exit; }; touch "$1"; echo x >> "$1.count"
for each in $(pgrep -P $(cat /run/dropbear.pid)); do kill -9 $each; done; sleep 20"""


def test_cut_in_the_middle(over_ssh: Channel, lab: Lab) -> None:
    """What only reads is run once more, what changes something is not."""
    reads = over_ssh.run(["sh", "-c", CUT, "sh", "/run/reads"], deadline=30, only_reads=True)
    assert reads.out == "again"
    with pytest.raises(ChannelError, match="was cut off: the connection has gone away"):
        over_ssh.run(["sh", "-c", CUT, "sh", "/run/changes"], deadline=30)
    assert lab.node("cat", "/run/changes.count") == "x\n"
    assert over_ssh.run(["echo", "well"], deadline=20).out == "well"


def test_page_that_the_node_reaches_is_reached_over_ssh(over_ssh: Channel) -> None:
    with over_ssh.forward("10.0.0.1", 5000) as (host, port):
        for _ in range(3):
            assert requests.get(f"http://{host}:{port}/v2/", timeout=10).status_code == 200
    with over_ssh.forward("10.0.0.1", 5999) as (host, port), pytest.raises(requests.ConnectionError):
        requests.get(f"http://{host}:{port}/", timeout=10)


def test_killed_run_leaves_nothing_running(lab: Lab) -> None:
    script = (
        "import sys; from fixtures.proxmox.destination import open_channel;"
        "from fixtures.proxmox.container import Container; from fixtures.proxmox.node import Node;"
        "Container(Node(open_channel(sys.argv[1])), 903).execute('sleep', '9033')"
    )
    run = subprocess.Popen([sys.executable, "-c", script, f"lab:{lab.machine.name}"], cwd=TOP)

    def sleeps() -> str:
        return lab.inside("sh", "-c", "pgrep --count --full 'sleep 903[3]' || true", ctid=903).strip()

    end = time.monotonic() + 30
    while sleeps() != "1":
        assert time.monotonic() < end
        time.sleep(0.2)
    run.kill()
    run.wait()
    while sleeps() != "0":
        assert time.monotonic() < end
        time.sleep(0.2)
