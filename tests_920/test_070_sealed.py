"""Sealed: the snapshot is whole, and the container is up again as it was proved."""

import pytest

from fixtures.build import Build
from fixtures.gpu import gpus
from fixtures.machines import docker
from fixtures.machines.container import Container
from fixtures.machines.node import Node
from fixtures.settings import Settings
from fixtures.templates.template import Situation, Template
from fixtures.vllm.image import inspect

pytestmark = [pytest.mark.stage("sealed"), pytest.mark.order(70)]


@pytest.mark.on_existing
def test_snapshot_is_whole(template: Template, build: Build) -> None:
    """The snapshot exists under its exact name and is complete."""
    if build.situation is Situation.SEALED and not build.verify and template.snapshot() is None:
        template.finish_seal()  # the run that sealed was cut short between its two snapshots
    snapshot = template.snapshot()
    assert snapshot is not None, f"{template.ctid}@{template.snapshot_name} is not there"
    assert snapshot.whole, f"{template.ctid}@{template.snapshot_name} is half made: {snapshot.state}"


@pytest.mark.on_existing
def test_snapshot_is_as_declared(template: Template) -> None:
    """The configuration in the snapshot is the declared one."""
    assert template.differences(template.snapshot_name) == []


def test_container_is_up_again(node: Node, container: Container, build: Build, settings: Settings) -> None:
    """The container runs again, and its systemd is healthy."""
    template = build.template
    if build.situation is Situation.SEALED:  # an earlier run was cut short after the snapshot, perhaps before the start
        template.start()
    assert node.running(template.ctid), f"container {template.ctid} is off"
    state = container.wait_until_booted(settings.boot_deadline)
    assert state == "running", f"systemd is {state} after the restart: systemctl --failed says which unit"


def test_docker_is_up_again(container: Container) -> None:
    """Docker runs again."""
    assert container.service("docker").is_running


def test_image_is_still_there(container: Container, settings: Settings) -> None:
    """The vLLM image is still present, with its digest."""
    assert "@sha256:" in inspect(container, settings.vllm_image, settings.command_deadline).digest


def test_nothing_is_left_of_the_build(container: Container) -> None:
    """Docker has no container, neither a test server nor another."""
    assert docker.own(container) + docker.foreign(container) == []


def test_gpus_are_listed_again(container: Container, template: Template, build: Build) -> None:
    """After the restart nvidia-smi lists the same GPUs as before."""
    again = gpus.listed(container, build.settings.command_deadline)
    found, assigned = [gpu.uuid for gpu in again], template.declared.gpus
    assert len(found) == len(assigned), f"assigned are {assigned}, listed are {found} after the restart"
    if build.gpus:  # an earlier run has listed them, if that was cut short after the snapshot
        before = [gpu.uuid for gpu in build.gpus]
        assert found == before, f"before the restart {before} were listed, after it {found}: the cards were swapped"
