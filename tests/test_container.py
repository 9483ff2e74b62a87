"""A container as testinfra's host, with a `pct` that runs everything here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from fixtures.machines.channel import Channel
from fixtures.machines.container import FIRST_QUESTIONS, Container
from fixtures.machines.node import Node
from fixtures.machines.runner import Ended, Order


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Container:
    pct = tmp_path / "pct"
    pct.write_text('#!/bin/sh\nshift 3\nexec "$@"\n')
    pct.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return Container(Node(Channel("local")), 920)


def test_what_testinfra_always_asks_first_is_one_trip(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    trips: list[list[str]] = []
    trip = Channel._trip

    def counted(self: Channel, orders: Sequence[Order], only_reads: bool, grace: float = 10) -> list[Ended]:
        trips.append([order.argv[-1] for order in orders])
        return trip(self, list(orders), only_reads, grace)

    monkeypatch.setattr(Channel, "_trip", counted)
    assert container.system_info.type == "linux"
    _ = container.service("ssh").is_running  # whichever: of which kind the machine's services are is asked before
    assert trips[0] == list(FIRST_QUESTIONS)
    assert not {line for later in trips[1:] for line in later} & set(FIRST_QUESTIONS)
    assert container.run("uname -m").stdout.strip() == os.uname().machine
    assert trips[-1] == ["uname -m"], "who asks again is not told what was true before"
