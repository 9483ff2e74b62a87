"""The reader of what runs on: bounded in size, rate and time, whatever is printed."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fixtures.gpu.sampler import MOST_SAMPLES, Sampler, parse
from fixtures.proxmox.channel import Channel
from fixtures.proxmox.reader import KEPT, LONGEST_LINE, Reader
from fixtures.remote.runner import kill_group


@contextmanager
def printing(script: str, deadline: float = 20, **options: Any) -> Iterator[Reader]:
    process = Channel("local").spawn(("sh", "-c", script), deadline=60, output=subprocess.PIPE)
    reader = Reader(process, deadline, **options)
    try:
        yield reader
    finally:
        kill_group(process)
        process.wait()
        reader.close(0)


def await_end(reader: Reader) -> None:
    reader._thread.join(20)
    assert not reader._thread.is_alive()


def test_all_that_is_short_is_kept() -> None:
    lines: list[str] = []
    with printing("echo one; echo two >&2; printf three", hear=lines.append) as reader:
        await_end(reader)
    assert reader.kept == b"one\ntwo\nthree"
    assert lines == ["one", "two"]


def test_end_of_a_flood_is_kept_and_it_is_slowed_down() -> None:
    before = time.monotonic()
    with printing("head -c 3000000 /dev/zero | tr '\\0' x; echo the end", rate=2**20) as reader:
        await_end(reader)
    assert len(reader.kept) == KEPT
    assert reader.kept.endswith(b"x" * 999 + b"the end\n")
    assert time.monotonic() - before > 1.5  # 3 MB at 1 MB/s, half a second of it at once


def test_program_that_floods_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the pipe that holds it: hundreds of MB a second would be read else."""
    read = 0

    def counted(descriptor: int, size: int) -> bytes:
        nonlocal read
        piece = real(descriptor, size)
        read += len(piece)
        return piece

    real = os.read
    monkeypatch.setattr(os, "read", counted)
    with printing("yes", 2, rate=2**20) as reader:
        await_end(reader)
    assert read <= 2 * 2**20 + 2**20  # of its two seconds, and what comes at once


def test_deadline_ends_reading_whatever_still_runs() -> None:
    before = time.monotonic()
    with printing("sleep 60", 0.3) as reader:
        await_end(reader)
    assert time.monotonic() - before < 20


def test_line_without_end_is_not_heard() -> None:
    lines: list[str] = []
    script = "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo short"
    with printing(script, hear=lines.append, rate=2**30) as reader:
        await_end(reader)
    assert lines == ["short"]
    assert len(reader._line) <= LONGEST_LINE + 1


def test_samples_of_a_flood_are_few_and_from_its_beginning_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, now = Sampler(None), 0.0  # type: ignore[arg-type]
    monkeypatch.setattr("fixtures.gpu.sampler.time.monotonic", lambda: now)
    for number in range(6 * MOST_SAMPLES):
        now = number / 50
        sampler._hear(f"{number % 8}, 1, 2")
        sampler._hear(f"{10**6 + number}, 1, 2")  # no container has so many GPUs
    assert MOST_SAMPLES / 4 < len(sampler.samples) <= MOST_SAMPLES
    assert {sample.index for sample in sampler.samples} == set(range(8))
    assert sampler.samples[0].at < 1
    assert sampler.samples[-1].at > now - 60
    assert parse("1e999, 1, 2", 0) is None
