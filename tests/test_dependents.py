"""What depends on a snapshot, as ZFS says it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.proxmox.channel import Command
from fixtures.template.storage import dependents


class Node:
    """Answers as a node with the storage does; `zfs get -H -o property,value clones` as OpenZFS 2.2 prints it."""

    def __init__(self, kind: str, clones: str) -> None:
        self.kind, self.clones = kind, clones
        self.asked: list[str] = []

    def config(self, ctid: int, snapshot: str) -> dict[str, str]:
        assert (ctid, snapshot) == (920, "vllm-base-snapshot")
        return {"rootfs": "local-zfs:subvol-920-disk-0,size=64G"}

    def storage(self, name: str) -> dict[str, str]:
        assert name == "local-zfs"
        return {"type": self.kind}

    def get(self, path: str) -> dict[str, str]:
        assert path == "/storage/local-zfs"
        return {"pool": "rpool/data"}

    def run(self, *argv: str, only_reads: bool) -> Command:
        self.asked = list(argv)
        return Command("n", argv, 0.0, 0.0, 0, f"clones\t{self.clones}\n".encode(), b"")


@pytest.mark.parametrize(
    ("kind", "clones", "found"),
    [
        ("zfspool", "rpool/data/mine,rpool/data/other", ["rpool/data/mine", "rpool/data/other"]),
        ("zfspool", "-", []),
        ("zfspool", "", []),
        ("btrfs", "", []),
        ("rbd", "", None),
    ],
)
def test_dependents_of_a_snapshot(kind: str, clones: str, found: list[str] | None) -> None:
    node = Node(kind, clones)
    clone: Any = SimpleNamespace(node=node, ctid=920)
    assert dependents(clone, "vllm-base-snapshot") == found
    if kind == "zfspool":
        assert node.asked[-1] == "rpool/data/subvol-920-disk-0@vllm-base-snapshot"
