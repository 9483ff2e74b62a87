"""Runs of the suite that are ended with Ctrl-C, kill -9 or a loss of power, at given moments and at random ones.

`python -m tests.faults.kills [--no-moments] [--fast N] [--full N] [--seed S] [--results FILE] [--write FILE]`;
`make kills` writes docs/kills.md. Ctrl-C ends a loop early; its last run has to be green all the same. With
`--results` the tables tell of earlier runs too, and of those beside this one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lab.machine import Machine
from tests.faults import results
from tests.faults.__main__ import ready
from tests.faults.kill_loop import Loop
from tests.faults.moments import strike_all
from tests.faults.trial import GPUS, WORDS, declared

HEAD = """# What Ctrl-C, kill -9 and a loss of power leave

Written by `make kills`. Each run was ended, and the next one went on from there. After each end: 903 and what is not
ours are unchanged; there is at most one snapshot; it was taken of a stopped container, and all checks before sealing
had passed, as the record in it says; the record of the run says that it was aborted. One that was ended by Ctrl-C has
ended with 2 and has left nothing over. A run in between that failed has said what mends it, and that was done.
"""
FAST, FULL = "At random moments of fast runs", "At random moments of full builds"
GIVEN = """## At given moments

The stand-in serves. *power* ends the node with the suite on it; with *power of the node alone* the suite runs elsewhere
and has to end red by itself. Between stages the next run was tried once for each state that one way has left.
"""
ABOUT = {FAST: "The server is the stand-in for vLLM.", FULL: "920 is built from nothing, with the real vLLM."}


def text(found: list[dict[str, Any]]) -> str:
    """The whole page: the given moments, and a section for each kind of loop."""
    loops, strikes = [each for each in found if "title" in each], [each for each in found if "moment" in each]
    titles = [title for title in ABOUT if any(loop["title"] == title for loop in loops)]
    sections = [_section(title, [loop for loop in loops if loop["title"] == title]) for title in titles]
    return "\n".join([HEAD, *([_given(strikes)] if strikes else []), *sections])


def _given(strikes: list[dict[str, Any]]) -> str:
    """A row for each moment, as it came out last."""
    last = {(each["moment"], each["way"]): each for each in strikes}
    rows = ["| moment | ended by | left behind | next run | |", "|---|---|---|---|---|"]
    rows += [
        f"| {moment} | {way} | {each['state']} | {each['then']} | {'; '.join(each['wrong']) or 'as it must be'} |"
        for (moment, way), each in last.items()
    ]
    when = ", ".join(dict.fromkeys(each["occasion"] for each in last.values()))
    wrong = sum(bool(each["wrong"]) for each in last.values()) or "none"
    return "\n".join([GIVEN, f"{when}: {len(last)} ends, {wrong} not as it must be.", "", *rows, ""])


def _section(title: str, loops: list[dict[str, Any]]) -> str:
    kills = [kill for loop in loops for kill in loop["kills"]]
    rows = ["| ended in | ends | left behind | invariants |", "|---|---|---|---|"]
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
            f"{ABOUT[title]} {len(kills)} ends: {whats}. Runs in between that came to their end: "
            f"{', '.join(f'{outcome} {n}' for outcome, n in ended.most_common()) or 'none'}.",
            "",
            *(f"- {_about(loop)}" for loop in loops),
            "",
            *rows,
            "",
        ]
    )


def _about(loop: dict[str, Any]) -> str:
    last = "; ".join(loop["wrong"]) or f"{loop.get('last', 'green')}; nothing was left over"
    count, minutes = len(loop["kills"]), loop["seconds"] / 60
    return f"{loop['occasion']}, seed {loop['seed']}: {count} ends in {minutes:.0f} minutes. The last run: {last}."


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
        "last": loop.last,
    }


def _moments(machine: Machine) -> Iterator[dict[str, Any]]:
    """Strike at every given moment, on a fresh node."""
    with tempfile.TemporaryDirectory() as folder:
        strikes = strike_all(ready(machine, Path(folder), fresh=True))
        while True:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                found = next(strikes, None)
            if found is None:
                return
            said = f"WRONG: {'; '.join(found.wrong)}" if found.wrong else f"{found.state}, {found.then or 'not tried'}"
            print(printed.getvalue() if found.wrong else "", f"{found.moment}, {found.way}: {said}", sep="", flush=True)
            yield {**asdict(found), "occasion": results.occasion()}


def _all(machine: Machine, words: argparse.Namespace) -> Iterator[dict[str, Any]]:
    if words.moments:
        yield from _moments(machine)
    for title, count in ((FAST, words.fast), (FULL, words.full)):
        if count:
            yield _loop(machine, title, count, words.seed)


def main() -> int:
    """Do all of it."""
    parser = argparse.ArgumentParser(prog="kills", description="End runs of the suite, and see what that leaves.")
    parser.add_argument("--fast", type=int, default=200, help="kills with the stand-in for vLLM")
    parser.add_argument("--full", type=int, default=20, help="kills in builds from nothing with the real vLLM")
    parser.add_argument("--moments", action=argparse.BooleanOptionalAction, default=True, help="the given moments too")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--node", default="pve-kills", help="name of the lab node; erased at the end")
    parser.add_argument("--results", type=Path, metavar="FILE", help="loops that the table tells of too; added to")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables there")
    words = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background a shell lets it be ignored
    machine = Machine(words.node)
    print(f"seed {words.seed}", flush=True)
    found: list[dict[str, Any]] = []
    try:
        for each in _all(machine, words):
            found.append(each)
            if words.results:
                results.add(words.results, each)
    finally:
        machine.erase()
    page = text(results.read(words.results) if words.results else found)
    print(page)
    if words.write:
        words.write.write_text(page)
    return 1 if any(each["wrong"] or any(kill["broken"] for kill in each.get("kills", ())) for each in found) else 0


if __name__ == "__main__":
    sys.exit(main())
