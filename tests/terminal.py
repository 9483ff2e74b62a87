"""A program on a terminal, and what a person sees there."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyte

ROWS, COLUMNS = 60, 120


@dataclass
class Seen:
    """What was seen.

    Attributes:
        status: The program's exit status.
        frames: The screen each time that it had changed and a moment had passed.
        history: Everything that is on the screen at the end or has scrolled out of it.
    """

    status: int = -1
    frames: list[str] = field(default_factory=list)
    history: str = ""


def watch(argv: Sequence[str], env: Mapping[str, str], cwd: Path, seconds: float, rows: int = ROWS) -> Seen:
    """Run a program on a terminal to its end, looking ten times a second."""
    screen = pyte.HistoryScreen(COLUMNS, rows, history=10000, ratio=0.5)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, COLUMNS, 0, 0))
    process = subprocess.Popen(argv, env=env, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True)
    os.close(theirs)
    seen, end = Seen(), time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    stream.feed(os.read(ours, 65536))
                except OSError:  # the program has closed its side
                    break
            frame = "\n".join(line.rstrip() for line in screen.display).rstrip()
            if not seen.frames or seen.frames[-1] != frame:
                seen.frames.append(frame)
        seen.status = process.wait(timeout=10)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    top = ["".join(line[column].data for column in range(COLUMNS)).rstrip() for line in screen.history.top]
    seen.history = "\n".join([*top, *(line.rstrip() for line in screen.display)])
    return seen
