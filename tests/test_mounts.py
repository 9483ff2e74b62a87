"""Volumes beside the root disk: a clone has those of its parent's snapshot, and the image may lie on one of them."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.base.errors import Unseen
from fixtures.proxmox.container import ContainerError
from fixtures.proxmox.node import NodeError
from fixtures.run import clone_acceptance
from fixtures.serving.registry import Published
from fixtures.template import ephemeral_clone
from fixtures.template.differences import attached, disks
from fixtures.template.template import Template
from tests.small_node import DECLARATION, POOL, SETTINGS, SmallNode, conf_of, zfs_list
from tests.test_directions import said

MOUNT = "lxc-disks:subvol-903-disk-1,mp=/var/lib/docker,backup=0,size=100G"
LABEL = "phoenix-920: throw-away container 990 cloned from 920@vllm-base-snapshot"
THROWN_AWAY = replace(DECLARATION[920], ctid=990, name="clone-990-of-920")
GIB = 2**30


@pytest.mark.parametrize(
    ("has", "same"),
    [
        ("lxc-disks:subvol-920-disk-0,mp=/var/lib/docker,backup=0,size=100G", True),  # numbered in any order
        ("tank:subvol-920-disk-1,mp=/var/lib/docker,backup=0,size=100G", True),  # `pct clone --storage` moves it
        ("lxc-disks:920/vm-920-disk-1.raw,backup=0,mp=/var/lib/docker,size=102400M", True),  # as PVE prints it
        ("lxc-disks:subvol-920-disk-1,mp=/data,backup=0,size=100G", False),
        ("lxc-disks:subvol-920-disk-1,mp=/var/lib/docker,backup=0,ro=1,size=100G", False),
        ("/srv,mp=/var/lib/docker,backup=0,size=100G", False),
        ("/dev/sdb1,mp=/var/lib/docker,backup=0,size=100G", False),
    ],
)
def test_volume_of_the_parent_is_recognised_in_a_clone(monkeypatch: pytest.MonkeyPatch, has: str, same: bool) -> None:
    node = SmallNode(monkeypatch)
    template = Template(node, DECLARATION, 920, SETTINGS)
    node.files[903] = conf_of(template.parent, "", mp0=MOUNT)
    node.snapshot(903, template.parent_snapshot, "")
    node.files[920] = conf_of(template.declared, "", mp0=has)
    assert (template.differences() == []) is same
    node.files[920] = conf_of(template.declared, "", mp1=has)  # what the parent has at another place is not this one
    assert template.differences() != []


def test_nothing_else_is_shortened() -> None:
    assert attached({"mp0": "/srv,size=1G,mp=/srv"}) == ["mp0: /srv,size=1G,mp=/srv"]
    assert attached({"unused0": "p:subvol-920-disk-7"}) == ["unused0: p:subvol-920-disk-7"]
    assert attached({"net1": "name=eth1,bridge=vmbr1"}) == ["net1: name=eth1,bridge=vmbr1"]


def test_sizes_of_all_volumes_are_known() -> None:
    config = {"rootfs": "p:v,size=32G", "mp0": "p:w,mp=/a,size=1T", "mp1": "/srv,mp=/b", "mpx": "p:y,mp=/c"}
    assert disks(config) == {"/": 32, "/a": 1024}
    assert disks({"rootfs": "p:v,size=512M"}) == {"/": 0.5}


def test_throw_away_clone_is_removed_with_the_volumes_that_it_was_cloned_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that a killed run had left was kept for ever, where the template has a volume of its own."""
    node = SmallNode(monkeypatch)
    monkeypatch.setattr(node, "containers", lambda: {ctid: {} for ctid in node.files})
    node.files[920] = conf_of(DECLARATION[920], "", mp0=MOUNT)
    node.snapshot(920, "vllm-base-snapshot", "")
    left = conf_of(THROWN_AWAY, LABEL, mp0=MOUNT.replace("903", "990"))
    node.files[990] = left.replace("mp0", "mp1")
    with pytest.raises(NodeError, match="more volumes than its own: mp1"):
        ephemeral_clone.remove_left(node, SETTINGS, "lxc-disks")
    node.files[990] = left
    assert ephemeral_clone.remove_left(node, SETTINGS, "lxc-disks") == [990]
    assert 990 not in node.files


def used(said_by_df: str, **config: str) -> tuple[int, tuple[str, ...]]:
    asked: list[tuple[str, ...]] = []

    def ask(*argv: str, **_: object) -> str:
        asked.append(argv)
        return said_by_df

    container = SimpleNamespace(ctid=920, ask=ask, pasteable=lambda *words: " ".join(words))
    node = SimpleNamespace(config=lambda _: {"rootfs": "p:v,size=64G", **config})
    build: Any = SimpleNamespace(node=node, template=SimpleNamespace(ctid=920, container=container))
    return clone_acceptance._used(build), asked[0][3:]


def test_what_a_clone_copies_is_measured_on_all_volumes() -> None:
    assert used("     Used\n 1000\n") == (1000, ("/",))
    assert used("     Used\n 1000\n30000\n", mp0=MOUNT) == (31000, ("/", "/var/lib/docker"))
    for nothing in ("", "Used\n", "Used\n-\n"):
        with pytest.raises(ContainerError, match="expected the bytes used of its disks; run: df"):
            used(nothing)


