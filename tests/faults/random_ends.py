"""Runs that are ended at random moments: up to three one after the other, then one that is let be.

Everything of a trial, its ground, the runs' words, the ways and the moments, comes from its seed.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from tests.faults.fault import Ground
from tests.faults.grounds import ready
from tests.faults.invariants import Watch, await_quiet, leftovers, record_since
from tests.faults.moments import KILL, KILL_ALL, KILL_COMMANDS, POWER, SIGNALS, Strike, go_on
from tests.faults.trial import GPUS, WORDS, declared, state, state_of
from tests.lab.harness import Lab

IDLE = 0.3  # seconds that it takes then
WAYS = (*SIGNALS, KILL, KILL_ALL, POWER)
REBUILD, VERIFY = ("--rebuild",), ("--verify",)


@dataclass
class Chain:
    """What came of one trial.

    Attributes:
        ends: What each run was ended by, in which stage, and the state that this left.
        then: What the last run came to.
    """

    ends: list[dict[str, str]] = field(default_factory=list)
    then: str = ""
    fixes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def ground_of(chance: random.Random) -> Ground:
    """What there is of 920 in the beginning."""
    return chance.choices((Ground.NONE, Ground.CLONE, Ground.SEALED, Ground.ACCEPTED), (1, 2, 1, 6))[0]


def chain(lab: Lab, chance: random.Random, pace: float) -> Chain:
    """End up to three runs, and let the next one go on.

    Args:
        lab: On its ground.
        chance: The trial's own.
        pace: How much longer than alone a run takes now.
    """
    found, accepted = Chain(), state_of(lab) == "accepted"
    watch, left = Watch(lab, rebuilds=accepted), list[str]()
    for _ in range(chance.choices((1, 2, 3), (6, 3, 1))[0]):
        words: tuple[str, ...] = ()
        if state_of(lab) == "accepted":
            words = chance.choices((REBUILD, (), VERIFY), (8, 1, 1))[0]
        longest = 2.0 if state_of(lab) == "accepted" and words != REBUILD else 14.0
        if words != VERIFY:
            words += ("--no-clone",) if chance.random() < 0.75 else ()
        _end_one(lab, chance, watch, found, words, seconds=chance.uniform(0.3, longest) * pace, left=left)
        left = leftovers(lab, ended=False)
    strike = Strike("", "", wrong=found.wrong)
    go_on(lab, strike, watch, "--no-clone")
    found.then, found.fixes = strike.then, strike.fixes
    return found


def _end_one(
    lab: Lab,
    chance: random.Random,
    watch: Watch,
    found: Chain,
    words: tuple[str, ...],
    *,
    seconds: float,
    left: list[str],
) -> None:
    way, before = chance.choice(WAYS), set(lab.reports.iterdir())
    process = lab.start(*WORDS, *words)
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        output = _end(lab, process, way)
        watch.listen(anew=False)
    else:
        way = "by itself"
    found.wrong += await_quiet(lab)
    record = record_since(lab, before)
    if record and record["finished"] and record["outcome"] != "aborted":  # struck while Python ended
        way = "by itself"
    broken = watch.broken(None if way == "by itself" else record)
    begun = record and any(each["verdict"] != "not run" for each in record["checks"])
    if way in SIGNALS and begun:
        broken += [f"it ended with {process.returncode}"] if process.returncode != 2 else []
        broken += [f"left over: {each}" for each in leftovers(lab, ended=False) if each not in left]
    stage = stage_of(record)
    if broken:
        print(output)
    found.wrong += [f"{way} in {stage} after {seconds:.1f} s: {each}" for each in broken]
    found.ends.append({"way": way, "stage": stage, "words": " ".join(words), "state": state(lab)})


def _end(lab: Lab, process: subprocess.Popen[str], way: str) -> str:
    process.send_signal(SIGNALS.get(way, signal.SIGKILL))
    if way == KILL_ALL:
        lab.node("sh", "-c", KILL_COMMANDS)
    if way == POWER:
        lab.machine.power_off()
        ready(lab.machine, lab.reports, fresh=False)
    output, _ = process.communicate(timeout=240)  # in order it removes what it has started
    return output


def stage_of(record: dict[str, Any] | None) -> str:
    """The stage that was going on when a record was last written."""
    if record is None:
        return "before the first check"
    done = {each["name"] for each in record["checks"] if each["verdict"] != "not run"}
    return next((check.stage for check in declared(GPUS) if check.name not in done), "the end")


def pace() -> float:
    """How much slower the machine is now than when it is idle, by the time that pytest takes to start."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-m", "pytest", "--version"], capture_output=True, timeout=60, check=False)
    return min(max((time.monotonic() - begun) / IDLE, 1.0), 5.0)
