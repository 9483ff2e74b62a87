"""Where the time of a run went, by what it left: its record and its commands."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from fixtures.proxmox import docker
from fixtures.record.model import CommandEntry, Record, read
from fixtures.run.stages import CheckResult

Span = tuple[float, float]  # beginning and end, in seconds since 1970
BOOTED = ["systemctl", "is-system-running"]
# the checks that ask a server more than its first answer
ASKING = (
    *("server_answers", "server_is_measured", "gpu_is_healthy_under_load", "server_scores_its_answers"),
    *("all_gpus_serve_together", "all_gpus_answer_as_one_does", "clone_serves"),
)
TAKEN = ("shut down", "was taken", "started again")  # in the sentences of the three steps that the seed takes too


class Run:
    """A run that has ended.

    Attributes:
        record: Its record.
        commands: Its commands, in the order in which they began.
    """

    def __init__(self, folder: Path) -> None:
        self.record: Record = read(folder / "record.json")
        lines = (folder / "commands.jsonl").read_text().splitlines()
        self.commands = sorted((CommandEntry(**json.loads(line)) for line in lines), key=lambda each: each.started)

    def check(self, name: str) -> CheckResult:
        """A check by the end of its name."""
        return next(each for each in self.record.checks if each.name.endswith(f"::{name}"))

    def steps(self) -> dict[str, float]:
        """Seconds of each of the seed's steps, and of no other: with one server, though the run starts more."""
        first, last = self.check("test_systemd_is_healthy"), self.check("test_image_is_pulled")
        ready, answers = self.check("test_server_gets_ready[gpu0]"), self.check("test_server_answers[gpu0]")
        after = [each for each in self.commands if each.started > answers.started]
        removal = next(each for each in after if _removes_server(each))
        sealing = [each.seconds for each in self.record.checks if any(word in each.title for word in TAKEN)]
        return {
            "inherited stack and pull": last.started + last.seconds - first.started,
            "server ready": ready.seconds,
            "answer": answers.seconds,
            "stop and remove": removal.seconds,
            "shut down, snapshot, start": sum(sealing),
        }

    def outside(self) -> float:
        """Seconds in which the run waited for what only the outside needs: containers and servers that come and go."""
        return covered([*self._containers(), *self._servers()])

    def outside_or_asking(self) -> float:
        """The same, and seconds in which a command went on, or a server was asked, for a check."""
        commands = [(each.started, each.started + each.seconds) for each in self.commands]
        asked = [each for each in self.record.checks if each.name.partition("[")[0].endswith(ASKING)]
        checks = [(each.started, each.started + each.seconds) for each in asked]
        return covered([*self._containers(), *self._servers(), *commands, *checks])

    def _containers(self) -> Iterator[Span]:
        """Each copy, start with its boot, shutdown, snapshot and removal."""
        for number, each in enumerate(self.commands):
            if each.argv[:1] != ["pct"] or each.argv[1] not in ("clone", "start", "shutdown", "snapshot", "destroy"):
                continue
            end = each.started + each.seconds
            if each.argv[1] == "start":
                boot = (other for other in self.commands[number:] if other.argv[-2:] == BOOTED)
                end = next((other.started + other.seconds for other in boot if not other.exit_status), end)
            yield each.started, end

    def _servers(self) -> Iterator[Span]:
        """Each server from its `docker run` to its first answer, and its stop."""
        answered = [one.answered or 0.0 for one in self.record.served]
        answered += [float(self.record.clone.get("first_answer_seconds") or 0.0)]
        runs = [each for each in self.commands if _is(each, "docker", "run") and "--detach" in each.argv]
        for run, seconds in zip(runs, answered, strict=False):
            yield run.started, run.started + seconds
        for each in self.commands:
            if _removes_server(each):
                yield each.started, each.started + each.seconds


def _is(entry: CommandEntry, *words: str) -> bool:
    argv = entry.argv
    return any(tuple(argv[number : number + len(words)]) == words for number in range(len(argv)))


def _removes_server(entry: CommandEntry) -> bool:
    return docker.REMOVE in entry.argv


def covered(spans: Iterable[Span]) -> float:
    """Seconds that lie in any of the spans, each once."""
    total, reached = 0.0, 0.0
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
