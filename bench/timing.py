"""Timing whole commands, as whoever waits for them does: by the clock on the wall."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.figures import BenchError

TOP = Path(__file__).parent.parent
EMPTY = TOP / "bench/peers/empty"
PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class Timed:
    """A command that has ended.

    Attributes:
        seconds: How long it took.
        rss_mb: The most memory that it had at any time, without what it started, in MB.
    """

    seconds: float
    output: str
    rss_mb: float


def timed(argv: Sequence[str], env: Mapping[str, str] | None = None, *, deadline: float = 600) -> Timed:
    """Run a command to its end.

    Args:
        argv: The command, run in the checkout's top folder.
        env: Added to its environment.
        deadline: Seconds.

    Raises:
        BenchError: It did not end with 0, or not in time.
    """
    with tempfile.TemporaryFile() as file:
        begun = time.perf_counter()
        process = subprocess.Popen(
            argv, cwd=TOP, env=environment(env or {}), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            rss_mb = _await(process, begun + deadline)
            seconds = time.perf_counter() - begun
        except BaseException:
            process.send_signal(signal.SIGINT)  # pytest cleans up
            process.wait(120)
            raise
        file.seek(0)
        output = file.read().decode(errors="replace")
    if process.returncode:
        raise BenchError(f"`{' '.join(argv)}` ended with {process.returncode}:\n{output[-3000:]}")
    return Timed(seconds, output, rss_mb)


def _await(process: subprocess.Popen[bytes], end: float) -> float:
    """Wait for a process; the most memory that it had by itself, in MB. What `wait4` says counts all it started."""
    peak, ended = 0.0, select.poll()
    handle = os.pidfd_open(process.pid)  # as `Popen.wait` with a limit looks only every 50 ms
    try:
        ended.register(handle, select.POLLIN)
        while time.perf_counter() < end:
            if ended.poll(100):
                process.wait()
                return peak
            found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
            peak = int(found[1]) / 1000 if found else peak
    finally:
        os.close(handle)
    raise BenchError("a command was not done in time")


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """This one's, but bytecode is kept: else each start would compile all of the suite, which no user's does."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | dict(more)


def start_of_pytest() -> float:
    """Seconds of pytest with the plugins that the suite uses, on one empty test."""
    return timed([*PYTEST, "-q", str(EMPTY)]).seconds
