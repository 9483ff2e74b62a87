"""Tidy: leftovers of the build are removed, and the template holds nothing that it must not hold."""

import pytest

from fixtures.base.errors import Unseen, unexpected
from fixtures.proxmox.container import Container
from fixtures.template.tidy import Leftovers

pytestmark = [
    pytest.mark.stage("tidy"),
    pytest.mark.order(57),
    pytest.mark.needs_answer("test_docker_holds_no_container"),  # the first to look: all ask what was found then
]


def found(container: Container, lines: list[str], expected: str, *argv: str) -> str:
    """What was found, line by line, with the command that removes it, or one that shows it."""
    seen, _, fix = lines[0].partition("; remove it: ")
    return "\n".join([unexpected(seen, expected, run=fix or container.pasteable(*argv)), *lines[1:]])


def test_docker_holds_no_container(container: Container, leftovers: Leftovers) -> None:
    """Docker has no container, running or stopped."""
    assert not leftovers.containers, found(container, leftovers.containers, "none", "docker", "ps", "--all")


def test_docker_holds_nothing_but_the_image(container: Container, leftovers: Leftovers) -> None:
    """Docker has no added image, volume or layer except the vLLM image."""
    assert not leftovers.docker, found(container, leftovers.docker, "only the image", "docker", "system", "df", "-v")


def test_no_secret_is_inside(container: Container, leftovers: Leftovers) -> None:
    """No token, password, private key, added ssh key or secret of this run is inside."""
    assert not leftovers.secrets, found(container, leftovers.secrets, "none")
    if leftovers.unsearched:
        raise Unseen(f"unknown: whether a secret is in {leftovers.unsearched}")


def test_nothing_typed_is_inside(container: Container, leftovers: Leftovers) -> None:
    """No history of a shell or another program is inside."""
    assert not leftovers.histories, found(container, leftovers.histories, "none")


def test_no_log_of_the_build_is_inside(container: Container, leftovers: Leftovers) -> None:
    """No log has a line that is newer than the clone."""
    assert not leftovers.logs, found(container, leftovers.logs, "none", "ls", "-lt", "/var/log")


def test_only_image_and_caches_were_added(container: Container, leftovers: Leftovers) -> None:
    """The container grew by no more than the image, the kept caches, and 50 MB."""
    assert not leftovers.growth, found(
        container, leftovers.growth, "no more than the image, the caches and 50 MB", "du", "-xm", "--max-depth=2", "/"
    )
