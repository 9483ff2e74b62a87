"""Whether a root file system fills its disk: `pct resize` can end with 0 where only the disk has grown."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from fixtures.base.errors import Inconclusive
from fixtures.proxmox import disk
from fixtures.proxmox.container import ContainerError

TOP = Path(__file__).parents[1]


class Asked:
    """A container that answers stat with a text."""

    ctid = 920

    def __init__(self, said: str) -> None:
        self.said = said

    def ask(self, *_: str, only_reads: bool) -> str:
        assert only_reads
        return self.said


def blocks(gib: float) -> int:
    return round(gib * disk.GIB / 4096)


def check(said: str) -> None:
    """Ask the suite's own check."""
    stack = runpy.run_path(str(TOP / "tests_920/test_030_inherited_stack.py"))
    declared = SimpleNamespace(ctid=920, storage_size_gb=64)
    stack["test_root_disk_has_its_size"](Asked(said), declared)


@pytest.mark.parametrize("said", [f"{blocks(62.6)} 4096 ext2/ext3", f"{blocks(63.9)} 4096 xfs", "9000 131072 zfs"])
def test_file_system_that_fills_its_disk(said: str) -> None:
    check(said)


def test_file_system_that_did_not_grow_with_its_disk() -> None:
    with pytest.raises(AssertionError, match=r"\(ext2/ext3\) has 31.2 GiB, the disk is declared with 64.*pct fsck 920"):
        check(f"{blocks(31.2)} 4096 ext2/ext3")


def test_kind_that_tells_nothing_is_inconclusive() -> None:
    with pytest.raises(Inconclusive, match="of kind UNKNOWN"):
        check("1000 4096 UNKNOWN (0x1badface)")


@pytest.mark.parametrize("said", ["", "stat: failed", "0 4096 xfs", "nan 4096 xfs", "1000 4096", "-5 4096 ext2/ext3"])
def test_size_that_is_not_said_is_an_error(said: str) -> None:
    with pytest.raises(ContainerError, match="does not say the size of container 920"):
        check(said)
