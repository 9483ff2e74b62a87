"""No check passes on a fact that is empty, missing, unknown, not a number, swapped, doubled or stale."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.base import errors
from tests.faults.trial import explains
from tests.mutations.page import HEAD
from tests.mutations.table import EXCUSES, WAYS, Cell, Probe, cells
from tests.mutations.trial import Bench, bench, checks

PAGE = (Path(__file__).parent.parent / "docs/mutations.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(tmp_path_factory.mktemp("reference")) as made:
        yield made


@pytest.fixture(scope="module")
def table(shared: Bench) -> list[Cell]:
    """Of whole answers; `make mutations` spoils each field too."""
    return cells(shared, by_field=False)


def test_each_check_passes_on_true_facts(table: list[Cell]) -> None:
    found = {cell.check.name: (cell.outcome, cell.why) for cell in table if cell.way == "true"}
    assert {name: why for name, why in found.items() if why[0] != "passed"} == {}
    assert list(found) == [check.name for check in checks()]


def test_no_check_passes_on_a_fact_that_is_wrong(table: list[Cell]) -> None:
    """And none ends with an error of Python in the place of a sentence."""
    assert [cell for cell in table if cell.unwanted] == []
    assert len([cell for cell in table if cell.outcome == "failed"]) > 1000


def claim(cell: Cell) -> str:
    return (cell.check.call.__doc__ or "").partition("\n")[0]


def test_every_failure_says_what_was_seen_and_expected_and_what_to_run(table: list[Cell]) -> None:
    """As people read it: of each check, with whatever wrong fact."""
    failed = [cell for cell in table if cell.outcome == "failed"]
    shown = {errors.explained(cell.why, claim(cell), "less record.json").partition("\n")[0] for cell in failed}
    assert len(shown) > 500
    assert [first for first in shown if not explains(first)] == []


def on_page() -> dict[tuple[str, str], set[str]]:
    """What the page says became of each fact that is spoilt in some way."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for line in PAGE.splitlines():
        if line.startswith("| `test_"):
            _, fact, *words = (word.strip() for word in line.strip("|").split("|"))
            for way, word in zip(WAYS, words, strict=True):
                found[fact.replace("&#124;", "|"), way].add("passed" if word.startswith("[") else word)
    return found


def test_fields_of_every_check_are_as_the_page_says(shared: Bench) -> None:
    """Some of each, the same ones each time: the page, which has all of them, gives a reason for each that passes."""
    page = on_page()
    cells = [cell for check in checks() for cell in Probe(shared, check).sampled(1)]
    assert len({cell.check.name for cell in cells}) > 70
    assert [cell for cell in cells if cell.outcome == "raised"] == []
    words = {"same": "-"}
    assert [cell for cell in cells if words.get(cell.outcome, cell.outcome) not in page[cell.fact, cell.way]] == []


def test_page_has_every_check_and_no_pass_without_a_reason(table: list[Cell]) -> None:
    assert PAGE.startswith(HEAD)
    rows = [line for line in PAGE.splitlines() if line.startswith("| `test_")]
    assert [line for line in rows if "| passed |" in line or "| raised |" in line] == []
    for cell in table:
        assert f"`{cell.check.short}`" in PAGE
        if cell.way != "true" and cell.outcome in ("failed", "inconclusive"):
            # which of the checks that share an answer is the first to ask depends on threads
            mine = [line for line in rows if f"| {cell.fact} |" in line]
            assert mine, f"the page lacks {cell.check.short}, {cell.fact}: make mutations"
            assert any(cell.outcome in line for line in mine), f"the page is older than {cell}: make mutations"


def test_every_excuse_is_needed() -> None:
    """A reason that nothing needs any more hides the next check that passes on nothing."""
    reasons = PAGE.partition("## Why a check may pass")[2]
    assert [note for note in EXCUSES.values() if note not in reasons] == []
