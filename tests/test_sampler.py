"""The sampler: what it reads of a real GPU's tool, and that it never stands in the way."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fixtures.gpu.sampler import COMMAND, MEMORY, Sampler, parse
from fixtures.proxmox.channel import Channel
from fixtures.proxmox.container import Container

RECORDED = Path(__file__).parent / "data/nvidia-h100/loop-nounits.csv"


def sampler(*argv: str) -> Sampler:
    """One whose command is another."""
    channel = SimpleNamespace(spawn=lambda _, **options: Channel("local").spawn(argv, **options))
    return Sampler(cast(Container, SimpleNamespace(channel=channel)))


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def wait(until: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not until():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_recorded_load_is_read() -> None:
    """A matrix was multiplied on an H100 for 12 seconds while its nvidia-smi was read through a pipe."""
    reader = sampler("sh", "-c", f"cat {RECORDED}; cat")
    reader.start("name", deadline=30)
    wait(lambda: len(reader.samples) == len(RECORDED.read_text().splitlines()))
    reader.stop("name")
    assert {sample.index for sample in reader.samples} == {0}
    assert max(sample.memory_mib for sample in reader.samples) == 1011
    assert max(sample.utilisation for sample in reader.samples) == 100
    assert [sample.at for sample in reader.samples] == sorted(sample.at for sample in reader.samples)


def test_lines_are_timed_as_they_come() -> None:
    reader = sampler("sh", "-c", "echo 0, 1, 2; sleep 0.3; echo 0, 3, 4; cat")
    reader.start("name", deadline=30)
    wait(lambda: len(reader.samples) == 2)
    reader.stop("name")
    assert 0 < reader.samples[1].at - reader.samples[0].at < 10


def test_memory_of_the_server_is_the_most_that_it_took() -> None:
    said = [("name", each) for each in (2**30, 3 * 2**30, 2**29, "", "many")] + [("nobody", 2**40)]
    lines = "".join(f"{MEMORY}{name}: {each}\\n" for name, each in said)
    reader = sampler("sh", "-c", f"read name; printf '{lines}'; echo 0, 1, 2; cat")
    reader.start("name", deadline=30)
    wait(lambda: reader.samples)
    reader.stop("name")
    assert reader.memory_mib == {"name": 3072}
    assert len(reader.samples) == 1


@pytest.mark.parametrize("argv", [("false",), ("no-such-program-at-all",), ("sh", "-c", "echo No devices; exit 6")])
def test_failing_tool_gives_no_sample(argv: Sequence[str]) -> None:
    reader = sampler(*argv)
    reader.start("name", deadline=5)
    reader.stop("name")
    assert reader.samples == []
    assert reader.memory_mib == {}


def test_stop_ends_the_tool_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real command, with a tool that ignores broken pipes and whose starter is not waited for."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\ntrap '' PIPE\necho 0, $$, 2\nexec sleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    reader = sampler("sh", "-c", COMMAND)
    reader.start("name", deadline=30)
    wait(lambda: reader.samples)
    (pid,) = {int(sample.memory_mib) for sample in reader.samples}
    assert not gone(pid)
    begun = time.monotonic()
    reader.stop("name")
    assert time.monotonic() - begun < 10
    wait(lambda: gone(pid))


def test_stop_kills_what_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fixtures.gpu.sampler.STOP_GRACE", 0.2)
    reader = sampler("sleep", "60")
    reader.start("name", deadline=30)
    begun = time.monotonic()
    reader.stop("name")
    assert time.monotonic() - begun < 10
    assert cast("subprocess.Popen[Any]", reader._process).poll() is not None


@pytest.mark.parametrize("line", ["", "0, [N/A], 3", "0, 1", "0, nan, 1", 'Field "x" is not valid', "a, b, c"])
def test_other_lines_are_no_samples(line: str) -> None:
    assert parse(line, 0.0) is None


def test_servers_that_run_together_are_read_by_one_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has the samples since its start, and the tool ends with the last of them, not with the first."""
    for name, script in {"nvidia-smi": "echo 0, $$, 2; exec sleep 60", "docker": "echo 0"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    reader = sampler("sh", "-c", COMMAND)
    reader.start("one", deadline=30)
    wait(lambda: reader.samples)
    reader.start("two", deadline=30)
    pid = int(reader.samples[0].memory_mib)
    reader._hear("0, 5, 6")
    reader.stop("one")
    assert not gone(pid)
    assert [sample.memory_mib for sample in reader.of("one")] == [pid, 5]
    assert [sample.memory_mib for sample in reader.of("two")] == [5]
    assert reader.of("two")[0].at < reader.of("one")[1].at
    assert reader.of("three") == []
    reader.stop("two")
    wait(lambda: gone(pid))
