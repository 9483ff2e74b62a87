"""testinfra's vocabulary inside a container, and commands with a deadline, for real."""

from __future__ import annotations

import time

import pytest

from fixtures.proxmox.command import DeadlineExceeded
from fixtures.proxmox.container import Container, ContainerError

pytestmark = pytest.mark.lab


def test_nouns_of_testinfra(container: Container) -> None:
    assert container.service("docker").is_running
    assert not container.service("no-such-unit").is_running
    assert container.package("docker.io").is_installed
    assert not container.package("no-such-package").is_installed
    assert container.file("/etc/docker/daemon.json").contains("nvidia")
    assert container.file("/etc/passwd").user == "root"
    assert not container.socket("tcp://8000").is_listening
    assert container.interface("eth0").addresses[0] == "10.0.0.203"
    assert container.run("exit 7").rc == 7
    assert container.check_output("hostname") == "BaseTemplateDockerGPU"


@pytest.mark.parametrize("word", ["it's", '"quoted"', "$(id)", "`id`", "a\nb", "*", "\\", "ü", ";true", ""])
def test_words_reach_the_container_as_they_are(container: Container, word: str) -> None:
    assert container.execute("printf", "%s", word).stdout == word.encode()


def test_environment_of_the_node_stays_outside(container: Container) -> None:
    names = {line.partition("=")[0] for line in container.ask("env").splitlines()}
    assert names == {"PATH", "HOME", "LC_ALL"}


def test_bytes_and_standard_input(container: Container) -> None:
    every = bytes(range(256))
    assert container.execute("cat", stdin=every).stdout == every
    assert container.execute("cat").stdout == b""


def test_deadline_ends_what_runs_inside(container: Container) -> None:
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"ct903 took longer than 1 s"):
        container.execute("sleep", "61", deadline=1)
    assert time.monotonic() - begun < 10
    assert container.execute("pgrep", "--full", "sleep 6[1]").exit_status == 1


def test_failure_has_the_words_of_the_command(container: Container) -> None:
    with pytest.raises(ContainerError, match=r"`ls /none` in container 903 ended with 2: .*No such file"):
        container.ask("ls", "/none")
