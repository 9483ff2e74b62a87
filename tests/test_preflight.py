"""Checks of preflight that need no lab: what the cluster and a configuration say."""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from fixtures.proxmox.conf import parse
from fixtures.proxmox.pmxcfs import Guest
from fixtures.run import mode

TOP = Path(__file__).parent.parent


@functools.cache
def checks() -> ModuleType:
    """The build's own checks."""
    spec = importlib.util.spec_from_file_location("preflight_checks", TOP / "tests_920/test_010_preflight.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    with patch.object(pytest.mark, "_config", None):  # else only the marks of our own pytest.ini are known
        spec.loader.exec_module(module)
    return module


def a_template(conf: str = "hostname: x\n", removable: str = "") -> Any:
    changes = SimpleNamespace(read=lambda _: parse(conf.encode()))
    return SimpleNamespace(
        ctid=920, exists=True, changes=changes, declared=SimpleNamespace(name="T"), removable=lambda _: removable
    )


@pytest.mark.parametrize(
    ("guest", "managed", "said"),
    [
        (Guest("lxc", "pve", "T"), None, None),
        (Guest("lxc", "pve2"), None, r"if it is T, name pve2 .*/nodes/pve2/lxc/920/config$"),
        (Guest("qemu", "pve"), None, r"920 is a virtual machine .*/nodes/pve/qemu/920/config$"),
        (Guest("qemu", "pve2"), None, r"920 is a virtual machine \(type qemu\) on pve2; expected a free number"),
        (Guest("lxc", "pve", "U"), None, r"920 is used by the container 'U'; .*pct config 920$"),
        (Guest("lxc", "pve", "T"), "ignored", None),
        (Guest("lxc", "pve", "T"), "started", "HA in state started.*remove ct:920$"),
        (Guest("lxc", "pve", "T"), "error", "HA in state error"),
    ],
)
def test_number_on_another_node_of_the_cluster_is_not_free(guest: Guest, managed: str | None, said: str | None) -> None:
    """It passed, and `pct clone` refused it: a container of the right name is there, but elsewhere."""
    files = SimpleNamespace(managed={920: managed} if managed else {})
    node = SimpleNamespace(name="pve", guests=lambda: {920: guest}, cluster_files=files)
    check = functools.partial(checks().test_number_is_free_or_a_container, node, a_template())
    if said is None:
        check()
        return
    with pytest.raises(AssertionError, match=said):
        check()


def test_guest_of_another_is_neither_moved_nor_destroyed() -> None:
    for guest in (Guest("qemu", "pve2"), Guest("qemu", "pve"), Guest("lxc", "pve2")):
        node = SimpleNamespace(name="pve", guests=lambda guest=guest: {920: guest})
        with pytest.raises(AssertionError) as caught:
            checks().test_number_is_free_or_a_container(node, a_template())
        assert not re.search("migrate|destroy|pct list", str(caught.value))


@pytest.mark.parametrize(
    ("elsewhere", "said"),
    [
        ({}, "container 903 does not exist; expected the parent P.*pct list$"),
        ({903: Guest("qemu", "pve")}, "903 is a virtual machine on pve; .*correct clone_from_template_ctid"),
        ({903: Guest("lxc", "pve2")}, "903 is a container on pve2; .*name pve2 with --node; .*pct migrate 903 pve"),
    ],
)
def test_parent_that_is_elsewhere_or_a_machine_is_named(elsewhere: dict[int, Guest], said: str) -> None:
    """It was said not to exist."""
    files = SimpleNamespace(elsewhere=elsewhere, managed={})
    node = SimpleNamespace(name="pve", containers=dict, cluster_files=files)
    template = SimpleNamespace(parent=SimpleNamespace(ctid=903, name="P"))
    with pytest.raises(AssertionError, match=said):
        checks().test_parent_is_as_declared(node, template)
    files.managed = {903: "started"}
    moved = "HA manages it and may have moved it, perhaps as pve is in maintenance: ha-manager status"
    with pytest.raises(AssertionError) as caught:
        checks().test_parent_is_as_declared(node, template)
    assert (moved in str(caught.value)) is ("--node" in said)


@pytest.mark.parametrize(
    ("config", "declared"), [({"unprivileged": 1}, False), ({"unprivileged": 0}, True), ({}, True)]
)
def test_parent_of_another_privilege_is_refused_before_it_is_cloned(config: dict[str, int], *, declared: bool) -> None:
    """It was cloned, and then differed from its declaration for good."""
    files = SimpleNamespace(elsewhere={}, managed={})
    own = {903: Guest("lxc", "pve", "P")}
    node = SimpleNamespace(name="pve", containers=lambda: own, cluster_files=files, config=lambda _: config)
    node.configuration = lambda _: parse(b"rootfs: a:b\n")
    parent = SimpleNamespace(ctid=903, name="P", unprivileged=declared)
    wanted = SimpleNamespace(unprivileged=declared, storage_pool="pool")
    template = SimpleNamespace(parent=parent, parent_snapshot="s", ctid=920, declared=wanted)
    kinds = ["a privileged", "an unprivileged"]
    said = f"903 is {kinds[not declared]} container; expected {kinds[declared]} one, as 920 is declared"
    with pytest.raises(AssertionError, match=said):
        checks().test_parent_is_as_declared(node, template)
    template.declared.unprivileged = not declared
    said_of_parent: list[str] = []
    module: Any = checks()
    module.warn = said_of_parent.append
    module.test_parent_is_as_declared(node, template)
    is_one, declared_one = kinds[not declared], kinds[declared]
    assert said_of_parent == [f"903 is declared as {declared_one} container, but it is {is_one} one"]
    parent.unprivileged = not declared
    module.test_parent_is_as_declared(node, template)
    assert len(said_of_parent) == 1


@pytest.mark.parametrize(
    ("conf", "removable", "said"),
    [
        ("hostname: x\n", "", None),
        ("protection: 0\n", "", None),
        ("protection: 1\n", "", "it is protected; if you no longer need it: pct set 920 --delete protection"),
        ("hostname: x\n", "it has snapshots of another", "it has snapshots of another"),
    ],
)
def test_container_that_cannot_be_destroyed_is_found_before(conf: str, removable: str, said: str | None) -> None:
    check = checks().test_container_may_be_destroyed
    check(a_template(conf, removable), SimpleNamespace(mode=mode.BUILD))
    if said is None:
        check(a_template(conf, removable), SimpleNamespace(mode=mode.REBUILD_CLONE))
        return
    with pytest.raises(AssertionError, match=said):
        check(a_template(conf, removable), SimpleNamespace(mode=mode.REBUILD_CLONE))
