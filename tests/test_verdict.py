"""A verdict that can be trusted: the declared order, first attempts only, the same under every filter of warnings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fixtures.record.model import Verdict
from fixtures.run.mode import Outcome
from fixtures.run.stages import declared_checks
from tests.suite_run import TOP, GoodSuite, Suite, SuiteRun

TWO = ("-k", "test_node_is_proxmox or test_no_other_run_works_on_it")
FIRST = "test_010_preflight.py::test_node_is_proxmox"
SECOND = "test_010_preflight.py::test_no_other_run_works_on_it"
WARNS = """
import pytest, warnings
from fixtures.base.warning import warn
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    if item.name == "test_node_is_proxmox":
        warn("a fact")
        warnings.warn("old", DeprecationWarning)
"""
RERUN = """
from _pytest.runner import runtestprotocol
def pytest_runtest_protocol(item, nextitem):
    for attempt in range(2):
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    return True
"""
CHANGED = """
import pytest
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        report.outcome = "rerun"
    return report
"""
FORGED = """
import pytest
def pytest_runtest_logstart(nodeid, location):
    pass
@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    report = pytest.TestReport(item.nodeid, item.location, {}, "passed", None, "call")
    item.ihook.pytest_runtest_logreport(report=report)
    return (yield)
"""
EXCUSED = """
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    assert item.name != "test_node_is_proxmox"
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item, call):
    if call.excinfo:
        return pytest.TestReport(item.nodeid, item.location, {}, "passed", None, call.when)
"""
BACKWARDS = """
import pytest
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session):
    session.items.reverse()
    return (yield)
"""
SHUFFLED = """
import pytest
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items):
    done = yield
    items.reverse()
    return done
"""
DOUBLED = """
import pytest
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items):
    done = yield
    items += items[:1]
    return done
"""
ADDED = """
import pytest
@pytest.fixture
def mine(request):
    return request.param
def pytest_generate_tests(metafunc):
    if metafunc.function.__name__ == "test_node_is_proxmox":
        metafunc.fixturenames.append("mine")
        metafunc.parametrize("mine", ["again"], indirect=True)
"""


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


def told(run: SuiteRun) -> list[tuple[str, str, str]]:
    return [(check.name, check.verdict, check.reason) for check in run.record.checks]


def test_two_checks_by_themselves_are_a_part_that_has_passed(suite: Suite) -> None:
    run = suite.run(*TWO)
    assert (run.status, run.record.outcome) == (0, Outcome.PARTIAL), run.output


@pytest.mark.parametrize(
    ("plugin", "name", "why"),
    [
        (RERUN, FIRST, "it was tried more than once"),
        (CHANGED, FIRST, "a plugin changed its report from passed to rerun"),
        (FORGED, FIRST, "a plugin created its own report"),
        (EXCUSED, FIRST, "a plugin reports an exception as passed"),
        (BACKWARDS, FIRST, "it ran after a later check"),
    ],
    ids=["a second attempt", "a changed report", "a report of its own", "an excused failure", "out of order"],
)
def test_outcome_that_is_not_trusted_fails_the_run(suite: Suite, plugin: str, name: str, why: str) -> None:
    run = suite.run(*TWO, plugin=plugin)
    assert (run.status, run.record.outcome) == (1, Outcome.FAILED), run.output
    (check,) = [one for one in run.record.checks if one.name == name]
    assert (check.verdict, check.reason.partition(";")[0]) == ("failed", f"not trusted: {why}")
    assert f"{name}: not trusted: {why}" in run.output


def test_order_is_the_declared_one_whatever_a_plugin_makes_of_it(suite: Suite) -> None:
    run = suite.run(plugin=SHUFFLED)
    assert [check.name for check in run.record.checks] == [
        check.name for check in declared_checks(TOP / "tests_920/CHECKS", (0, 1)) if check.role != "family"
    ]


@pytest.mark.parametrize(
    ("plugin", "said"),
    [(DOUBLED, f"{FIRST} was collected more than once"), (ADDED, f"{FIRST}[again] is not listed in CHECKS")],
    ids=["twice", "not listed"],
)
def test_check_that_is_not_listed_once_is_refused(suite: Suite, plugin: str, said: str) -> None:
    run = suite.run(plugin=plugin)
    assert (run.status, said in run.output) == (4, True), run.output
    assert {check.verdict for check in run.record.checks} == {"not run"}


def test_case_31_warnings_as_errors(suite: Suite) -> None:
    """Filters of warnings change no verdict: what a check warns of stays a warning."""
    alone = suite.run(plugin=WARNS)
    assert told(alone)[0] == (FIRST, "passed", "a fact")
    for words, env in (
        ((), {"PYTHONWARNINGS": "error"}),
        ((), {"PYTHONWARNINGS": "ignore"}),
        ((), {"PYTEST_ADDOPTS": "-W error"}),
        (("-p", "no:warnings"), {}),
        (("--assert=plain",), {}),
    ):
        run = suite.run(*words, plugin=WARNS, **env)
        assert (run.status, told(run)) == (alone.status, told(alone)), run.output


def test_warnings_travel_by_no_filter() -> None:
    """Python's own warnings are dropped or raised by filters that the suite does not set."""
    paths = [path for folder in ("fixtures", "tests_920", "docs/example") for path in (TOP / folder).rglob("*.py")]
    found = [path.name for path in paths if re.search(r"\bwarnings\.warn\(", path.read_text())]
    assert not found, "use fixtures.base.warning.warn"


@pytest.mark.parametrize("words", [(), ("--assert=plain",)])
def test_python_without_assertions_is_refused(suite: Suite, words: tuple[str, ...]) -> None:
    run = suite.run(*words, PYTHONOPTIMIZE="1")
    assert (run.status, suite.folders()) == (4, [])
    assert "python -O (PYTHONOPTIMIZE) removes the assertions" in run.output


