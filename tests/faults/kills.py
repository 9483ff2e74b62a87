"""Runs of the suite that are ended at given moments and at random ones; `make kills` writes docs/kills.md.

`python -m tests.faults.kills [--only TEXT] [--sample MINUTES --seed N] [--background | --status | --stop]
[--write FILE]`: see `tests.faults.campaign`. A second call resumes. Exits with 1 if something was not as expected.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections import Counter
from dataclasses import asdict

from tests.faults import campaign, invariants
from tests.faults.campaign import Campaign, Facts
from tests.faults.fault import Ground
from tests.faults.grounds import Grounds
from tests.faults.invariants import Watch
from tests.faults.moments import (
    AWAY,
    BOUNDARIES,
    CLONING,
    CTRL_C,
    FIRST,
    KILL,
    KILL_ALL,
    POWER,
    REBUILDS,
    SIGHUP,
    SIGTERM,
    Moment,
    go_on,
    strike,
)
from tests.faults.random_ends import chain, ground_of, pace

RANDOM = 40  # trials at random moments
HEAD = """# Killed runs

`make kills` writes this page. Each trial starts from a saved disk of the lab node, ends a run of the suite at a given
or a random moment, and starts the next run. A stand-in replaces vLLM's server. After each kill and after the next run:

- 903 and everything else that the suite did not make is unchanged, by metadata and change time of every file.
- During a rebuild a complete accepted snapshot exists, under the declared name or as its generation. This is checked
  at each command that changes the node, and right after the end.
- No snapshot was accepted without all checks passed, as its record shows.
- A run that receives a signal (Ctrl-C, SIGTERM, SIGHUP) exits with 2 after removing what it started.
- The next run without options completes, finds 920 existing, or refuses with commands. These were run, and the run
  after them was green.
- There are no leftovers after that: containers, volumes, snapshots that only storage or configuration knows, locks,
  Docker containers, processes, task records.
