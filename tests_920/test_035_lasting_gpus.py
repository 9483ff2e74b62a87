"""Lasting GPUs: a Docker container that has GPUs keeps them."""

import pytest

from fixtures.machines import docker
from fixtures.machines.container import Container
from fixtures.machines.reload import list_around_reload
from fixtures.settings import Settings

pytestmark = [pytest.mark.stage("inherited stack"), pytest.mark.order(35)]


def test_gpus_survive_a_reload(container: Container, settings: Settings) -> None:
    """A Docker container keeps its GPUs when systemd reloads, as at each daily upgrade."""
    if "nvidia" not in docker.info(container)["Runtimes"]:
        pytest.skip("Docker knows no NVIDIA runtime")
    listed = list_around_reload(container, settings.command_deadline)
    assert any(line.startswith("GPU ") for line in listed.before), (
        f"before `systemctl daemon-reload` the Docker container listed no GPU: {listed.before}; nothing is proved"
    )
    assert listed.after == listed.before, (
        f"before `systemctl daemon-reload` {listed.before}, after it {listed.after}: fix the parent with nvidia-ctk "
        'system create-dev-char-symlinks --create-all, or "exec-opts": ["native.cgroupdriver=cgroupfs"]'
    )
