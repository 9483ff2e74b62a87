"""Lasting GPUs: a Docker container that has GPUs keeps them."""

import pytest

from fixtures.base.errors import unexpected
from fixtures.proxmox.container import Container
from fixtures.proxmox.docker import list_around_reload

pytestmark = [
    pytest.mark.stage("inherited stack"),
    pytest.mark.order(35),
    pytest.mark.needs("test_commands_reach_the_container", "test_docker_runs_a_container"),
    pytest.mark.needs("test_nvidia_runtime_is_registered", "test_gpu_may_be_used", "test_gpus_are_listed"),
]


def test_gpus_survive_a_reload(container: Container) -> None:
    """A Docker container keeps its GPUs when systemd reloads, as at each daily upgrade."""
    listed = list_around_reload(container)
    assert any(line.startswith("GPU ") for line in listed.before), unexpected(
        f"before `systemctl daemon-reload` the Docker container listed no GPU: {listed.before}",
        "its GPUs",
        run=container.pasteable("docker", "info", "--format", "{{.Runtimes}}"),
    )
    assert listed.after == listed.before, unexpected(
        f"the GPUs before `systemctl daemon-reload` were {listed.before}, after it {listed.after}",
        "the same GPUs",
        cause='runc has no device rules for them: add symlinks, or "exec-opts": ["native.cgroupdriver=cgroupfs"]',
        run=container.pasteable("nvidia-ctk", "system", "create-dev-char-symlinks", "--create-all"),
    )
