"""A container as testinfra's host, with a `pct` that runs everything here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from fixtures.proxmox.channel import Channel
from fixtures.proxmox.container import FIRST_QUESTIONS, Container
from fixtures.proxmox.node import Node
from fixtures.remote.runner import CommandRequest, CommandResult


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Container:
    pct = tmp_path / "pct"
    pct.write_text('#!/bin/sh\nshift 3\nexec "$@"\n')
    pct.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return Container(Node(Channel("local")), 920)


def test_first_questions_of_testinfra_are_one_batch(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[list[str]] = []
    run = Channel._run_batch

    def counted(
        self: Channel, requests: Sequence[CommandRequest], again: bool, grace: float = 10
    ) -> list[CommandResult]:
        batches.append([request.argv[-1] for request in requests])
        return run(self, list(requests), again, grace)

    monkeypatch.setattr(Channel, "_run_batch", counted)
    assert container.system_info.type == "linux"
    _ = container.service("ssh").is_running  # whichever: of which kind the machine's services are is asked before
    assert batches[0] == list(FIRST_QUESTIONS)
    assert not {line for later in batches[1:] for line in later} & set(FIRST_QUESTIONS)
    assert container.run("uname -m").stdout.strip() == os.uname().machine
    assert batches[-1] == ["uname -m"], "who asks again is not told what was true before"
