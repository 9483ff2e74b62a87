"""A campaign: many trials, each by itself, in the background if wished, resumed where it stopped.

`make kills` and `make faults` are two. The first process only supervises: it starts one worker for each lab node in a
mount namespace of its own, as the workers keep their nodes' disks on a file system that nobody else needs to see.
Workers claim trials one by one and add each result to the state file at once.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults import results
from tests.faults.grounds import Grounds
from tests.lab.harness import Lab

Facts = dict[str, Any]
STOP_GRACE = 300  # seconds for the trial that is running to clean up


@dataclass(frozen=True)
class Campaign:
    """What is tried.

    Attributes:
        name: Name of the make target; `tests.faults.NAME` is its module.
        module: The module that `python -m` runs.
        trials: Ids of all trials, in order.
        run: Runs one trial; gives its facts, among them `wrong`: a list of what is not as expected.
        page: The table, as Markdown.
        furnish: Puts more on the node before anything is tried.
    """

    name: str
    module: str
    trials: Sequence[str]
    run: Callable[[Grounds, str, list[Facts]], Facts]
    page: Callable[[list[Facts]], str]
    furnish: Callable[[Lab], None] | None = None


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """The options that all campaigns have."""
    made = argparse.ArgumentParser(prog=name, description=description)
    made.add_argument("--only", metavar="TEXT", action="append", help="only trials whose id contains TEXT; repeatable")
    made.add_argument("--again", action="store_true", help="repeat trials that the state file already has")
    made.add_argument("--wrong", action="store_true", help="repeat the trials that were not as expected")
    made.add_argument("--sample", type=float, metavar="MINUTES", help="trials in the order of the seed, for so long")
    made.add_argument("--seed", type=int, default=920, help="of the sample and of random moments")
    made.add_argument("--state", type=Path, metavar="FILE", help="state file; by default in the cache, by content")
    made.add_argument("--write", type=Path, metavar="FILE", help="write the table there")
    made.add_argument("--background", action="store_true", help="detach; log, pid and state file lie side by side")
    made.add_argument("--status", action="store_true", help="say how far it has come, and start nothing")
    made.add_argument("--stop", action="store_true", help="end the one in the background, in order")
    made.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="lab nodes at once")
    made.add_argument("--node", default=f"pve-{name}", help="name of the lab nodes, which get a number each")
    made.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    made.add_argument("--claims", type=Path, help=argparse.SUPPRESS)
    made.add_argument("--until", type=float, help=argparse.SUPPRESS)
    return made


def state_file(name: str, words: argparse.Namespace) -> Path:
    """The state file of this content, or the one that is named; a sample has its own."""
    sample = f"-sample-{words.seed}" if words.sample else ""
    return Path(words.state or results.folder() / f"{name}{sample}-{results.content_key()}.jsonl").absolute()


def chosen(campaign: Campaign, words: argparse.Namespace, found: list[Facts]) -> list[str]:
    """The trials that are still to be run, in order."""
    trials = [each for each in campaign.trials if not words.only or any(text in each for text in words.only)]
    if words.sample:
        trials = random.Random(words.seed).sample(trials, len(trials))
    done = {facts["id"] for facts in found if not (words.wrong and facts["wrong"])}
    return trials if words.again else [each for each in trials if each not in done]


def main(campaign: Campaign, words: argparse.Namespace) -> int:
    """Do what the command line says."""
    state = state_file(campaign.name, words)
    if words.worker is not None:
        return _work(campaign, words, state)
    held = state.with_name(f"{state.stem}-{words.node}.pid")
    if words.status or words.stop:
        return _status(campaign, words, state, held, stop=words.stop)
    trials = chosen(campaign, words, results.read(state))
    if words.background and trials:
        return _detach(campaign, state, _pid(held))
    with alone(words.node, held) as free:
        if not free:
            return 1
        if trials:
            _supervise(campaign, words, state)
    return _tell(campaign, words, state)


def _tell(campaign: Campaign, words: argparse.Namespace, state: Path) -> int:
    found = results.read(state)
    if found and words.write:
        words.write.write_text(campaign.page(found), encoding="utf-8")
    wrong = [facts for facts in found if facts["wrong"]]
    print(
        _sum(campaign, words, found), *(f"WRONG {each['id']}: {'; '.join(each['wrong'])}" for each in wrong), sep="\n"
    )
    return 1 if wrong else 0


def _sum(campaign: Campaign, words: argparse.Namespace, found: list[Facts]) -> str:
    spent = sum(facts["seconds"] for facts in found)
    left, wrong = len(chosen(campaign, words, found)), sum(bool(facts["wrong"]) for facts in found)
    came = f"{wrong} unexpected" if wrong else "all as expected"
    rest = spent / len(found) * left / words.jobs if found else 0
    return (
        f"{campaign.name}: {len(found)} trials done, {left} left, {came}; "
        f"{spent / 60:.0f} minutes of trials, about {rest / 60:.0f} minutes left with {words.jobs} lab nodes"
    )


def _pid(held: Path) -> int:
    """The process that runs this campaign; 0 if none does."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(held.read_text())
        if b"tests.faults" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    return 0


