"""Plain English: pages, docstrings and messages use the field's words, not those that this project once coined."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs import PAGES, TOP

# what to avoid: what to write instead
AVOIDED = {
    r"far side|near side": "remote agent, client",
    r"puts? down to": "root cause",
    r"in vain": "timed out after",
    r"mend(s|ed|ing)?": "fix",
    r"(is|are|was|were|be|been) told|told as": "is reported as",
    r"liv(e|ed|es|ing) with": "accepted until a date",
    r"anew": "again, renew, regenerate",
    r"gone on with": "resumed",
    r"side by side": "in parallel",
    r"as it must be": "as expected",
    r"left over|what is left": "leftovers",
    r"puts a fault": "injects a fault",
    r"outside's own": "external",
    r"once more ends": "press again to quit",
}
WORDS = re.compile(r"\b(?:" + "|".join(f"(?:{word})" for word in AVOIDED) + r")\b", re.IGNORECASE)
CODE = ("fixtures", "tests_920", "lab", "docs/example")
TEXTS = (
    *(page for page in PAGES if page.name != "settings.md"),  # its words are those of fixtures/base/settings.py
    *(TOP / name for name in ("CHANGELOG.md", "Makefile", "fixtures/diagnosis/failure_modes.toml")),
    *(
        path
        for folder in ("fixtures", "lab")
        for end in ("jinja2", "js", "css", "sh")
        for path in (TOP / folder).rglob(f"*.{end}")
    ),
)
# a file and a word in it that stays, with the reason
EXCEPTIONS: dict[tuple[str, str], str] = {}


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Docstrings and messages of a program, by line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for number, line in enumerate(node.value.splitlines()):
                yield node.lineno + number, line


def instead(word: str) -> str:
    """What to write instead of a word."""
    return next(better for avoided, better in AVOIDED.items() if re.fullmatch(avoided, word, re.IGNORECASE))


def found(path: Path, lines: Iterator[tuple[int, str]]) -> list[str]:
    """The words to avoid in a file, by line, each with what to write instead."""
    name = str(path.relative_to(TOP))
    hits = [(number, match[0].lower()) for number, line in lines for match in WORDS.finditer(line)]
    return [
        f"{name}:{number}: {word!r}, instead: {instead(word)}"
        for number, word in hits
        if (name, word) not in EXCEPTIONS
    ]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(TOP)))
def test_pages_are_in_plain_english(path: Path) -> None:
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    assert found(path, iter(lines)) == []


@pytest.mark.parametrize("folder", CODE)
def test_docstrings_and_messages_are_in_plain_english(folder: str) -> None:
    said = [line for path in sorted((TOP / folder).rglob("*.py")) for line in found(path, strings(path))]
    assert said == []


def test_every_exception_is_needed() -> None:
    unused = [key for key in EXCEPTIONS if key[1] not in (TOP / key[0]).read_text(encoding="utf-8").lower()]
    assert not unused
