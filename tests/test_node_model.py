"""A model of a node, on which runs of the suite and other people work at the same time, and commands fail.

Hypothesis makes up what happens: which runs there are, what fails in them and how, and what others do between any two
of their commands. Whatever it is, no run may change what is not the suite's, be without an accepted snapshot once there
was one, change something on a fact that it could not read, or report as accepted what it has not made.

`make test` runs some hundred examples; `make model` runs 5,000.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from fixtures.proxmox import conf
from tests.model.hands import HANDS, fresh
from tests.model.node import CHANGES, ModelNode
from tests.model.run import SuiteRun

FAULTS = (
    *("refused", "half", "torn", "slow", "garbled", "empty", "hollow", "cut"),
    *("lost", "lost after", "late", "late after", "killed", "killed after", "interrupted", "interrupted after"),
)
READINGS = (
    *("conf", "files", "sockets", "zfs", "storages", "exec"),
    *("read_record", "keep_record", "read_generations", "write_generation", "told", "stored", "volumes", "active"),
)
ALWAYS = -1
# When something happens: before a command that is counted, or before the first or second one of a kind, or each one
WHEN = st.one_of(
    st.tuples(st.just(""), st.integers(0, 139)),
    st.tuples(st.sampled_from(CHANGES), st.integers(0, 1)),
    st.tuples(st.sampled_from(READINGS), st.integers(ALWAYS, 3)),
)
PLANS = st.lists(st.tuples(WHEN, st.sampled_from(FAULTS) | st.sampled_from(sorted(HANDS))), min_size=1, max_size=4)
MODES = ("rebuild", "plain", "rebuild-clone", "accept", "accept and keep", "verify", "verify-parent", "rebuild")
COMMON = settings(
    deadline=None,
    derandomize=True,
    database=None,
    stateful_step_count=8,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
    report_multiple_bugs=False,
)
PROFILES = {  # to shrink an example takes minutes
    "short": settings(COMMON, max_examples=300, phases=(Phase.generate,)),
    "long": settings(COMMON, max_examples=5000, phases=(Phase.generate,)),
    "shrink": settings(COMMON, max_examples=5000),
}
PROFILE = PROFILES[os.environ.get("HYPOTHESIS_PROFILE", "short")]


@pytest.fixture(scope="module", autouse=True)
def _texts_parsed_once() -> Iterator[None]:
    """Nobody changes what comes of a configuration's text, and to parse it each time is a fifth of all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conf, "parse", lru_cache(1024)(conf.parse))
        yield


class Violation(AssertionError):  # noqa: N818 - what was seen
    """A run did what it must not; each kind of it is a class of its own, so that Hypothesis tells them apart."""


KINDS: dict[str, type[Violation]] = {}


def violation(text: str) -> Violation:
    """What is raised for it."""
    what = text.partition("\n")[0].partition(" (")[0]
    kind = KINDS.setdefault(what, type("".join(char if char.isalnum() else "_" for char in what), (Violation,), {}))
    return kind(f"\n{text}")


class Plan:
    """What happens before which command of a run."""

    def __init__(self, node: ModelNode, steps: list[tuple[tuple[str, int], str]]) -> None:
        self.node, self.steps = node, steps
        self.seen: dict[str, int] = {}

    def before(self, kind: str) -> str:
        """Let others act before a command, and say how it fails."""
        fault = ""
        for (wanted, number), what in self.steps:
            if wanted not in ("", kind) or number not in (self.seen.get(wanted, 0), ALWAYS):
                continue
            if what not in HANDS:
                fault = what
            elif number != ALWAYS or not self.seen.get(wanted):
                self.node.trace.append(f"    somebody {what.replace('_', ' ')}")
                self.node.by_others(HANDS[what])
        for each in ("", kind):
            self.seen[each] = self.seen.get(each, 0) + 1
        return fault


class NodeMachine(RuleBasedStateMachine):
    """A node, the runs on it one after the other, and what others do meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.node = fresh()

    @initialize(start=st.sampled_from(("an accepted template", "nothing", "made_as_declared", "made_otherwise")))
    def begin(self, start: str) -> None:
        if start == "an accepted template":
            assert SuiteRun(self.node, "plain").to_its_end() == "accepted", self.node.trace
        elif start != "nothing":
            HANDS[start.replace("made_", "makes_it_anew_")](self.node)

    @rule(mode=st.sampled_from(MODES), plan=PLANS)
    def a_run_that_is_disturbed(self, mode: str, plan: list[Any]) -> None:
        self.a_run(mode, plan)

    @rule(mode=st.sampled_from(MODES))
    def a_run_that_is_not(self, mode: str) -> None:
        self.a_run(mode, [])

    def a_run(self, mode: str, plan: list[Any]) -> None:
        word, keeps = mode.partition(" ")[::2]
        run = SuiteRun(self.node, word, 950 if word == "accept" else None, keep=bool(keeps))
        self.node.before = Plan(self.node, plan).before
        said = run.to_its_end()
        self.node.before = lambda _: ""
        note(f"{said}: {run.failures[:1]}")
        for each in self.node.violations:
            raise violation(each)

    @rule(what=st.sampled_from(sorted(HANDS)))
    def somebody(self, what: str) -> None:
        self.node.by_others(HANDS[what])


NodeMachine.TestCase.settings = PROFILE
test_node = pytest.mark.filterwarnings("ignore")(NodeMachine.TestCase)
