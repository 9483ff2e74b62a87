"""The sampler: what it reads of a real GPU's tool, and that it never stands in the way."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fixtures.channel import Channel
from fixtures.container import Container
from fixtures.sampler import Sampler, parse

RECORDED = Path(__file__).parent / "data/nvidia-h100/loop-nounits.csv"


def sampler(*argv: str) -> Sampler:
    """One whose nvidia-smi is another command."""
    container = SimpleNamespace(node=SimpleNamespace(channel=Channel("local")), wrap=lambda *_: list(argv))
    return Sampler(cast(Container, container))


def wait(until: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not until():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_recorded_load_is_read() -> None:
    """A matrix was multiplied on an H100 for 12 seconds while its nvidia-smi was read through a pipe."""
    reader = sampler("sh", "-c", f"cat {RECORDED}; sleep 60")
    reader.start(deadline=30)
    wait(lambda: len(reader.samples) == len(RECORDED.read_text().splitlines()))
    reader.stop()
    assert {sample.index for sample in reader.samples} == {0}
    assert max(sample.memory_mib for sample in reader.samples) == 1011
    assert max(sample.utilisation for sample in reader.samples) == 100
    assert [sample.at for sample in reader.samples] == sorted(sample.at for sample in reader.samples)


def test_lines_are_timed_as_they_come() -> None:
    reader = sampler("sh", "-c", "echo 0, 1, 2; sleep 0.3; echo 0, 3, 4; sleep 60")
    reader.start(deadline=30)
    wait(lambda: len(reader.samples) == 2)
    reader.stop()
    assert 0.25 < reader.samples[1].at - reader.samples[0].at < 2


@pytest.mark.parametrize("argv", [("false",), ("no-such-program-at-all",), ("sh", "-c", "echo No devices; exit 6")])
def test_failing_tool_gives_no_sample(argv: Sequence[str]) -> None:
    reader = sampler(*argv)
    reader.start(deadline=5)
    reader.stop()
    assert reader.samples == []


def test_stop_ends_the_command_and_waits_for_nothing() -> None:
    """Even if something that it has started holds the pipe open, as a killed pct leaves it."""
    reader = sampler(sys.executable, "-c", "import os, time; os.fork() or os.setsid(); print(1); time.sleep(3)")
    reader.start(deadline=30)
    begun = time.monotonic()
    reader.stop()
    assert time.monotonic() - begun < 1
    assert cast("subprocess.Popen[Any]", reader._process).poll() is not None


@pytest.mark.parametrize("line", ["", "0, [N/A], 3", "0, 1", "0, nan, 1", 'Field "x" is not valid', "a, b, c"])
def test_other_lines_are_no_samples(line: str) -> None:
    assert parse(line, 0.0) is None
