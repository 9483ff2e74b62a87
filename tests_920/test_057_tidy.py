"""Tidy: what the build has left is removed, and nothing else is inside that a template must not hold."""

import pytest

from fixtures.templates.tidy import Findings

pytestmark = [pytest.mark.stage("tidy"), pytest.mark.order(57)]


def test_docker_holds_no_container(findings: Findings) -> None:
    """Docker has no container, running or stopped."""
    assert not findings.containers, "\n".join(findings.containers)


def test_docker_holds_nothing_but_the_image(findings: Findings) -> None:
    """Docker has no added image, volume or layer except the vLLM image."""
    assert not findings.docker, "\n".join(findings.docker)


def test_no_secret_is_inside(findings: Findings) -> None:
    """No token, password, private key, added ssh key or secret of this run is inside."""
    assert not findings.secrets, "\n".join(findings.secrets)


def test_nothing_typed_is_inside(findings: Findings) -> None:
    """No history of a shell or another program is inside."""
    assert not findings.histories, "\n".join(findings.histories)


def test_no_log_of_the_build_is_inside(findings: Findings) -> None:
    """No log has a line that is newer than the clone."""
    assert not findings.logs, "\n".join(findings.logs)


def test_only_image_and_caches_were_added(findings: Findings) -> None:
    """The container grew by no more than the image, the kept caches, and 50 MB."""
    assert not findings.growth, "\n".join(findings.growth)
