"""Every regular expression of the suite, found in its source, and texts that are the worst for each of them."""

from __future__ import annotations

import ast
import builtins
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from re import _parser  # type: ignore[attr-defined] # what a pattern is made of; there is no public way to ask
from typing import Any

from fixtures.diagnosis import failure_modes
from tests.suite_run import TOP

ROOMS = ("fixtures", "lab/pve")
METHODS = ("search", "match", "fullmatch", "sub", "findall", "finditer", "split")
# one of each kind that patterns tell apart, and what they often name
CHARACTERS = "a0A_ \n\t/:.-+=\"'`<>@()[],;\\\x1b|#%é"
REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
LONGEST_REPEAT = 1000  # what repeats no more often costs so many steps a character at the most


@dataclass(frozen=True)
class Pattern:
    """A pattern, where it stands, and the method by which it is applied."""

    place: str
    method: str
    form: re.Pattern[Any]

    def apply(self, text: str) -> None:
        given: Any = text.encode() if isinstance(self.form.pattern, bytes) else text
        if self.method == "sub":
            self.form.sub(lambda found: found[0], given)
        elif self.method == "finditer":
            for _ in self.form.finditer(given):
                pass
        else:
            getattr(self.form, self.method)(given)


# --- collecting ---------------------------------------------------------------------------------------


