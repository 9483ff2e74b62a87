"""The transcript of the real `pct`, as commands to be given again and answers to be compared."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent.parent / "data/pct"
# What differs from one machine or moment to another without being another answer.
VARYING = (
    (r"BC:24:11(:[0-9A-F]{2}){3}", "BC:24:11:xx:xx:xx"),
    (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\b", "TIME"),
    (r"\b(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ \d]\d \d\d:\d\d\b", "TIME"),
    (r"^snaptime: \d+$", "snaptime: TIME"),
    (r"\b(local-zfs|lxc-disks):", "STORAGE:"),
    (r"(attach\.c: lxc_attach_run_command): \d+", r"\1: LINE"),
    (r"\beth0@if\d+ +", "eth0@ifN "),
    (r"\s+$", ""),
)


@dataclass
class Entry:
    """A command of the transcript.

    Attributes:
        line: Its line in the transcript.
        words: What stands after `+ `.
        answer: What it printed, line by line.
        status: Its exit status; None where the transcript does not say.
        stdin: What it read.
        lines: All lines that belong to it, the end with the status included.
    """

    line: int
    words: str
    answer: list[str] = field(default_factory=list)
    status: int | None = None
    stdin: str = ""
    lines: set[int] = field(default_factory=set)

    def argv(self) -> list[str]:
        """The command as it was given; the transcript shows its words without quotes."""
        before, shell, line = self.words.partition(" sh -c ")
        if shell:
            return [*before.split(), "sh", "-c", line]
        before, option, text = self.words.partition(" --description ")
        return [*before.split(), *(["--description", text] if option else [])]

    def __str__(self) -> str:
        return f"line {self.line}: {self.words[:60]}"


@dataclass(frozen=True)
class Printed:
    """A file that the transcript shows between two commands.

    Attributes:
        name: Its name under /etc/pve/lxc.
        after: The line of the command that it was printed after.
        text: Its lines.
    """

    name: str
    after: int
    text: tuple[str, ...]


class Transcript:
    """The transcript, with what `left_out.json` says about it."""

    def __init__(self) -> None:
        self.lines = (DATA / "session.txt").read_text().splitlines()
        self.notes: dict[str, Any] = json.loads((DATA / "left_out.json").read_text())
        self.left_out = {line for note in self.notes["left_out"] for line in _span(note)}
        self.by_hand: dict[int, str] = {note["line"]: note["do"] for note in self.notes["by_hand"]}
        self.entries = list(self._entries())

    def _entries(self) -> Iterator[Entry]:
        entry: Entry | None = None
        for number, text in enumerate(self.lines, 1):
            if text.startswith("+ pct "):
                if entry:
                    yield entry
                words, given, _ = self._altered(number, text[2:]).partition(" (stdin as given)")
                entry = Entry(number, words, stdin="?" if given else "", lines={number})
            elif entry and (end := re.fullmatch(r"\[rc=(\d+).*\]", text)):
                entry.status = int(end.group(1))
                entry.lines.add(number)
                yield entry
                entry = None
            elif entry:
                entry.answer += [] if number in self.left_out else [self._altered(number, text)]
                entry.lines.add(number)
        if entry:
            yield entry

    def _altered(self, number: int, text: str) -> str:
        for note in self.notes["altered"]:
            if number in _span(note):
                text = text.replace(note["from"], note["to"])
        return text

    def to_replay(self) -> list[Entry]:
        """The commands that are given again, in their order."""
        last = _span(self.notes["last"])
        kept = [entry for entry in self.entries if entry.line not in self.left_out]
        for entry in kept:
            if entry.stdin:  # `cat` printed what it read
                entry.stdin = "".join(f"{line}\n" for line in entry.answer)
        return sorted(kept, key=lambda entry: entry.line in last)

    def files(self) -> list[Printed]:
        """The files that are shown between commands."""
        found = []
        for note in self.notes["files"]:
            span = _span(note)
            after = max(entry.line for entry in self.entries if entry.line < span.start)
            found.append(Printed(note["name"], after, tuple(self.lines[n - 1] for n in span)))
        return found

    def unaccounted(self) -> list[int]:
        """Lines that are neither replayed nor compared nor left out with a reason."""
        known = self.left_out | {line for note in self.notes["files"] for line in _span(note)}
        known |= {line for entry in self.entries for line in entry.lines}
        return [number for number in range(1, len(self.lines) + 1) if number not in known]


def _span(note: dict[str, str]) -> range:
    first, last = note["lines"].split("-")
    return range(int(first), int(last) + 1)


def normal(lines: list[str]) -> list[str]:
    """An answer without what varies, and without empty lines at its end."""
    text = "\n".join(lines)
    for pattern, instead in VARYING:
        text = re.sub(pattern, instead, text, flags=re.MULTILINE)
    return text.split("\n") if text else []
