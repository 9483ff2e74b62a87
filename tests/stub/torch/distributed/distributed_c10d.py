"""Processes that add up through files: each writes its numbers and waits for those of the others."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


class Group:
    """The processes; one group at a time."""

    folder = Path()
    size, rank, turn = 1, 0, 0


def init_process_group(backend: str, init_method: str, world_size: int, rank: int) -> None:
    """Join."""
    assert backend == "gloo"
    Group.folder, Group.size, Group.rank = Path(init_method.removeprefix("file://")).parent, world_size, rank


def get_rank() -> int:
    """The place of this process among them."""
    return Group.rank


def all_reduce(tensor: Any) -> None:
    """Put the sum over all processes into a tensor."""
    Group.turn += 1
    mine = Group.folder / f"{Group.turn}.{Group.rank}"
    mine.with_suffix(f".{Group.rank}.new").write_text(json.dumps(tensor.numbers))
    mine.with_suffix(f".{Group.rank}.new").rename(mine)
    found = []
    for path in (Group.folder / f"{Group.turn}.{rank}" for rank in range(Group.size)):
        while not path.exists():
            time.sleep(0.002)
        found.append(json.loads(path.read_text()))
    tensor.numbers = [sum(each) for each in zip(*found, strict=True)]


def barrier() -> None:
    """Wait for the others."""
    from torch import Tensor  # noqa: PLC0415 - it imports this module

    all_reduce(Tensor([0]))
