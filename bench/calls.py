"""What a run calls of Proxmox VE's Perl programs, as the lab's node has noted it, by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

READS = ("config", "exec", "get", "list", "listsnapshot", "path", "status")  # verbs that change nothing
LINK = ("pct", "exec")  # the way into a container, and the question whether it has booted


@dataclass(frozen=True)
class Calls:
    """The calls of one run, each with all of its words."""

    lines: tuple[str, ...]

    @property
    def kinds(self) -> Counter[tuple[str, ...]]:
        """How often each program was called with each verb."""
        return Counter(tuple(line.split()[:2]) for line in self.lines)

    @property
    def reading(self) -> int:
        """How many only read, beside those into a container."""
        return sum(number for kind, number in self.kinds.items() if kind[1:] and kind[1] in READS and kind != LINK)

    @property
    def inside(self) -> int:
        """How many lead into a container."""
        return self.kinds[LINK]

    @property
    def changing(self) -> str:
        """Those that change something, by name and number."""
        changes = ((kind, number) for kind, number in sorted(self.kinds.items()) if kind[1:] and kind[1] not in READS)
        return ", ".join(f"{' '.join(kind)}{f' ({number})' * (number > 1)}" for kind, number in changes)

    @property
    def most(self) -> int:
        """How often the change was asked for that was asked for most often, with the same words."""
        again = Counter(line for line in self.lines if line.split()[1:2] and line.split()[1] not in READS)
        return max(again.values(), default=0)


def of(lines: Iterable[str]) -> Calls:
    """The calls in the lines of the lab's note."""
    return Calls(tuple(line for line in lines if line.strip()))
