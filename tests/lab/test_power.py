"""The node loses its power inside sealing: what is there then is true, and the next run goes on from it.

One run after the other, each cut short at another moment; every moment and every way is in docs/kills.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults import invariants, moments
from tests.faults.invariants import Watch
from tests.faults.moments import AWAY, POWER, go_on, strike
from tests.lab.harness import SNAPSHOT, Lab

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def watch(lab: Lab) -> Iterator[Watch]:
    """What must not change: 903, and what is not ours."""
    invariants.put(lab)
    one = Watch(lab)
    yield one
    one.end()


def description(lab: Lab) -> str:
    return str(lab.snapshots()[SNAPSHOT]["description"])


def test_between_shutdown_and_snapshot(lab: Lab, watch: Watch) -> None:
    """The suite runs elsewhere and goes on without its node: it is red. Nothing is sealed."""
    found = strike(lab, moments.BEFORE_SNAPSHOT, AWAY, watch)
    assert (found.wrong, found.state) == ([], "off")
    assert lab.snapshots() == {}


def test_between_snapshot_and_its_record(lab: Lab, watch: Watch) -> None:
    """The run before has left 920 off, and this one has come so far again. The next one keeps the record."""
    found = strike(lab, moments.BEFORE_RECORD, POWER, watch)
    assert (found.wrong, found.state) == ([], "sealed, off")
    go_on(lab, found, watch, "--no-clone")
    assert (found.wrong, found.then) == ([], "green")


def test_between_record_and_start(lab: Lab, watch: Watch) -> None:
    """A rebuild has replaced the snapshot, which does not count as done any more; its generation before does."""
    before = description(lab)
    found = strike(lab, moments.BEFORE_START, POWER, watch, "--rebuild")
    assert (found.wrong, found.state) == ([], "sealed, off")
    assert " accepted " in before
    assert " accepted " not in description(lab)
    copies = [str(row["description"]) for name, row in lab.snapshots().items() if name.startswith(f"{SNAPSHOT}-g")]
    assert [text for text in copies if " accepted " in text]


def test_before_it_is_accepted(lab: Lab, watch: Watch) -> None:
    found = strike(lab, moments.BEFORE_ACCEPTED, POWER, watch)
    assert (found.wrong, found.state) == ([], "sealed, off")
    go_on(lab, found, watch, "--no-clone")
    assert (found.wrong, found.then) == ([], "green")
