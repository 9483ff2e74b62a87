"""Clone: 920 exists as a full clone of its parent's snapshot, with the declared resources."""

import pytest

from fixtures.build import Build
from fixtures.machines.node import Node
from fixtures.templates.template import Template

pytestmark = [pytest.mark.stage("clone"), pytest.mark.order(20)]


def test_container_is_cloned(template: Template, build: Build) -> None:
    """920 is cloned from its parent's snapshot, or already exists as declared."""
    if build.rebuild_clone:
        template.remove()
    template.ensure_cloned()
    assert template.exists


def test_container_is_as_declared(template: Template) -> None:
    """920 has the declared name, memory, cores, disk, network, features and privilege."""
    assert template.differences() == []


def test_container_starts(node: Node, template: Template) -> None:
    """920 starts; another container of that number is left alone."""
    if not template.exists or template.differences():
        pytest.skip("the container is not there as declared")
    template.start()
    assert node.running(template.ctid)