def _status(campaign: Campaign, words: argparse.Namespace, state: Path, held: Path, *, stop: bool) -> int:
    pid = _pid(held)
    if stop and pid:
        os.kill(pid, signal.SIGINT)
    print(f"{'stopping' if stop and pid else 'running' if pid else 'not running'}, process {pid or 'none'}")
    print(f"state {state}\nlog {state.with_suffix('.log')}")
    _tell(campaign, words, state)
    return 0 if pid else 3


def _detach(campaign: Campaign, state: Path, running: int) -> int:
    if running:
        print(f"{campaign.name} runs already, as process {running}", file=sys.stderr)
        return 1
    log = state.with_suffix(".log")
    words = [word for word in sys.argv[1:] if word != "--background"]
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", campaign.module, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    print(f"{campaign.name} runs as process {process.pid}; log {log}; state {state}")
    return 0


@contextlib.contextmanager
def alone(node: str, held: Path) -> Iterator[bool]:
    """One campaign at a time on nodes of this name."""
    with (results.folder() / f"{node}.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            print(f"another one uses the lab nodes {node}: process {lock.read().strip() or '?'}", file=sys.stderr)
            yield False
            return
        lock.truncate(0)
        for file in (lock, held.open("w")):
            file.write(f"{os.getpid()}\n")
            file.flush()
        try:
            yield True
        finally:
            held.unlink(missing_ok=True)


def _supervise(campaign: Campaign, words: argparse.Namespace, state: Path) -> None:
    """Start the workers, and wait for them; an interrupt is theirs to clean up after."""
    spent = sum(facts["seconds"] for facts in results.read(state)) / words.jobs
    until = time.time() + words.sample * 60 - spent if words.sample else 0
    own = ["unshare", "--mount", "--propagation", "private", sys.executable, "-u", "-m", campaign.module]
    with tempfile.TemporaryDirectory() as claims:
        more = ["--state", str(state), "--claims", claims, "--until", str(until)]
        commands = [[*own, *sys.argv[1:], *more, "--worker", str(number)] for number in range(words.jobs)]
        # in sessions of their own: a Ctrl-C at the terminal comes once, from here
        workers = [subprocess.Popen(each, stdin=subprocess.DEVNULL, start_new_session=True) for each in commands]

        def stop(*_: object) -> None:
            for worker in workers:
                with contextlib.suppress(ProcessLookupError):
                    worker.send_signal(signal.SIGINT)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, stop)
        for which, worker in enumerate(workers):
            if status := worker.wait():
                print(f"worker {which} ended with {status}", file=sys.stderr, flush=True)


def _work(campaign: Campaign, words: argparse.Namespace, state: Path) -> int:
    """Run trials until none is left, on one lab node."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background a shell lets it be ignored
    trials = chosen(campaign, words, results.read(state))
    try:
        with Grounds(f"{words.node}-{words.worker}", campaign.furnish) as grounds:
            for number, trial in enumerate(trials, 1):
                if words.until and time.time() > words.until:
                    break
                with contextlib.suppress(FileExistsError):
                    (words.claims / str(number)).touch(exist_ok=False)
                    results.add(state, _one(campaign, grounds, trial, f"{number}/{len(trials)}", state))
    except KeyboardInterrupt:
        return 130
    return 0


def _one(campaign: Campaign, grounds: Grounds, trial: str, number: str, state: Path) -> Facts:
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as printed, contextlib.redirect_stdout(printed):
        try:
            facts = campaign.run(grounds, trial, results.read(state))
        except Exception as error:  # the others are to be tried all the same
            facts = {"wrong": [f"{type(error).__name__}: {error}"], "broke": True}
            grounds.spoil()
        printed.seek(0)
        said = printed.read()
    facts |= {"id": trial, "seconds": round(time.monotonic() - begun, 1), "occasion": results.occasion()}
    words = f"WRONG: {'; '.join(facts['wrong'])}" if facts["wrong"] else facts.get("said", "as expected")
    print(f"{said if facts['wrong'] else ''}{number} {trial}: {facts['seconds']} s, {words}", flush=True)
    return facts
