"""The table: `python -m bench [--only NAME] [--runs N] [--write FILE]`, as root; `make bench` calls it.

It makes a lab node of its own, measures each line there, and ends with 1 if a line is not as good as it is to be.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import builds, checks, start
from bench.figures import BenchError, Figure, Line, Result
from bench.place import Place
from lab import vllm
from lab.__main__ import up
from lab.errors import LabError
from lab.machine import Machine
from tests.lab.harness import Lab

LINES: tuple[Line, ...] = (*start.LINES, *checks.LINES, *builds.LINES)


def measure(line: Line, place: Place) -> Result:
    """Measure one line, and say what came of it."""
    begun = time.monotonic()
    print(f"bench: {line.name}: {line.what}", file=sys.stderr, flush=True)
    figures, problem = list[Figure](), ""
    try:
        figures = line.measure(place)
    except (BenchError, LabError) as error:
        problem = str(error)
    result = Result(line, time.monotonic() - begun, figures, problem)
    for row in rows(result):
        print(row, flush=True)
    return result


def rows(result: Result) -> list[str]:
    """A line of the table, and one more for each further figure."""
    line = result.line
    if result.problem:
        return [f"| {line.what} | {line.against} | | not measured: {result.problem.splitlines()[-1]} | | |"]
    found = []
    for number, figure in enumerate(result.figures):
        what, against = (line.what, line.against) if not number else ("", "")
        verdict = ("met" if figure.met else "**missed**") if figure.target else ""
        found.append(f"| {what} | {against} | {figure.target} | {figure} {figure.name} | {figure.spread} | {verdict} |")
    return found


def page(results: Sequence[Result], load: float) -> str:
    """The table as a page in Markdown.

    Args:
        results: Its lines.
        load: How many processes wanted a core in the minutes before.
    """
    lines = [row for result in results for row in rows(result)]
    took = sum(result.seconds for result in results)
    table = "\n".join(lines)
    return f"""# How fast it is

{datetime.now(UTC):%Y-%m-%d}, in the lab, on {os.cpu_count()} cores with a load of {load:.1f} from elsewhere, Python
{platform.python_version()}. `make bench` renews this page; that took {took / 60:.0f} minutes. Figures are
medians of runs that alternate with the runs they are compared with.

| what | against | target | figure | spread | |
|---|---|---|---|---|---|
{table}

Rows without a target break down the rows above them. "Real call cost": each call of the lab's `pct` and `pvesh` burns
0.8 s of CPU, of `pvesm` 0.5 s, as the real Perl programs do; "lab cost": they answer in some 30 ms.

Retired targets: four nodes at once, because the lab's nodes share two cores; a dozen checks, `--verify` on the node and
`--collect-only` without pytest's start, because they measured little else; a full build in seconds, now a share.
"""


def main() -> int:
    """Measure; 1 if a line was missed or could not be measured."""
    parser = argparse.ArgumentParser(prog="bench", description="Measure how fast the suite is.")
    parser.add_argument("--only", metavar="NAME", action="append", help=f"of {', '.join(line.name for line in LINES)}")
    parser.add_argument("--runs", type=int, default=5, help="how often each figure is measured")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--node", default="pve-bench", metavar="NAME", help="the lab node, made and erased")
    parser.add_argument("--keep", action="store_true", help="take the node as it is, and leave it")
    words = parser.parse_args()
    if unknown := set(words.only or ()) - {line.name for line in LINES}:
        parser.error(f"--only: there is no {min(unknown)}")
    machine, load = Machine(words.node), os.getloadavg()[1]
    try:
        if not words.keep:
            machine.erase()
        up(machine)
        machine.serve_stand_in(vllm.made() / "registry")
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            place = Place(Lab(machine, Path(folder) / "reports"), Path(folder), words.runs)
            results = [measure(line, place) for line in LINES if not words.only or line.name in words.only]
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; nothing was written", file=sys.stderr)
        return 130
    finally:
        if not words.keep:
            machine.erase()
    if words.write:
        words.write.write_text(page(results, load))
    return 0 if all(result.met for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
