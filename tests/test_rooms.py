"""The rooms of `fixtures/`: imports go downwards only, and each room's own words stay in it."""

from __future__ import annotations

import ast
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
ORDER = ("session", "report", "diagnosis", "record", "run", "template", "serving", "gpu", "proxmox", "remote", "base")
# What a check of a stage may import; what it is given by a fixture's name may come from anywhere.
CHECKS_IMPORT = ("run", "template", "serving", "gpu", "proxmox", "base")
PROXMOX = {"pct", "pvesh", "pvesm", "pveversion"}
MODULES = sorted((TOP / "fixtures").rglob("*.py"))
REMOTE = sorted((TOP / "fixtures/remote").glob("*.py"))


def room_of(path: Path) -> str:
    """The room that a module lies in; empty for the package itself."""
    parts = path.relative_to(TOP / "fixtures").parts
    return parts[0] if len(parts) > 1 else ""


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported, anywhere in a file, also for types only; with the name that is taken from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_of(path: Path) -> set[str]:
    """The rooms that a file imports from."""
    names = [name.split(".") for name in imported(ast.parse(path.read_text(encoding="utf-8")))]
    return {name[1] for name in names if name[0] == "fixtures"}


def test_every_module_lies_in_a_room() -> None:
    assert {room_of(path) for path in MODULES} == {"", *ORDER}


def test_imports_go_downwards() -> None:
    upwards = {
        (str(path.relative_to(TOP / "fixtures")), room)
        for path in MODULES
        for room in rooms_of(path)
        if room_of(path) and ORDER.index(room) < ORDER.index(room_of(path))
    }
    assert not upwards


def test_base_needs_no_other_room() -> None:
    assert {room for path in (TOP / "fixtures/base").glob("*.py") for room in rooms_of(path)} <= {"base"}


@pytest.mark.parametrize("path", sorted((TOP / "tests_920").glob("test_*.py")), ids=lambda path: path.name)
def test_checks_import_only_what_they_ask(path: Path) -> None:
    assert rooms_of(path) <= set(CHECKS_IMPORT)


# --- words ------------------------------------------------------------------------------------------------


def commands(tree: ast.AST) -> Iterator[str]:
    """The first words of what is written as a command: of a call's arguments, a tuple or a list of words."""
    for node in ast.walk(tree):
        words = node.args if isinstance(node, ast.Call) else node.elts if isinstance(node, ast.Tuple | ast.List) else []
        for word in itertools.islice(words, 2):
            inner = word.value if isinstance(word, ast.Starred) else word
            if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                yield inner.value


def test_only_proxmox_runs_commands_of_proxmox() -> None:
    found = {
        (str(path.relative_to(TOP)), word)
        for path in MODULES
        if room_of(path) != "proxmox"
        for word in commands(ast.parse(path.read_text(encoding="utf-8")))
        if word in PROXMOX
    }
    assert found == set()


# --- remote -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", REMOTE, ids=lambda path: path.name)
def test_remote_programs_need_only_python_3_9(path: Path) -> None:
    """They are sent to machines of others: grammar, annotations and modules of Python 3.9, and nothing of ours."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text, feature_version=(3, 9))
    ours = {name for name in imported(tree) if name.startswith("fixtures.remote.")}  # sent along
    assert {name.split(".")[0] for name in {*imported(tree)} - ours} <= sys.stdlib_module_names
    newer = {
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Match)
        or (isinstance(node, ast.Call) and any(word.arg in ("slots", "kw_only", "strict") for word in node.keywords))
        or (isinstance(node, ast.Name) and node.id in ("aiter", "anext", "ExceptionGroup", "BaseExceptionGroup"))
    }
    assert not newer
    if "from __future__ import annotations" not in text:  # else `X | Y` in an annotation is never evaluated
        annotated = [
            each.annotation for each in ast.walk(tree) if isinstance(each, ast.arg | ast.AnnAssign) and each.annotation
        ]
        assert not [each.lineno for each in annotated if re.search(r"\|", ast.unparse(each))]