def collect() -> tuple[list[Pattern], list[str]]:
    """All patterns, with each method that applies them, and the calls whose pattern no source names."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for room in ROOMS for path in (TOP / room).rglob("*.py")}
    used: dict[str, set[str]] = {}
    for tree in trees.values():
        for call in _calls(tree):
            owner = call.func.value  # type: ignore[attr-defined]
            used.setdefault(getattr(owner, "attr", getattr(owner, "id", "")), set()).add(call.func.attr)  # type: ignore[attr-defined]
    found, unknown = [], []
    for path, tree in sorted(trees.items()):
        targets = {id(node.value): node.targets[0] for node in ast.walk(tree) if isinstance(node, ast.Assign)}
        for call in _calls(tree):
            if ast.unparse(call.func).partition(".")[0] != "re":
                continue
            place, method = f"{path.relative_to(TOP)}:{call.lineno}", call.func.attr  # type: ignore[attr-defined]
            form = _form(call, str(path.relative_to(TOP)))
            if form is None:
                unknown.append(f"{path.relative_to(TOP)}: {ast.unparse(call)}")
                continue
            # the pattern of a list or a loop: all that it finds
            name = getattr(targets.get(id(call)), "id", "")
            methods = used.get(name, set()) - {"compile"} if name else {"sub"}
            methods = {method} if method != "compile" else methods or {"search"}
            found += [Pattern(place, each, form) for each in sorted(methods)]
    return found, unknown


def catalogue() -> list[Pattern]:
    """The patterns of the catalogue of failure modes, which are searched for in what has been bounded before."""
    return [
        Pattern(f"{mode.id} {kind}", "search", form)
        for mode in failure_modes.catalogue().values()
        for signature in mode.signatures
        for kind, form in signature.items()
    ] + [
        Pattern(f"{mode.id} member {number}", "search", form)
        for mode in failure_modes.catalogue().values()
        for number, (form, _) in enumerate(mode.members)
    ]


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        method = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
        if method in (*METHODS, "compile"):
            yield node  # type: ignore[misc]


class _Local(dict[str, object]):
    """The names of a function: each stands for a word."""

    def __init__(self, own: dict[str, Any]) -> None:
        super().__init__()
        self._own = own

    def __missing__(self, name: str) -> object:
        if name == "re" or name in self._own or hasattr(builtins, name):
            raise KeyError(name)
        return "word"


def _form(call: ast.Call, path: str) -> re.Pattern[Any] | None:
    """What is compiled, with a word for each name of a function; None if no source names the pattern."""
    pattern, *rest = call.args
    if isinstance(pattern, ast.Constant):
        own: dict[str, Any] = {}
    elif isinstance(pattern, ast.JoinedStr | ast.BinOp) or getattr(pattern, "id", "").isupper():
        own = vars(importlib.import_module(path.removesuffix(".py").replace("/", ".")))
    else:
        return None

    def value(node: ast.expr) -> Any:
        return eval(compile(ast.Expression(node), path, "eval"), {**own, "re": re}, _Local(own))

    flags = [each for each in (*rest, *(word.value for word in call.keywords)) if "re." in ast.unparse(each)]
    text = value(pattern)
    return re.compile(text, value(flags[0]) if flags else 0) if isinstance(text, str | bytes) else None


# --- the worst for a pattern --------------------------------------------------------------------------


def worst(pattern: Pattern) -> Iterator[tuple[str, str, str]]:
    """Texts for `filled` that make a pattern try again and again: what it repeats, repeated, and then no match."""
    parsed = _parser.parse(pattern.form.pattern, pattern.form.flags)
    seen = set()
    for least in (0, 1):  # what may be there is not there, or is there
        for begun, pump, end in _pumps(parsed, "", least):
            for made in ((begun, pump, end), ("", begun + pump, end), ("", begun + pump * 50, end)):
                if made not in seen:
                    seen.add(made)
                    yield made


def filled(begun: str, unit: str, end: str, length: int) -> str:
    """A beginning, a unit again and again, and an end."""
    return begun + unit * ((length - len(begun)) // len(unit)) + end


def _pumps(parsed: Any, begun: str, least: int) -> Iterator[tuple[str, str, str]]:
    """For each repetition in a pattern: what matches before it, what it may repeat, and an end that does not fit."""
    for operator, argument in parsed:
        name = str(operator)
        if name in REPEATS:
            yield from _pumps(argument[2], begun, least)
            if argument[1] > LONGEST_REPEAT:
                fit = _samples(argument[2])
                other = next((char for char in CHARACTERS if char not in fit), "")
                yield from ((begun, each, end) for each in fit if each for end in {"\x00", other})
        elif name == "SUBPATTERN":
            yield from _pumps(argument[3], begun, least)
        elif name == "ATOMIC_GROUP":
            yield from _pumps(argument, begun, least)
        elif name == "BRANCH":
            for each in argument[1]:
                yield from _pumps(each, begun, least)
        begun += _sample([(operator, argument)], least)


def _samples(parsed: Any) -> list[str]:
    """Texts that match: for one class of characters, each of `CHARACTERS` that is in it."""
    if len(parsed) == 1 and str(parsed[0][0]) in ("IN", "ANY", "NOT_LITERAL", "LITERAL"):
        return [char for char in CHARACTERS if _in(parsed[0], char)] or [_sample(parsed)]
    return [_sample(parsed)]


def _in(part: Any, char: str) -> bool:
    name, argument = str(part[0]), part[1]
    if name == "LITERAL":
        return bool(ord(char) == argument)
    if name == "NOT_LITERAL":
        return bool(ord(char) != argument)
    if name == "ANY":
        return char != "\n"
    if name != "IN":
        return False
    negated = str(argument[0][0]) == "NEGATE"
    return negated != any(_of_class(each, char) for each in argument[negated:])


def _of_class(part: Any, char: str) -> bool:
    name, argument = str(part[0]), part[1]
    if name == "RANGE":
        return bool(argument[0] <= ord(char) <= argument[1])
    if name == "CATEGORY":
        kind = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}[str(argument).rpartition("_")[2]]
        return bool(re.match(kind, char)) != ("NOT" in str(argument))
    return bool(ord(char) == argument)


def _sample(parsed: Any, least: int = 1) -> str:
    """One of the shortest texts that match."""
    text = ""
    for operator, argument in parsed:
        name = str(operator)
        if name == "LITERAL":
            text += chr(argument)
        elif name in ("IN", "ANY", "NOT_LITERAL"):
            text += next((char for char in CHARACTERS if _in((operator, argument), char)), "")
        elif name in REPEATS:
            text += _sample(argument[2], least) * max(argument[0], least)
        elif name == "SUBPATTERN":
            text += _sample(argument[3], least)
        elif name == "ATOMIC_GROUP":
            text += _sample(argument, least)
        elif name == "BRANCH":
            text += _sample(argument[1][0], least)
    return text