@pytest.mark.parametrize(
    "name",
    ["fixtures.session.gating", "fixtures.report.recorder", "phoenix-920-recorder", "terminalreporter", "debugging"],
)
def test_no_part_of_the_suite_can_be_left_out(suite: Suite, name: str) -> None:
    run = suite.run("-p", f"no:{name}")
    assert (run.status, f"-p no:{name}: the suite needs this plugin" in run.output) == (4, True), run.output


@pytest.mark.parametrize("words", [("--setup-plan",), ("--setup-only",)])
def test_run_in_which_no_check_ran_is_not_0(suite: Suite, words: tuple[str, ...]) -> None:
    assert suite.run(*TWO, *words).status == 1


ENDS = """
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_{hook}:
    pytest.exit("enough", returncode=0)
"""
LOOP = """
import pytest
@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_runtest_protocol(item):
    yield
    item.session.shouldfail = item.session.shouldstop = False
    del item.session.items[1:]
    return True
@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session):
    del session.items[1:]
    return (yield)
"""


@pytest.mark.parametrize(
    "hook",
    [
        *("configure(config)", "collection_modifyitems(items)", "runtest_setup(item)", "runtest_teardown(item)"),
        *("sessionfinish(session)", "runtest_logfinish(nodeid)"),
    ],
)
def test_plugin_that_ends_the_run_ends_it_not_with_0(suite: Suite, hook: str) -> None:
    run = suite.run(plugin=ENDS.format(hook=hook))
    assert run.status != 0, run.output
    assert not suite.folders() or run.record.verdict is Verdict.FAILED


def test_plugin_that_drops_checks_after_they_were_selected_fails_the_run(suite: Suite) -> None:
    """The first check passes on this node: without it the run would be a part that nobody has asked for."""
    run = suite.run(plugin=LOOP)
    assert run.status == 1, run.output
    assert run.record.verdict is Verdict.FAILED
    assert any("a plugin ended the run before" in each for each in run.record.warnings)


MARKED = """
import pytest
def pytest_collection_modifyitems(items):
    for item in items:
        if item.name == "test_parent_is_as_declared":
            item.add_marker(pytest.mark.xfail({words}))
"""
LEAVES_OUT = """
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    return True
"""
REPLACES = """
def pytest_collection_modifyitems(items):
    for item in items:
        item.runtest = lambda: None
"""
SKIPPED = """
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_{hook}:
    for each in items if "items" in vars() else [item]:
        if each.name == "test_parent_is_as_declared":
            each.{does}
"""
SKIPS = "not trusted: a mark or a plugin skips it"
WRAPS = """
def pytest_collection_modifyitems(items):
    for item in items:
        item.obj = lambda **_: None
"""
SWALLOWS = """
import contextlib, pytest
@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with contextlib.suppress(Exception):
        yield
"""
FORGIVES = """
import pytest
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_{hook}(session):
    done = yield
    session.testsfailed, session.exitstatus = 0, 0
    return done
"""


@pytest.mark.parametrize(
    ("words", "plugin", "why"),
    [
        ((), MARKED.format(words=""), "not trusted: a mark, or pytest.xfail, expects its failure"),
        ((), MARKED.format(words="run=False"), "not trusted: a mark, or pytest.xfail, expects its failure"),
        ((), LEAVES_OUT, "not trusted: a plugin reports it as passed, but it did not finish"),
        ((), SWALLOWS, "not trusted: a plugin reports it as passed, but it did not finish"),
        ((), SKIPPED.format(hook="collection_modifyitems(items)", does="add_marker(pytest.mark.skip)"), SKIPS),
        ((), SKIPPED.format(hook="runtest_setup(item)", does="stash.get(pytest.skip('no'))"), SKIPS),
        ((), WRAPS, "not trusted: a plugin runs another function"),
        ((), REPLACES, "not trusted: a plugin reports it as passed, but it did not finish"),
        ((), FORGIVES.format(hook="runtestloop"), "`cat /etc/pve/.members"),
        ((), FORGIVES.format(hook="sessionfinish"), "`cat /etc/pve/.members"),
        (("-p", "no:session"), "", "`cat /etc/pve/.members"),
        (("--runxfail",), MARKED.format(words=""), "`cat /etc/pve/.members"),
    ],
)
def test_failed_check_fails_the_run_whatever_pytest_is_told(
    suite: Suite, words: tuple[str, ...], plugin: str, why: str
) -> None:
    """It is excused by a mark, not called at all, or not counted: the ledger decides, not pytest."""
    run = suite.run("-k", "test_node_is_proxmox or test_parent_is_as_declared", *words, plugin=plugin)
    assert (run.status, run.record.outcome, run.record.verdict) == (1, Outcome.FAILED, Verdict.FAILED), run.output
    (check,) = [one for one in run.record.checks if one.name.endswith("test_parent_is_as_declared")]
    assert (check.verdict, check.reason[: len(why)]) == ("failed", why)


def test_checks_of_a_container_that_nobody_makes_are_refused(tmp_path: Path) -> None:
    """Each check asked a container that is not there, and the advice was to pass a device."""
    run = GoodSuite(tmp_path).run("-k", "image")
    assert run.status == 4, run.output
    assert re.search("nothing was run: container 920 does not exist; .* not the one that creates it; run: ", run.output)
    assert "No check ran; nothing was checked." in run.output
    assert "list the checks" not in run.output
    assert GoodSuite(tmp_path / "preflight").run("-k", "test_010_preflight").status == 0
