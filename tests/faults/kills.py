"""Kill loops: runs of the suite that are ended with kill -9 at random moments.

`python -m tests.faults.kills [--fast N] [--full N] [--seed S] [--results FILE] [--write FILE]`; `make kills` writes
docs/kills.md. Ctrl-C ends a loop early; its last run has to be green all the same. With `--results` the table tells
of the loops of earlier runs too, and of those beside this one.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lab.machine import Machine
from tests.faults import results
from tests.faults.__main__ import ready
from tests.faults.kill_loop import Loop
from tests.faults.trial import GPUS, WORDS, declared

HEAD = """# What kill -9 leaves

Written by `make kills`. Each run was ended at a random moment, the next one went on from there. After each kill: 903
and what is not ours are unchanged; there is at most one snapshot; it was taken of a stopped container, and all checks
before sealing had passed, as the record in it says; the record of the killed run says that it was aborted.
"""
FAST, FULL = "Fast parts", "Full builds"
ABOUT = {FAST: "The server is the stand-in for vLLM.", FULL: "920 is built from nothing, with the real vLLM."}


def text(loops: list[dict[str, Any]]) -> str:
    """The whole page: a section for each kind of loop."""
    titles = [title for title in ABOUT if any(loop["title"] == title for loop in loops)]
    return "\n".join([HEAD, *(_section(title, [loop for loop in loops if loop["title"] == title]) for title in titles)])


def _section(title: str, loops: list[dict[str, Any]]) -> str:
    kills = [kill for loop in loops for kill in loop["kills"]]
    rows = ["| killed in | kills | left behind | invariants |", "|---|---|---|---|"]
    for stage in dict.fromkeys(["before the first check", *(check.stage for check in declared(GPUS)), "the end"]):
        here = [kill for kill in kills if kill["stage"] == stage]
        if here:
            states = ", ".join(f"{state} {n}" for state, n in Counter(kill["state"] for kill in here).most_common())
            broken = [each for kill in here for each in kill["broken"]]
            rows.append(f"| {stage} | {len(here)} | {states} | {'; '.join(broken) or 'hold'} |")
    whats = ", ".join(f"{what} {n}" for what, n in Counter(kill["what"] for kill in kills).most_common())
    ended = sum((Counter(loop["ended"]) for loop in loops), Counter[str]())
    return "\n".join(
        [
            f"## {title}",
            "",
            f"{ABOUT[title]} {len(kills)} kills: {whats}. Runs in between that came to their end: "
            f"{', '.join(f'{outcome} {n}' for outcome, n in ended.most_common()) or 'none'}.",
            "",
            *(f"- {_about(loop)}" for loop in loops),
            "",
            *rows,
            "",
        ]
    )


def _about(loop: dict[str, Any]) -> str:
    last = "; ".join(loop["wrong"]) or "green, and nothing was left over"
    count, minutes = len(loop["kills"]), loop["seconds"] / 60
    return f"{loop['occasion']}, seed {loop['seed']}: {count} kills in {minutes:.0f} minutes. The last run: {last}."


def _loop(machine: Machine, title: str, kills: int, seed: int) -> dict[str, Any]:
    """Run one loop on a fresh node."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        lab = ready(machine, Path(folder), fresh=True)
        loop = Loop(lab, random.Random(seed), WORDS if title == FAST else (), full=title == FULL)
        try:
            loop.run(kills)
        except Exception as error:  # what came before it is to be told
            loop.wrong.append(f"the loop itself broke: {type(error).__name__}: {error}")
    return {
        "title": title,
        "seed": seed,
        "occasion": results.occasion(),
        "seconds": time.monotonic() - begun,
        "kills": [asdict(kill) for kill in loop.kills],
        "ended": loop.ended,
        "wrong": loop.wrong,
    }


def main() -> int:
    """Run both loops."""
    parser = argparse.ArgumentParser(prog="kills", description="Kill runs of the suite at random moments.")
    parser.add_argument("--fast", type=int, default=200, help="kills with the stand-in for vLLM")
    parser.add_argument("--full", type=int, default=20, help="kills in builds from nothing with the real vLLM")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--node", default="pve-kills", help="name of the lab node; erased at the end")
    parser.add_argument("--results", type=Path, metavar="FILE", help="loops that the table tells of too; added to")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables there")
    words = parser.parse_args()
    machine = Machine(words.node)
    print(f"seed {words.seed}", flush=True)
    loops: list[dict[str, Any]] = []
    try:
        for title, count in ((FAST, words.fast), (FULL, words.full)):
            if count:
                loops.append(_loop(machine, title, count, words.seed))
                if words.results:
                    results.add(words.results, loops[-1])
    finally:
        machine.erase()
    page = text(results.read(words.results) if words.results else loops)
    print(page)
    if words.write:
        words.write.write_text(page)
    return 1 if any(loop["wrong"] or any(kill["broken"] for kill in loop["kills"]) for loop in loops) else 0


if __name__ == "__main__":
    sys.exit(main())
