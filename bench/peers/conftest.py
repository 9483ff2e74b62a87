"""The ways into 920 that are compared: PEER says which."""

from __future__ import annotations

import os
import shlex
from typing import Any

import pytest
import testinfra
from testinfra.backend.base import BaseBackend, CommandResult
from testinfra.host import Host

from fixtures.proxmox.container import Container
from fixtures.proxmox.destination import open_channel
from fixtures.proxmox.node import Node

OURS = pytest.StashKey[Container]()


class LxcAttach(BaseBackend):
    """One `lxc-attach` a command, as a back end of a few lines would do it on the node."""

    NAME = "lxc-attach"

    def run(self, command: str, *args: str, **_: Any) -> CommandResult:
        """Run one of testinfra's shell lines."""
        line = self.get_command(command, *args)
        return self.run_local(
            f"{os.environ['PEER_NODE']} lxc-attach -P /var/lib/lxc -n 920 -- sh -c {shlex.quote(line)}"
        )


def pytest_configure(config: pytest.Config) -> None:
    """Begin to open our way, as the suite does: it is open when all is collected."""
    if os.environ["PEER"] == "ours":
        config.stash[OURS] = Container(Node(open_channel(os.environ["PEER_URL"])), 920)
        config.stash[OURS].channel.open()


@pytest.fixture(scope="session")
def host(request: pytest.FixtureRequest) -> Host:
    """920."""
    match os.environ["PEER"]:
        case "ours":
            return request.config.stash[OURS]
        case "testinfra":
            return testinfra.get_host(os.environ["PEER_HOST"])
        case _:
            backend = LxcAttach("920")
            own = Host(backend)
            backend.set_host(own)
            return own
