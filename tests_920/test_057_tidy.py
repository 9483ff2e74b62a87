"""Tidy: what the build has left is removed, and nothing else is inside that a template must not hold."""

import pytest

from fixtures.templates.tidy import Findings

pytestmark = [pytest.mark.stage("tidy"), pytest.mark.order(57)]


def test_docker_holds_no_container(findings: Findings) -> None:
    """Docker holds no container, running or not."""
    assert not findings.containers, "\n".join(findings.containers)


def test_docker_holds_nothing_but_the_image(findings: Findings) -> None:
    """Docker holds no image, volume or layer that was added, but for the vLLM image."""
    assert not findings.docker, "\n".join(findings.docker)


def test_no_secret_is_inside(findings: Findings) -> None:
    """No token, password, private key or added ssh key is inside, nor any secret of this run."""
    assert not findings.secrets, "\n".join(findings.secrets)


def test_nothing_typed_is_inside(findings: Findings) -> None:
    """No history of a shell or another program is inside."""
    assert not findings.histories, "\n".join(findings.histories)


def test_no_log_of_the_build_is_inside(findings: Findings) -> None:
    """No log has a line that was written since 920 was cloned."""
    assert not findings.logs, "\n".join(findings.logs)


def test_only_image_and_caches_were_added(findings: Findings) -> None:
    """The container has grown by no more than the image, the caches that stay, and 50 MB."""
    assert not findings.growth, "\n".join(findings.growth)
