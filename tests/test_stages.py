"""The ledger: what counts as proved, and who blocks whom."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.run.ledger import Ledger
from fixtures.run.stages import Check, check_name, declared_checks
from tests.ledgers import hear

TOP = Path(__file__).parent.parent
CHECKS = TOP / "tests_920/CHECKS"


def ledger() -> Ledger:
    return Ledger([Check("one", "a"), Check("one", "b"), Check("two", "c"), Check("three", "d")])


def test_declared_checks_are_what_pytest_collects() -> None:
    """The list is complete: a check that is added must be declared, one that is lost is missed."""
    command = [sys.executable, "-m", "pytest", "tests_920", "--collect-only", "-q", "-overbosity_test_cases=auto"]
    listing = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=True).stdout
    collected = [check_name(line) for line in listing.splitlines() if "::" in line]
    declared = declared_checks(CHECKS, (0, 1))
    assert collected == [check.name for check in declared if check.role != "family"], "which are no part of a build"


def test_stage_marks_agree_with_the_list() -> None:
    stages = {check.name.partition("::")[0]: check.stage for check in declared_checks(CHECKS, (0,))}
    for name, stage in stages.items():
        (marked,) = re.findall(r'mark\.stage\("([^"]+)"\)', (TOP / "tests_920" / name).read_text())
        assert marked == stage


def test_there_is_one_check_for_each_gpu(tmp_path: Path) -> None:
    (tmp_path / "CHECKS").write_text("# note\nsome stage\n  f.py::a\n  f.py::b[gpu]\n")
    assert declared_checks(tmp_path / "CHECKS", (0, 3)) == [
        Check("some stage", "f.py::a"),
        Check("some stage", "f.py::b[gpu0]"),
        Check("some stage", "f.py::b[gpu3]"),
    ]


def test_passed_means_every_phase() -> None:
    book = ledger()
    book.begin("a")
    for phase in ("setup", "call", "teardown"):
        hear(book, "a", when=phase)
    book.begin("b")
    hear(book, "b")
    hear(book, "b", "failed", when="teardown")
    assert book.unproved(before="two") == ["b"]
    assert book.unproved(before="three") == ["b", "c"]


@pytest.mark.parametrize("outcome", ["failed", "skipped"])
def test_what_did_not_pass_is_unproved(outcome: str) -> None:
    book = ledger()
    book.begin("a")
    hear(book, "a", outcome, when="setup")
    assert "a" in book.unproved(before="two")


def test_expected_failure_is_unproved() -> None:
    book = ledger()
    book.begin("a")
    hear(book, "a", "waived")
    assert "a" in book.unproved(before="two")


def test_failed_stage_blocks_later_ones_only() -> None:
    book = ledger()
    book.begin("c")
    hear(book, "c", "failed")
    assert [book.blocker(stage) for stage in ("one", "two", "three")] == [None, None, "two"]


def test_unproved_can_begin_later() -> None:
    assert ledger().unproved(before="three", since="two") == ["c"]
