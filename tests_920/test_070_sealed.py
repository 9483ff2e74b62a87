"""Sealed: the snapshot is complete, and the container runs again as it was proved."""

import pytest

from fixtures.base.errors import unexpected
from fixtures.base.settings import Settings
from fixtures.base.warning import warn
from fixtures.gpu import gpus
from fixtures.proxmox import conf, docker
from fixtures.proxmox.container import Container
from fixtures.proxmox.node import Node
from fixtures.run.build import Build
from fixtures.serving.image import inspect
from fixtures.template.comparison import DOES, Pending
from fixtures.template.template import Situation, Template

WHOLE = pytest.mark.needs("test_snapshot_is_whole")
UP = pytest.mark.needs("test_container_is_up_again")
DOCKER = pytest.mark.needs("test_docker_is_up_again")
pytestmark = [pytest.mark.stage("sealed"), pytest.mark.order(70)]


@pytest.mark.on_existing
def test_snapshot_is_whole(template: Template, build: Build) -> None:
    """The snapshot exists under its exact name and is complete."""
    if build.resumes and template.snapshot() is None:
        template.finish_seal()  # the run that sealed was cut short between its two snapshots
    snapshot = template.snapshot()
    name, show = f"{template.ctid}@{template.snapshot_name}", f"pct listsnapshot {template.ctid}"
    assert snapshot is not None, unexpected(f"{name} does not exist", "the snapshot that was taken", run=show)
    assert snapshot.whole, unexpected(f"{name} is incomplete: {snapshot.state}", "a complete snapshot", run=show)


@WHOLE
@pytest.mark.on_existing
def test_snapshot_is_as_declared(template: Template, build: Build) -> None:
    """The configuration in the snapshot is the declared one."""
    differences = template.differences(template.snapshot_name)
    mode, foreign = Pending(tuple(differences)).mode, build.situation is Situation.UNMANAGED  # no option replaces it
    ctid, name = template.ctid, f"{template.ctid}@{template.snapshot_name}"
    remove = f"pct delsnapshot {ctid} {template.snapshot_name}"
    assert not differences, unexpected(
        f"{name} differs from its declaration: {'; '.join(differences)}",
        "no difference",
        cause="this suite did not make it: correct the declaration, or change the container and take it again"
        if foreign
        else f"the declaration has changed since it was sealed; {mode} {DOES[mode]}",
        run=remove if foreign else build.again(mode),
    )
    if foreign:  # one of ours is compared with its record
        _expect_gpus_where_they_count(template, remove)


def _expect_gpus_where_they_count(template: Template, remove: str) -> None:
    """Lines that pass GPUs stand above the first [section], and the snapshot has them, as its clones get its own."""
    ctid, found = template.ctid, template.node.cluster_files.containers[template.ctid]
    lines = conf.misplaced(found, "", template.declared.gpus)
    assert not lines, unexpected(
        f"/etc/pve/lxc/{ctid}.conf gives these GPUs to a snapshot, but not to container {ctid}: {lines}",
        "these lines above the first [section]",
        cause="lines below a [section] belong to that snapshot; move them, then take a new snapshot",
        run=f"nano /etc/pve/lxc/{ctid}.conf",
    )
    if conf.gpus(found.head) and not conf.gpus(found.sections[template.snapshot_name]):
        name, again = f"{ctid}@{template.snapshot_name}", f"{remove}; {remove.replace('delsnapshot', 'snapshot')}"
        warn(f"{name} passes no GPU, so its clones have none, unlike container {ctid}; to take it again: {again}")


def test_container_is_up_again(node: Node, container: Container, build: Build, settings: Settings) -> None:
    """The container runs again, and its systemd is healthy."""
    template = build.template
    if build.situation is Situation.SEALED:  # an earlier run was cut short after the snapshot, perhaps before the start
        template.start()
    assert node.running(template.ctid), unexpected(
        f"container {template.ctid} is off", "running", run=f"pct start {template.ctid} --debug"
    )
    state = container.wait_until_booted(settings.boot_deadline)
    assert state == "running", unexpected(
        f"systemd is {state} after the restart; failed: {container.failed_units()}",
        "running",
        run=container.pasteable("systemctl", "--failed"),
    )


@UP
def test_docker_is_up_again(container: Container) -> None:
    """Docker runs again."""
    assert container.service("docker").is_running, unexpected(
        docker.state(container), "active", run=container.pasteable("systemctl", "status", "docker")
    )


@DOCKER
def test_image_is_still_there(container: Container, settings: Settings) -> None:
    """The vLLM image is still present, with its digest."""
    digest = inspect(container, settings.vllm_image).digest
    assert "@sha256:" in digest, unexpected(
        f"the image is named {digest!r}",
        "a name with @sha256:",
        run=container.pasteable("docker", "image", "ls", "--digests"),
    )


@DOCKER
def test_nothing_is_left_of_the_build(container: Container) -> None:
    """Docker has no container, neither a test server nor another."""
    found = docker.own(container) + docker.foreign(container)
    assert not found, unexpected(
        f"Docker holds {', '.join(found)}",
        "no container",
        cause="something created it after the snapshot, such as a unit that starts at boot",
        run=container.pasteable("docker", "ps", "--all"),
    )


@UP
def test_gpus_are_listed_again(container: Container, template: Template, build: Build) -> None:
    """After the restart nvidia-smi lists the same GPUs as before."""
    again = gpus.listed(container)
    found, assigned = [gpu.uuid for gpu in again], template.declared.gpus
    ask = container.pasteable("nvidia-smi", "-L")
    said = f"GPUs {assigned} are assigned, but {found} are listed after the restart"
    if len(found) > len(assigned):
        said = f"after the restart more GPUs are listed than the assigned {assigned}: {found}"
    assert len(found) == len(assigned), unexpected(said, f"{len(assigned)} GPUs", run=ask)
    if build.gpus:  # an earlier run has listed them, if that was cut short after the snapshot
        before = [gpu.uuid for gpu in build.gpus]
        assert found == before, unexpected(
            f"{found} are listed after the restart", f"{before}, as before", cause="the cards were swapped", run=ask
        )
