"""A lab of the tests' own; with several workers of pytest-xdist one each."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from fixtures.proxmox.container import Container
from fixtures.proxmox.destination import open_channel
from fixtures.proxmox.node import Node
from lab import vllm
from lab.__main__ import up
from lab.machine import Machine
from tests.lab.harness import Lab


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab node, erased at the end."""
    if os.geteuid() != 0:
        pytest.fail("the lab needs root; without it: make test-fast")
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    machine = Machine(os.environ.get("PHOENIX_TEST_NODE", "pve-test") + f"-{worker}" * bool(worker))
    machine.erase()
    try:
        up(machine)
        machine.serve_stand_in(vllm.made() / "registry")
        yield Lab(machine, tmp_path_factory.mktemp("reports"))
    finally:
        machine.erase()


@pytest.fixture(scope="module", autouse=True)
def alone(lab: Lab) -> None:
    """Each file of tests begins on a node that holds the parent and nothing else, whatever ran before it."""
    for ctid in lab.containers():
        if ctid != 903:
            lab.destroy(ctid)
    lab.node("sh", "-c", "rm -rf /var/lib/phoenix-920/*")  # which lies on the node's disk, mounted


@pytest.fixture(scope="module")
def container(lab: Lab) -> Iterator[Container]:
    """Container 903, running."""
    lab.node("sh", "-c", "pct status 903 | grep -q running || pct start 903")
    container = Container(Node(open_channel(f"lab:{lab.machine.name}")), 903)
    container.wait_until_booted(60)
    yield container
    container.node.channel.close()
    lab.node("pct", "shutdown", "903")
