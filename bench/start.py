"""How soon a run starts, and how soon it says that there is nothing to do."""

from __future__ import annotations

from bench.figures import Figure, Line
from bench.place import Place
from bench.timing import PYTEST, start_of_pytest, timed
from tests.lab.harness import STAND_IN


def collect(place: Place) -> list[Figure]:
    """`--collect-only`, by turns with the start of pytest."""
    command = [*PYTEST, "tests_920", "--collect-only", "-q"]
    pairs = [(timed(command).seconds, start_of_pytest()) for _ in range(place.runs)]
    return [
        Figure("of pytest's start", [own / empty for own, empty in pairs]),
        Figure("whole", [own for own, _ in pairs], " s"),
    ]


def existing(place: Place) -> list[Figure]:
    """A run on a template that is there, by turns with the start of pytest."""
    _ = place.template
    pairs = [(place.suite(*STAND_IN).seconds, start_of_pytest()) for _ in range(place.runs)]
    with place.real_cost():
        dear = [(place.suite(*STAND_IN).seconds, start_of_pytest()) for _ in range(place.runs)]
    found = place.calls()
    return [
        Figure("more than pytest's start, real call cost", [own - empty for own, empty in dear], " s", at_most=2),
        Figure("more, lab cost", [own - empty for own, empty in pairs], " s", at_most=0.8),
        Figure("calls that only read, all runs", [found.reading], at_most=0),
        Figure("`pct exec` a run", [found.inside / place.runs]),
    ]


LINES = (
    Line("collect", "`--collect-only`", "pytest on an empty test with the same plugins", collect),
    Line("existing", "second run (`existing`)", "pytest on an empty test with the same plugins", existing),
)
