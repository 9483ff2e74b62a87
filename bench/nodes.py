"""Many nodes in the time of one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Figure, Line
from bench.place import Place
from bench.timing import PYTEST, timed
from lab import vllm
from lab.__main__ import up
from lab.machine import Machine
from tests.lab.harness import STAND_IN, Lab

NODES = 4


@contextlib.contextmanager
def _several(place: Place) -> Iterator[list[Place]]:
    """So many nodes, each with a template; the first is the one that is there."""
    machines = [Machine(f"{place.name}-{number}") for number in range(2, NODES + 1)]
    try:
        places = [place]
        for machine in machines:
            machine.erase()
            up(machine)
            machine.serve_stand_in(vllm.made() / "registry")
            places.append(Place(Lab(machine, place.lab.reports), place.folder, place.runs))
        for each in places:
            _ = each.template
        yield places
    finally:
        for machine in machines:
            machine.erase()


def nodes(place: Place) -> list[Figure]:
    """`--verify` of four nodes at once, by turns with that of one."""
    with _several(place) as places:
        words = [f"--node=lab:{each.name}" for each in places]
        options = ["--override-ini=lxc_configs=lab/phoenix_lxc_configs.json", "-o", "test_model=/models/test-model"]
        reports = f"--override-ini=report_folder={place.lab.reports}"
        command = [*PYTEST, "tests_920", *options, reports, "-q", "--verify", *STAND_IN]
        ones, ratios, busy = [], [], []
        for _ in range(place.runs):
            ones.append(timed([*command, words[0]]).seconds)
            before = busy_seconds()
            many = timed([*command, *words, f"--parallel={NODES}"]).seconds
            ratios.append(many / ones[-1])
            busy.append(100 * (busy_seconds() - before) / many / (os.cpu_count() or 1))
    return [
        Figure("of one node's time", ratios, at_most=1.5),
        Figure("of all cores busy meanwhile, as the lab's nodes share them", busy, " %"),
        Figure("one", ones, " s"),
    ]


def busy_seconds() -> float:
    """Seconds that all cores together have worked since the machine was started (proc(5), /proc/stat)."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


LINES = (Line("nodes", "4 lab nodes at once, checks only (`--verify`)", "one node", nodes),)
