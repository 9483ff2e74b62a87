"""What depends on a snapshot, as its storage says it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.proxmox.node import NodeError
from fixtures.template.clone import Clone
from tests.small_node import DECLARATION, POOL, zfs_list

NAME = "vllm-base-snapshot"
BTRFS = f"ID 257 gen 30 cgen 5 top level 5 otime 2026-11-25 02:14:31 uuid u path disks/subvol-920-disk-0@{NAME}"


def clone(kind: str, printed: str) -> Clone:
    """A container on a storage of some type, whose node prints the same whatever it is asked."""
    node: Any = SimpleNamespace(
        config=lambda ctid, snapshot: {"rootfs": "local-zfs:subvol-920-disk-0,size=64G"},
        storage=lambda name: {"type": kind, "pool": POOL, "path": "/disks"},
        ask=lambda *_: printed.rstrip("\n"),
    )
    return Clone(node, DECLARATION[920], DECLARATION[903], None)  # type: ignore[arg-type]


def zfs(clones: str, name: str = NAME) -> str:
    return zfs_list(f"{POOL}/subvol-920-disk-0", [name], clones)


@pytest.mark.parametrize(
    ("kind", "printed", "found"),
    [
        ("zfspool", zfs("rpool/data/mine,rpool/data/other"), ["rpool/data/mine", "rpool/data/other"]),
        ("zfspool", zfs("-"), []),
        ("zfspool", zfs(""), []),
        ("btrfs", BTRFS, []),
        ("rbd", "", None),
    ],
)
def test_dependents_of_a_snapshot(kind: str, printed: str, found: list[str] | None) -> None:
    assert clone(kind, printed).dependents(NAME) == found


@pytest.mark.parametrize(
    "printed", ["", zfs("-", "other"), zfs("").replace("\t\n", "\n"), zfs("-").replace("\t1", "\t-"), "x", "\t\t\t"]
)
def test_snapshot_that_zfs_does_not_clearly_list_is_not_without_dependents(printed: str) -> None:
    with pytest.raises(NodeError, match="lists no snapshot"):
        clone("zfspool", printed).dependents(NAME)
