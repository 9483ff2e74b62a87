"""A line of the table: what is measured, against what, and whether it is as good as it is to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.place import Place


class BenchError(Exception):
    """A line can't be measured."""


@dataclass(frozen=True)
class Figure:
    """A figure of a line, measured several times.

    Attributes:
        name: What it is.
        unit: Written behind it; empty for a ratio.
        at_most, at_least: What its median is to be; both None if it only stands beside the others.
    """

    name: str
    values: list[float]
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool:
        """Whether it is as good as it is to be."""
        middle = median(self.values)
        return (self.at_most is None or middle <= self.at_most) and (self.at_least is None or middle >= self.at_least)

    @property
    def target(self) -> str:
        """What it is to be, in words; empty if nothing."""
        bounds = ((self.at_most, "≤"), (self.at_least, "≥"))
        return " ".join(f"{sign} {bound:g}{self.unit}" for bound, sign in bounds if bound is not None)

    @property
    def spread(self) -> str:
        """The least and the most of what was measured, and how often."""
        if len(self.values) == 1:
            return "once"
        return f"{_number(min(self.values))}-{_number(max(self.values))}, {len(self.values)} times"

    def __str__(self) -> str:
        return f"{_number(median(self.values))}{self.unit}"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


@dataclass(frozen=True)
class Line:
    """A line of the table.

    Attributes:
        name: For `--only`.
        what, against: In words.
        measure: Measures it on a lab node.
    """

    name: str
    what: str
    against: str
    measure: Callable[[Place], list[Figure]]


@dataclass(frozen=True)
class Result:
    """What came of a line.

    Attributes:
        seconds: How long it took to measure.
        problem: Why it was not measured; empty if it was.
    """

    line: Line
    seconds: float
    figures: list[Figure] = field(default_factory=list)
    problem: str = ""

    @property
    def met(self) -> bool:
        """Whether it was measured and each of its figures is as good as it is to be."""
        return not self.problem and all(figure.met for figure in self.figures)