"""
WAYS_ABOUT = """*power* cuts the power of node and suite. With *power of the node alone* the suite runs elsewhere
and must fail by itself. Between stages, the next run was tried once for each state.
"""
SECTIONS = {
    "rebuild": "Inside the sealing of a rebuild",
    "build": "Inside the sealing of a first build",
    "clone": "While a container is cloned",
    "stage": "Between stages",
}


def _given() -> dict[str, tuple[Moment, str]]:
    """The given moments with each way, by id; the most telling first."""
    ways = (KILL, POWER, KILL_ALL, SIGHUP, CTRL_C, SIGTERM, AWAY)
    found = {f"rebuild: {moment.name}; {way}": (moment, way) for way in ways[:4] for moment in REBUILDS}
    found |= {f"clone: {moment.name}; {way}": (moment, way) for way in ways[:5] for moment in CLONING}
    found |= {f"stage: {moment.name}; {way}": (moment, way) for way in (*ways[:2], *ways[3:6]) for moment in BOUNDARIES}
    found |= {f"rebuild: {moment.name}; {way}": (moment, way) for way in ways[4:] for moment in REBUILDS}
    found |= {f"build: {moment.name}; {way}": (moment, way) for way in (KILL, POWER) for moment in FIRST}
    return found


GIVEN = _given()


def try_one(grounds: Grounds, trial: str, found: list[Facts]) -> Facts:
    """Run one trial."""
    if trial not in GIVEN:
        chance = random.Random(trial)
        lab = grounds.use(ground_of(chance), fresh=True)
        ended = chain(lab, chance, pace())
        grounds.spoil()
        said = " | ".join(f"{end['way']} in {end['stage']}: {end['state']}" for end in ended.ends)
        return {**asdict(ended), "said": f"{said} | {ended.then}"}
    moment, way = GIVEN[trial]
    lab = grounds.use(moment.ground, fresh=moment.ground is not Ground.ACCEPTED)
    watch = Watch(lab, rebuilds=moment.ground is Ground.ACCEPTED)
    done = strike(lab, moment, way, watch)
    tried = {(facts.get("way"), facts.get("state")) for facts in found if facts.get("then")}
    if not trial.startswith("stage: ") or (way, done.state) not in tried:
        go_on(lab, done, watch, *(() if moment.clones else ("--no-clone",)))
    if done.wrong:
        grounds.spoil()
    return {**asdict(done), "said": f"{done.state}, {done.then or 'next run not tried'}"}


def text(found: list[Facts]) -> str:
    """The whole page."""
    wrong = sum(bool(facts["wrong"]) for facts in found)
    ends = sum(len(facts.get("ends", [1])) for facts in found)
    minutes = sum(facts["seconds"] for facts in found) / 60
    occasions = ", ".join(f"{n} on {when}" for when, n in Counter(facts["occasion"] for facts in found).most_common())
    every = len(GIVEN) + RANDOM
    came = f"{wrong} unexpected" if wrong else "all as expected"
    said = f"{len(found)} trials of {every} with {ends} ends, {came}; {minutes:.0f} minutes of trials. {occasions}."
    parts = [HEAD, said, "", WAYS_ABOUT]
    for kind, title in SECTIONS.items():
        here = [facts for facts in found if facts["id"].startswith(f"{kind}: ")]
        parts += [f"## {title}", "", *_rows(here), ""] if here else []
    chains = [facts for facts in found if facts["id"] not in GIVEN]
    return "\n".join([*parts, *(_random(chains) if chains else [])])


def _rows(found: list[Facts]) -> list[str]:
    order = {trial: number for number, trial in enumerate(sorted(GIVEN, key=_moments_order))}
    rows = ["| moment | ended by | left behind | next run | |", "|---|---|---|---|---|"]
    for facts in sorted(found, key=lambda facts: order.get(facts["id"], 0)):
        moment, _, way = facts["id"].partition(": ")[2].rpartition("; ")
        rows.append(_row(moment, way, facts.get("state", ""), facts.get("then", ""), _verdict(facts)))
    return rows


def _moments_order(trial: str) -> int:
    moments = list(dict.fromkeys(each.rpartition("; ")[0] for each in GIVEN))
    return moments.index(trial.rpartition("; ")[0])


def _verdict(facts: Facts) -> str:
    return "; ".join(facts["wrong"]).replace("\n", " ")[:400] or "as expected"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _random(found: list[Facts]) -> list[str]:
    ends = [end for facts in found for end in facts.get("ends", [])]
    ways = ", ".join(f"{way} {n}" for way, n in Counter(end["way"] for end in ends).most_common())
    rows = ["| stage | ends | left behind |", "|---|---|---|"]
    for stage in dict.fromkeys(end["stage"] for end in sorted(ends, key=lambda end: _stages().index(end["stage"]))):
        states = Counter(end["state"] for end in ends if end["stage"] == stage)
        rows.append(_row(stage, str(states.total()), ", ".join(f"{state} {n}" for state, n in states.most_common())))
    last = ", ".join(f"{then} {n}" for then, n in Counter(facts.get("then", "none") for facts in found).most_common())
    wrong = [f"- **{facts['id']}**: {_verdict(facts)}" for facts in found if facts["wrong"]]
    about = f"{len(found)} trials of one to three ends: {ways}. The last run of each: {last}."
    return ["## At random moments", "", about, "", *rows, "", *wrong, *([""] if wrong else [])]


def _stages() -> list[str]:
    names = [moment.name.removeprefix("before the stage ") for moment in BOUNDARIES]
    return ["before the first check", *names, "the end"]


def main() -> int:
    """Do all of it."""
    words = campaign.parser("kills", "End runs of the suite, and see what that leaves.").parse_args()
    given = list(GIVEN)
    first = next(number for number, trial in enumerate(given) if trial.startswith("stage"))
    trials = [*given[:first], *(f"random {words.seed}.{number}" for number in range(1, RANDOM + 1)), *given[first:]]
    return campaign.main(Campaign("kills", "tests.faults.kills", trials, try_one, text, invariants.put), words)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
