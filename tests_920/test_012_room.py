"""Disk and memory: the image fits on the disk, and the node has the declared resources. Changes nothing."""

import math
from typing import Any

import pytest

from fixtures.base.errors import refuse_unseen, unexpected
from fixtures.base.settings import Settings
from fixtures.base.warning import warn
from fixtures.proxmox.node import Node, NodeError
from fixtures.run.build import Build
from fixtures.run.mode import May
from fixtures.serving.registry import GIB, Published
from fixtures.template import ephemeral_clone
from fixtures.template.differences import disks
from fixtures.template.template import Template

pytestmark = [
    pytest.mark.stage("preflight"),
    pytest.mark.order(12),
    pytest.mark.needs_answer("test_parent_is_as_declared", "test_storage_can_snapshot"),
]

MIB = 2**20
IMAGES = ("/var/lib/docker", "/var/lib/containerd")  # where Docker keeps images; newly installed since 29: the second
SERVER_MEMORY_MB = 16384  # what a vLLM container is commonly given (community-scripts/ProxmoxVE PR #13578)


@pytest.mark.needs("test_storage_can_snapshot")
def test_storage_has_room(node: Node, template: Template, build: Build, published: Published) -> None:
    """The storage has room for the image, packed and unpacked, and for a throw-away clone."""
    pool = template.declared.storage_pool
    storage = node.figures(pool)
    assert active(storage), unexpected(
        f"storage {pool} is not active on {node.name}, so its free space is unknown",
        "an active one",
        cause="its pool is not imported, or its disk or server is missing",
        run="pvesm status; zpool import",
    )
    unstated = storage.get("avail") is None
    refuse_unseen(f"the free space of storage {pool}: the node reports none; run: pvesm status" if unstated else "")
    free = node.free(pool) / GIB
    needed = published.gib * (1 if build.no_clone else 2)
    why = published.why
    if not build.no_clone:
        why += "; a throw-away clone needs as much again, --no-clone skips it"
    if build.mode.may(May.REPLACE):
        why += "; the accepted generation keeps its space until the new one is accepted"
    assert free >= needed, unexpected(
        f"storage {pool} has {free:.1f} GiB free, {needed:.1f} GiB are needed",
        "enough space for the image",
        cause=why,
        run=f"pvesm list {pool}",
    )
    refuse_unseen(published.unseen)


def active(storage: dict[str, Any]) -> bool:
    """Whether the node says of a storage that it is active, or nothing."""
    return storage.get("active", 1) not in (0, "0")


@pytest.mark.needs("test_storage_can_snapshot")
def test_clone_has_a_place(node: Node, template: Template, settings: Settings, build: Build) -> None:
    """A number and an address are free for the throw-away clone."""
    if build.no_clone:
        return
    try:
        chosen = ephemeral_clone.choose(node, template.declared, settings).ctid
    except NodeError:
        if active(node.figures(template.declared.storage_pool)):
            raise
        raise build.ledger.blocked_by("test_storage_has_room") from None
    assert chosen in settings.clone_ctids, unexpected(
        f"the first free number is {chosen}", f"one of clone_ctids, {settings.clone_ctids}", run="pct list"
    )


def test_declared_disk_is_large_enough(node: Node, template: Template, published: Published) -> None:
    """The template's declared disk is large enough for the image, packed and unpacked."""
    found = node.cluster_files.containers.get(template.ctid if template.exists else template.parent.ctid)
    section = found and (found.head if template.exists else found.sections.get(template.parent_snapshot))
    sizes = {**disks(section.config if section else {}), "/": float(template.declared.storage_size_gb)}
    places = {folder: max((each for each in sizes if holds(each, folder)), key=len) for folder in IMAGES}
    place = max(places.values(), key=lambda each: sizes[each] or math.inf)
    if not sizes[place]:  # it has no limit, or its line does not say
        refuse_unseen(f"the size of the volume at {place}, where Docker keeps images")
    assert sizes[place] >= published.gib, unexpected(
        f"{'storage_size_gb' if place == '/' else f'the size of the volume at {place}'} is {sizes[place]:g}, "
        f"the image needs {published.gib:.1f} GiB",
        "a disk that is large enough",
        cause=f"{published.why}; declare a larger disk",
        run=f"pvesm status --storage {template.declared.storage_pool}",
    )
    for folder, each in places.items():
        if 0 < sizes[each] < published.gib:
            warn(
                f"the disk at {each} has {sizes[each]:g} GiB, the image needs {published.gib:.1f}: "
                f"too little if this Docker keeps its images in {folder}"
            )
    refuse_unseen(published.unseen)


def holds(mounted: str, folder: str) -> bool:
    """Whether a folder is on the disk that is mounted there."""
    return folder.startswith(f"{mounted.rstrip('/')}/") or folder == mounted


def test_node_has_the_memory(node: Node, template: Template, settings: Settings) -> None:
    """The node has as much memory as the template declares; a warning says if vLLM usually needs more."""
    given = max(template.declared.memory_mb, settings.server_memory_mb)
    if given < SERVER_MEMORY_MB:
        warn(
            f"{template.ctid} has {given} MB of memory; vLLM containers usually have {SERVER_MEMORY_MB}. If the server "
            f"is killed while it loads, raise it: -o server_memory_mb={SERVER_MEMORY_MB}"
        )
    whole = node.cluster_files.memory // MIB
    assert given < whole, unexpected(
        f"{template.ctid} is declared with {given} MB of memory, but the node has only {whole} MB",
        "less than the node has",
        cause="declare less, or set server_memory_mb lower",
        run="free --mebi",
    )
