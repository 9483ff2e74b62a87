"""A dozen simple checks: services, packages, files, commands. `dozen_spec.rb` has the same ones."""

from __future__ import annotations

import pytest
from testinfra.host import Host


@pytest.mark.parametrize("name", ["docker", "ssh"])
def test_service_runs(host: Host, name: str) -> None:
    """The service runs."""
    assert host.service(name).is_running


def test_service_is_enabled(host: Host) -> None:
    """Docker starts at boot."""
    assert host.service("docker").is_enabled


@pytest.mark.parametrize("name", ["docker.io", "python3", "openssh-server"])
def test_package_is_installed(host: Host, name: str) -> None:
    """The package is installed."""
    assert host.package(name).is_installed


@pytest.mark.parametrize("path", ["/etc/docker/daemon.json", "/etc/os-release"])
def test_file_is_there(host: Host, path: str) -> None:
    """The file is there."""
    assert host.file(path).exists


def test_file_says(host: Host) -> None:
    """Docker knows NVIDIA's runtime."""
    assert host.file("/etc/docker/daemon.json").contains("nvidia")


@pytest.mark.parametrize("command", ["docker info", "nvidia-smi -L", "systemctl is-system-running"])
def test_command_succeeds(host: Host, command: str) -> None:
    """The command succeeds."""
    assert host.run(command).rc == 0