@pytest.mark.parametrize(
    ("root", "mount", "fails", "warns"),
    [
        (64, "", "", ""),
        (20, "", "storage_size_gb is 20, the image needs 36.0 GiB", ""),
        (
            20,
            "mp=/var/lib/docker,size=100G",
            "",
            "the disk at / has 20 GiB, the image needs 36.0: .*/var/lib/containerd",
        ),
        (20, "mp=/var/lib,size=100G", "", ""),
        (64, "mp=/var/lib/docker,size=8G", "", "the disk at /var/lib/docker has 8 GiB, the image needs 36.0"),
        (20, "mp=/var,size=32G", "the size of the volume at /var is 32, the image needs 36.0 GiB", ""),
        (20, "mp=/var/lib/dock,size=100G", "storage_size_gb is 20", ""),
    ],
)
@pytest.mark.parametrize("exists", [True, False])
def test_image_is_compared_with_the_disk_that_holds_it(  # noqa: PLR0917 - one a column
    monkeypatch: pytest.MonkeyPatch, exists: bool, root: int, mount: str, fails: str, warns: str
) -> None:
    node = SmallNode(monkeypatch)
    found: Any = Template(node, DECLARATION, 920, SETTINGS)
    number = 920 if exists else 903
    node.files[number] = conf_of(DECLARATION[number], "", **({"mp0": f"lxc-disks:v,{mount}"} if mount else {}))
    if not exists:
        node.snapshot(903, found.parent_snapshot, "")
    files = SimpleNamespace(containers={number: node.read(number)})
    place = SimpleNamespace(cluster_files=files)
    declared = replace(DECLARATION[920], storage_size_gb=root)
    template = SimpleNamespace(
        ctid=920, exists=exists, declared=declared, parent=found.parent, parent_snapshot=found.parent_snapshot
    )
    published = Published("https://registry", 8 * GIB)
    warned: list[str] = []
    monkeypatch.setattr("fixtures.base.warning.warn", warned.append)
    message, _ = said("test_012_room", "test_declared_disk_is_large_enough", place, template, published)
    assert message.startswith(fails) if fails else message == ""
    assert re.match(warns, "; ".join(warned)) if warns else warned == []


@pytest.mark.parametrize("mount", ["mp=/var/lib/docker", "mp=/var,size=0T"])
def test_volume_without_a_size_is_not_taken_for_an_empty_one(monkeypatch: pytest.MonkeyPatch, mount: str) -> None:
    node = SmallNode(monkeypatch)
    node.files[920] = conf_of(DECLARATION[920], "", mp0=f"lxc-disks:v,{mount}")
    place = SimpleNamespace(cluster_files=SimpleNamespace(containers={920: node.read(920)}))
    template = SimpleNamespace(
        ctid=920, exists=True, declared=replace(DECLARATION[920], storage_size_gb=20), parent=DECLARATION[903]
    )
    with pytest.raises(Unseen, match="unknown: the size of the volume at /var"):
        said("test_012_room", "test_declared_disk_is_large_enough", place, template, Published("r", 8 * GIB))


def test_image_is_compared_with_the_declared_disk_where_there_is_no_parent() -> None:
    nothing = SimpleNamespace(cluster_files=SimpleNamespace(containers={}))
    template = SimpleNamespace(
        ctid=920, exists=False, declared=DECLARATION[920], parent=DECLARATION[903], parent_snapshot="x"
    )
    name = "test_declared_disk_is_large_enough"
    assert said("test_012_room", name, nothing, template, Published("r", 8 * GIB)) == ("", [])


def with_volume(monkeypatch: pytest.MonkeyPatch, of_mount: str) -> Template:
    """The template with a volume of its own, of which ZFS says this; of the root disk that nothing has changed."""
    node = SmallNode(monkeypatch)
    template = Template(node, DECLARATION, 920, SETTINGS)
    node.files[920] = conf_of(template.declared, "", mp0=MOUNT.replace("903", "920"))
    node.snapshot(920, "vllm-base-snapshot", "")

    def ask(*argv: str) -> str:
        if argv[-1].endswith("disk-1"):
            return of_mount
        return "0" if argv[1] == "get" else zfs_list(argv[-1], ["vllm-base-snapshot"])

    monkeypatch.setattr(node, "ask", ask)
    return template


def test_what_depends_on_a_snapshot_of_any_volume_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """To delete such a snapshot would leave it half deleted, and the container locked."""
    said_by_zfs = zfs_list(f"{POOL}/subvol-920-disk-1", ["vllm-base-snapshot"], "rpool/data/mine")
    assert with_volume(monkeypatch, said_by_zfs).dependents("vllm-base-snapshot") == ["rpool/data/mine"]


@pytest.mark.parametrize(("written", "unchanged"), [("0", True), ("4096", False)])
def test_what_was_written_to_any_volume_is_written(
    monkeypatch: pytest.MonkeyPatch, written: str, unchanged: bool
) -> None:
    """A seal that was cut short is resumed only where the second snapshot holds what the first one does."""
    template = with_volume(monkeypatch, written)
    copy = template.snapshot_name
    made: Any = SimpleNamespace(name=copy, took=lambda _: True)
    template.snapshot_name = "declared"
    monkeypatch.setattr(template, "generations", lambda: [made])
    monkeypatch.setattr(template.changes, "read", lambda _: template.node.configuration(920))
    assert (template.unfinished() is made) is unchanged
