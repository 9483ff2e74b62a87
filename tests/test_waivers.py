"""Waivers: told as waived and never as passed, for a reason, until a day, and sealed only if they say so."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from fixtures.base.errors import BuildError, Unseen
from fixtures.record.model import Verdict
from fixtures.run.ledger import Ledger
from fixtures.run.stages import Check, declared_checks
from fixtures.run.waivers import Waiver, load
from fixtures.session.check_reports import waive
from tests.ledgers import hear
from tests.suite_run import TOP, Suite

CHECKS = declared_checks(TOP / "tests_920/CHECKS", (0, 1))
ONE = "test_010_preflight.py::test_parent_is_as_declared"
TODAY = datetime.now(UTC).date()
GOOD = {"check": f'"{ONE}"', "reason": '"903 is being renamed"', "until": "2999-12-31"}


def write(folder: Path, *entries: dict[str, str]) -> Path:
    path = folder / "waivers.toml"
    lines = ["[[waiver]]\n" + "".join(f"{name} = {value}\n" for name, value in entry.items()) for entry in entries]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


def test_no_file_is_no_waiver() -> None:
    assert load(None, CHECKS) == {}


def test_waiver_is_read(tmp_path: Path) -> None:
    (waiver,) = load(write(tmp_path, {**GOOD, "seals": "true"}), CHECKS).values()
    assert (waiver.check, waiver.reason, waiver.seals, waiver.expired) == (ONE, "903 is being renamed", True, False)
    assert not load(write(tmp_path, GOOD), CHECKS)[ONE].seals


def test_gpu_stands_for_each(tmp_path: Path) -> None:
    each = "test_030_inherited_stack.py::test_cuda_works_on_gpu"
    assert set(load(write(tmp_path, {**GOOD, "check": f'"{each}[gpu]"'}), CHECKS)) == {f"{each}[gpu0]", f"{each}[gpu1]"}
    assert set(load(write(tmp_path, {**GOOD, "check": f'"{each}[gpu1]"'}), CHECKS)) == {f"{each}[gpu1]"}


def test_descendant_is_waived_by_its_number(tmp_path: Path) -> None:
    """Only the node knows which there are, and it is not asked yet."""
    name = "test_095_family.py::test_descendant_is_sound[931]"
    assert set(load(write(tmp_path, {**GOOD, "check": f'"{name}"'}), CHECKS)) == {name}


@pytest.mark.parametrize(("days", "expired"), [(-1, True), (0, False), (1, False)])
def test_last_day_is_included(days: int, expired: bool) -> None:
    assert Waiver(ONE, "why", TODAY + timedelta(days=days)).expired is expired


MISTAKES = {
    "a check that is not there": (
        {**GOOD, "check": '"test_010_preflight.py::test_parent_is_declared"'},
        f"mean {ONE}?",
    ),
    "a check of nothing like it": ({**GOOD, "check": '"docker"'}, "there is no check 'docker'; CHECKS lists them"),
    "a stage that acts": (
        {**GOOD, "check": '"test_060_seal.py::test_everything_passed"'},
        "can't be waived: it belongs to the stage seal",
    ),
    "all descendants": (
        {**GOOD, "check": '"test_095_family.py::test_descendant_is_sound[descendant]"'},
        "is each descendant; a waiver must name one, such as [931]",
    ),
    "a number of another check": (
        {**GOOD, "check": '"test_095_family.py::test_family_is_known[931]"'},
        "there is no check 'test_095_family.py::test_family_is_known[931]'",
    ),
    "a day in words": ({**GOOD, "until": '"next year"'}, "until is 'next year', expected a day such as 2026-12-31"),
    "a day that is not there": ({**GOOD, "until": "2026-02-31"}, "can't be read"),
    "a moment": ({**GOOD, "until": "2026-12-31T10:00:00"}, "expected a day"),
    "no reason": ({**GOOD, "reason": '""'}, "reason is '', expected a str"),
    "no end": ({name: value for name, value in GOOD.items() if name != "until"}, "it has no until"),
    "a field too many": ({**GOOD, "owner": '"me"'}, "there is no owner; a waiver has check, reason, until, seals"),
    "seals in words": ({**GOOD, "seals": '"yes"'}, "seals is 'yes', expected a bool"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_named(name: str, tmp_path: Path) -> None:
    entry, said = MISTAKES[name]
    with pytest.raises(BuildError) as caught:
        load(write(tmp_path, entry), CHECKS)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_waiver_twice_and_other_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="waived twice"):
        load(write(tmp_path, GOOD, GOOD), CHECKS)
    for text in ("", "[waivers]\n", "waiver = 3\n", "[waiver]\ncheck = 'x'\n"):
        (tmp_path / "waivers.toml").write_text(text)
        with pytest.raises(BuildError, match=r"expected \[\[waiver\]\] tables"):
            load(tmp_path / "waivers.toml", CHECKS)


@pytest.mark.parametrize("content", [None, "[[waiver]]\ncheck = 'docker'\n"])
def test_bad_file_ends_with_4_and_touches_nothing(suite: Suite, content: str | None) -> None:
    path = suite.top / "waivers.toml"
    if content:
        path.write_text(content)
    run = suite.start("-o", f"waivers={path}")
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 4
    assert str(path) in output
    assert "Traceback" not in output
    assert suite.folders() == []


def test_waived_is_proved_only_for_sealing() -> None:
    for may_seal, unproved in (([], ["a"]), (["a"], [])):
        book = Ledger([Check("one", "a"), Check("two", "b")], may_seal)
        book.begin("a")
        hear(book, "a", "waived")
        assert (book.unproved(before="two"), book.waived) == (unproved, ["a"])
        assert book.blocker("two") is None


def test_waived_failure_is_told_as_such_everywhere(suite: Suite) -> None:
    run = suite.run("-v", "-o", f"waivers={write(suite.top, GOOD)}")
    assert run.status == 1  # other checks fail on this node
    assert (
        "  waived        The parent container exists under its declared name, with the declared privilege" in run.output
    )
    assert f"{ONE}: waived until 2999-12-31, the template is not sealed (seals = true allows it): 903 is" in run.output
    assert f"Waived: {ONE}." in run.record.sentence
    (check,) = [check for check in run.record.checks if check.name == ONE]
    assert check.verdict == "waived"
    assert check.reason.startswith("waived: until 2999-12-31: 903 is being renamed; it said: `cat /etc/pve/")
    assert any(line.startswith(f"{ONE}: waived until") for line in run.record.warnings)
    tests = {test["name"]: test for test in run.document("ctrf.json")["results"]["tests"]}  # type: ignore[index]
    assert tests[ONE]["status"] == "other"
    predicate = run.document("record.intoto.json")["predicate"]
    assert ONE in predicate["warnedTests"]  # type: ignore[index]
    assert ONE not in predicate["passedTests"] + predicate["failedTests"]  # type: ignore[index]
    cases = {case.attrib["name"]: case for case in ElementTree.parse(run.folder / "junit.xml").iter("testcase")}
    skipped = cases["The parent container exists under its declared name, with the declared privilege"].find("skipped")
    assert skipped is not None
    assert skipped.attrib["type"] == "pytest.xfail"


def test_waived_failures_block_nothing(suite: Suite) -> None:
    every = [{**GOOD, "check": f'"{check.name}"'} for check in CHECKS if check.stage == "preflight"]
    run = suite.run("-o", f"waivers={write(suite.top, *every)}")
    assert not any(check.reason.startswith("blocked by") for check in run.record.checks)
    assert run.record.verdict is Verdict.WARNED
    assert "test_010_preflight.py::test_node_is_proxmox: its waiver is no longer needed: it passes" in run.output


@pytest.mark.parametrize(
    ("family", "ended", "verdict"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_container_of_the_family_that_is_off_on_purpose_is_waived(family: bool, ended: bool, verdict: bool) -> None:
    waiver = Waiver("family[931]", "spare", date(2020 if ended else 2100, 1, 1))
    build: Any = SimpleNamespace(waivers={waiver.check: waiver}, family=family or None, warnings=[])
    report: Any = SimpleNamespace(failed=False, outcome="skipped", sections=[], when="call")
    waive(build, waiver.check, report, Unseen("unknown: it is off"))
    assert hasattr(report, "wasxfail") is verdict
    assert build.warnings == [] if not family else len(build.warnings) == 1


def test_expired_waiver_is_a_failure(suite: Suite) -> None:
    yesterday = str(TODAY - timedelta(days=1))
    run = suite.run("-o", f"waivers={write(suite.top, {**GOOD, 'until': yesterday})}")
    assert f"{ONE}: its waiver ended on {yesterday}: 903 is being renamed" in run.output
    (check,) = [check for check in run.record.checks if check.name == ONE]
    assert check.verdict == "failed"
