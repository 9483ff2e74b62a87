"""Clone: the template exists as a full clone of its parent's snapshot, with the declared resources."""

import pytest

from fixtures.base.errors import unexpected
from fixtures.base.warning import warn
from fixtures.proxmox.node import Node
from fixtures.run.build import Build
from fixtures.run.mode import May
from fixtures.template.differences import disk_gib
from fixtures.template.template import Template

pytestmark = [pytest.mark.stage("clone"), pytest.mark.order(20)]


def test_container_is_cloned(template: Template, build: Build) -> None:
    """The template is cloned from its parent's snapshot, or already exists as declared."""
    build.mode.require(May.BUILD)
    if build.mode.may(May.DESTROY):
        template.remove()
    template.ensure_cloned()
    assert template.exists, unexpected(f"{template.ctid} does not exist", "the new clone", run="pct list")


@pytest.mark.needs("test_container_is_cloned")
def test_container_is_as_declared(node: Node, template: Template) -> None:
    """The template has the declared name, memory, cores, disk, network, features and privilege."""
    differences = template.differences()
    size, declared = disk_gib(node.config(template.ctid)), template.declared.storage_size_gb
    if size > declared:
        warn(f"the disk has {size:g} GB, declared are {declared}: the parent's is as large, and no disk can be shrunk")
    assert not differences, unexpected(
        f"container {template.ctid} differs from its declaration: {'; '.join(differences)}",
        "no difference",
        cause="the container or the declaration was changed by hand",
        run="; ".join([*template.advised()] or [f"pct config {template.ctid}"]),
    )


@pytest.mark.needs("test_container_is_as_declared")
def test_container_starts(node: Node, template: Template, build: Build) -> None:
    """The template starts; another container of that number is left alone."""
    if not template.exists or template.differences():
        raise build.ledger.blocked_by("test_container_is_as_declared")
    template.start()
    assert node.running(template.ctid), unexpected(
        f"{template.ctid} is off after `pct start`", "a running container", run=f"pct start {template.ctid} --debug"
    )
