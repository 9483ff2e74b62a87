"""What a check needs: one cause gives one failure, and each failure explains itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.base.errors import unexpected
from fixtures.run.ledger import Ledger
from fixtures.run.stages import GPU, Blocked, Check, declared_checks
from fixtures.session import gating
from tests.ledgers import hear
from tests.suite_run import Suite

TOP = Path(__file__).parent.parent
FILES = sorted((TOP / "tests_920").glob("test_*.py"))
CHECKS = declared_checks(TOP / "tests_920/CHECKS", (0, 1))
EXPLAINS = {"unexpected", "found", "drifted", "no_bridge", "locked"}


def needed(file: Path) -> Iterator[tuple[str, str]]:
    """Each check of a file with a check that its markers name, by the names of their functions."""
    tree = ast.parse(file.read_text())
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    markers = {node.targets[0].id: node.value for node in assigned if isinstance(node.targets[0], ast.Name)}
    for node in (each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)):
        for each in node.decorator_list:
            marker = markers.get(each.id) if isinstance(each, ast.Name) else each
            if isinstance(marker, ast.Call) and isinstance(marker.func, ast.Attribute):
                names = marker.args if marker.func.attr.startswith("needs") else []
                yield from ((node.name, str(each.value)) for each in names if isinstance(each, ast.Constant))


def function(check: Check) -> str:
    return check.name.rpartition("::")[2].partition("[")[0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_needed_check_is_of_the_stage_and_comes_before(file: Path) -> None:
    """Also one GPU's check is of each GPU: a misspelt name would block nothing."""
    own = [check for check in CHECKS if check.name.startswith(file.name)]
    for check, name in needed(file):
        places = [place for place, each in enumerate(CHECKS) if function(each) == check]
        before = {function(each): each for each in CHECKS[: places[-1]] if each.stage == own[0].stage}
        assert name.removesuffix(GPU) in before, f"{check} needs {name}"
        assert not name.endswith(GPU) or before[name.removesuffix(GPU)].name.endswith("[gpu1]"), name


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_assertion_says_what_was_seen_and_expected(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Assert):
            call = node.msg
            assert isinstance(call, ast.Call), f"{file.name}:{node.lineno} has no message"
            assert isinstance(call.func, ast.Name), f"{file.name}:{node.lineno}"
            assert call.func.id in EXPLAINS, f"{file.name}:{node.lineno}"
            runs = {word.arg for word in call.keywords} & {"run"}
            assert runs or call.func.id != "unexpected", f"{file.name}:{node.lineno} names no command"


def test_message_has_its_parts_in_order() -> None:
    message = unexpected("docker.service is inactive", "active", cause="it was stopped", run="systemctl start docker")
    assert message == "docker.service is inactive; expected active; it was stopped; run: systemctl start docker"


def ledger() -> Ledger:
    return Ledger(
        [Check("one", f"f.py::{name}") for name in ("a[gpu0]", "a[gpu1]", "b", "c")] + [Check("two", "f.py::a")]
    )


def failed(book: Ledger, name: str) -> None:
    book.begin(f"f.py::{name}", f"{name} is well.")
    hear(book, f"f.py::{name}", "failed", AssertionError())


def test_cause_is_a_check_of_the_same_stage_and_gpu() -> None:
    book = ledger()
    failed(book, "a[gpu0]")
    assert [gating.cause(book, "one", each) for each in ("a[gpu0]", "a[gpu1]", "a", "b")] == [
        "f.py::a[gpu0]",
        "",
        "f.py::a[gpu0]",
        "",
    ]
    assert gating.cause(book, "two", "a") == ""
    assert str(book.blocked_by("a[gpu0]")) == "blocked by: a[gpu0] is well"


def test_what_is_blocked_names_the_first_cause() -> None:
    book = ledger()
    failed(book, "b")
    book.begin("f.py::c")
    hear(book, "f.py::c", "skipped", Blocked("f.py::b"))
    assert gating.cause(book, "one", "c") == "f.py::b"
    assert book.blocked_by("c").cause == "f.py::b"


def test_wrong_answer_blocks_only_what_needs_a_right_one() -> None:
    book = ledger()
    failed(book, "b")
    assert (gating.cause(book, "one", "b"), gating.cause(book, "one", "b", answered=True)) == ("f.py::b", "")
    book.silent.add("f.py::b")
    assert gating.cause(book, "one", "b", answered=True) == "f.py::b"


def test_one_cause_is_one_failure_in_a_run(tmp_path: Path) -> None:
    """A node whose API answers nothing was twenty failures."""
    record = Suite(tmp_path).run().record
    failures = [check.name for check in record.checks if check.verdict == "failed"]
    assert failures == ["test_010_preflight.py::test_parent_is_as_declared"]
    blocked = {check.reason for check in record.checks if check.stage == "preflight" and check.verdict == "skipped"}
    assert blocked == {"blocked by: The parent container exists under its declared name, with the declared privilege"}
