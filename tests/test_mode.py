"""The modes of a run: a table, read by everybody, so that nobody asks which option was given."""

from __future__ import annotations

import re
from contextlib import nullcontext

import pytest

from fixtures.base.errors import BuildError
from fixtures.run import mode
from fixtures.run.mode import BUILD, MODES, May, Mode
from fixtures.run.stages import INHERITED, RECORDED, ROLES, TRIAL
from tests.suite_run import TOP

FLAGS = re.compile(r"\b(?:build|self)\.(verify|deep|parent_only|rebuild|rebuild_clone)\b|is_verify|mode\.id ==")


def given(*options: str) -> Mode:
    return mode.of(lambda option: option in options)


@pytest.mark.parametrize("each", MODES, ids=lambda each: each.id)
def test_option_asks_for_its_mode(each: Mode) -> None:
    assert given(each.option) is each
    assert {*each.stages, *each.needs, *each.proves} <= {*ROLES}
    assert {*each.needs} <= {*each.proves}
    assert each.does


def test_no_option_is_a_build_and_of_two_the_stronger_is_meant() -> None:
    assert given() is BUILD
    assert given("--verify", "--verify-deep") is mode.VERIFY_DEEP
    assert given("--rebuild", "--rebuild-clone") is mode.REBUILD_CLONE


@pytest.mark.parametrize("each", MODES, ids=lambda each: each.id)
def test_only_builds_replace_and_what_only_reads_changes_nothing(each: Mode) -> None:
    assert each.may(May.BUILD) or not (each.may(May.REPLACE) or each.may(May.DESTROY))
    assert not (each.may(May.BUILD) and each.compares)
    assert each.may(May.REPLACE) or not each.may(May.DESTROY)
    assert bool(each.may_change) != (each in (mode.VERIFY, mode.FAMILIES))


def test_what_each_may_change() -> None:
    assert mode.VERIFY.may_change == ()
    assert mode.VERIFY_DEEP.may_change == (May.SERVE, May.TRY)
    assert mode.VERIFY_PARENT.may_change == (May.TRY,)
    assert [each.id for each in MODES if each.may(May.BUILD)] == ["rebuild-clone", "rebuild", "build"]


@pytest.mark.parametrize("change", May)
@pytest.mark.parametrize("each", MODES, ids=lambda each: each.id)
def test_change_that_the_table_does_not_allow_is_refused(each: Mode, change: May) -> None:
    with nullcontext() if change in each.may_change else pytest.raises(BuildError, match=f"may not {change}"):
        each.require(change)


def test_each_kind_of_change_is_asked_for_where_it_is_made() -> None:
    """A column that nobody reads would promise what no code keeps."""
    sources = "".join(path.read_text() for path in (*TOP.glob("fixtures/**/*.py"), *TOP.glob("tests_920/*.py")))
    required = " ".join(re.findall(r"mode\.require\((.*)\)", sources))
    assert {each.name for each in May} - {*re.findall(r"May\.(\w+)", required)} == {"REPLACE", "DESTROY"}


def test_what_each_selects() -> None:
    selected = {
        each.id: [
            each.selects(role, marks)
            for role, marks in ((INHERITED, ()), (TRIAL, ("deep",)), (RECORDED, ("on_existing",)))
        ]
        for each in MODES
    }
    assert selected == {
        "accept": [False, True, True],
        "verify-parent": [True, False, False],
        "family": [False, False, False],
        "verify-deep": [False, True, True],
        "verify": [False, False, True],
        "rebuild-clone": [True, True, True],
        "rebuild": [True, True, True],
        "build": [True, True, True],
    }


def test_nobody_asks_for_a_flag() -> None:
    files = [*(TOP / "fixtures").rglob("*.py"), *(TOP / "tests_920").glob("*.py")]
    assert [str(path) for path in files if FLAGS.search(path.read_text())] == []
