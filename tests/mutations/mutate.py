"""How a fact is spoilt: seven ways for a whole answer, and four for each field of a structured one."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree import ElementTree

from fixtures.gpu import nvidia_smi
from tests.mutations.world import AFTER, BEFORE, PCI, UUIDS, Answer

UNKNOWN = "[Unknown Error]"
NUMBER = re.compile(r"(?<![\w.:/@-])\d+(?:\.\d+)?(?![\w.:/@-])")
PAIRS = (UUIDS, PCI, ("920", "903"), ("BaseTemplateVLLM", "BaseTemplateDockerGPU"), ("nvidia0", "nvidia1"))
XML = re.compile(r"<nvidia_smi_log>.*</nvidia_smi_log>", re.DOTALL)
Change = Callable[[Answer], Answer]
Path = tuple[str, ...]


def _document(text: str) -> Any:
    """What a JSON answer holds; None for another."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict | list) else None


def _text(change: Callable[[str], str]) -> Change:
    def changed(answer: Answer) -> Answer:
        status, out, err = answer
        text = out.decode(errors="surrogateescape")
        head, _, body = text.partition("\r\n\r\n") if text.startswith("HTTP/") else ("", "", text)
        made = change(body)
        return status, (f"{head}\r\n\r\n{made}" if head else made).encode(errors="surrogateescape"), err

    return changed


def _leaves(document: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(document, dict):
        return {key: _leaves(value, change) for key, value in document.items()}
    if isinstance(document, list):
        return [_leaves(each, change) for each in document]
    return change(document)


def _each_leaf(text: str, change: Callable[[Any], Any], lines: Callable[[str], str]) -> str:
    """Change each value of a structured answer, or the lines of another."""
    if (document := _document(text)) is not None:
        return json.dumps(_leaves(document, change))
    if found := XML.search(text):
        root = ElementTree.fromstring(found[0])
        for each in root.iter():
            if not len(each):
                each.text = str(change(each.text or ""))
        return (
            BEFORE.partition("<nvidia_smi_log>")[0]
            + ElementTree.tostring(root, encoding="unicode")
            + lines(text[found.end() :])
        )
    return lines(text)


def _empty(text: str) -> str:
    document = _document(text)
    return "" if document is None else "[]" if isinstance(document, list) else "{}"


def _hollow(text: str) -> str:
    """Rows and objects without their fields."""
    document = _document(text)
    if isinstance(document, list):
        return json.dumps([{} if isinstance(each, dict) else each for each in document])
    if XML.search(text):
        return f"{BEFORE}<gpu id=''></gpu>{AFTER}"
    return text


def _unknown(text: str) -> str:
    def words(value: str) -> str:
        return "\n".join(UNKNOWN for _ in value.splitlines()) or UNKNOWN

    return _each_leaf(text, lambda value: UNKNOWN if isinstance(value, str) else None, words)


def _nan(text: str) -> str:
    def leaf(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return value
        return NUMBER.sub("nan", value) if isinstance(value, str) else float("nan")

    return _each_leaf(text, leaf, lambda lines: NUMBER.sub("nan", lines))


def _swapped(text: str) -> str:
    for one, other in PAIRS:
        text = text.replace(one, "\0").replace(other, one).replace("\0", other)
    return text


def _doubled(text: str) -> str:
    document = _document(text)
    if isinstance(document, list):
        return json.dumps(document * 2)
    if XML.search(text):
        return re.sub(r"(<gpu id.*</gpu>)", r"\1\1", text, flags=re.DOTALL)
    return f"{text.rstrip()}\n{text}"


READ_OF_XML = {  # what `fixtures.gpu.nvidia_smi` reads of the report
    *("driver_version", "cuda_version", "uuid", "minor_number", "pci/pci_bus_id", "product_name", "product_brand"),
    *(path for paths in nvidia_smi.PLACES.values() for path in paths.split()),
    *(f"ecc_errors/volatile/{part}" for parts, total in nvidia_smi.ECC.values() for part in (*parts, total)),
}

WHOLE: dict[str, Change] = {
    "empty": lambda answer: (answer[0], _text(lambda _: "")(answer)[1], answer[2]),
    "without fields": _text(_hollow),
    "empty list": _text(_empty),
    "missing": lambda _: (127, b"", b"command not found"),
    "unknown": _text(_unknown),
    "not a number": _text(_nan),
    "swapped": _text(_swapped),
    "doubled": _text(_doubled),
}


# --- one field at a time -----------------------------------------------------------------------------------


def fields(answer: Answer) -> list[Path]:
    """The paths of the fields of a structured answer; an item of a list counts for all of them."""
    text = answer[1].decode(errors="replace").rpartition("\r\n\r\n")[2]
    if (document := _document(text)) is not None:
        return list(dict.fromkeys(_paths(document)))
    if found := XML.search(text):
        return list(dict.fromkeys(_tags(ElementTree.fromstring(found[0]))))
    return [(key,) for key in dict.fromkeys(LINE.findall(text) and [key for key, _ in LINE.findall(text)])]


LINE = re.compile(r"^([a-z][\w.]*): (.*)$", re.MULTILINE)  # of a container's configuration file


def _paths(document: Any, before: Path = ()) -> Iterator[Path]:
    if isinstance(document, dict):
        for key, value in document.items():
            yield (*before, key)
            yield from _paths(value, (*before, key))
    elif isinstance(document, list):
        for each in document:
            yield from _paths(each, (*before, "*"))


def _tags(element: ElementTree.Element, before: Path = ()) -> Iterator[Path]:
    for each in element:
        path = (*before, each.tag)
        if len(each):
            yield from _tags(each, path)
        elif "/".join(path[1:] if path[0] == "gpu" else path) in READ_OF_XML:
            yield path


FIELD_WAYS = ("missing", "unknown", "not a number", "swapped")
GONE = object()
VALUES: dict[str, Any] = {
    "itself": lambda value: value,
    "another": lambda value: "something else" if isinstance(value, str) else 7 if isinstance(value, int) else {},
    "missing": lambda _: GONE,
    "unknown": lambda value: UNKNOWN if isinstance(value, str) else None,
    "not a number": lambda value: "nan" if isinstance(value, str) else float("nan"),
    "swapped": lambda value: _swapped(value) if isinstance(value, str) else value,
}


def field_change(path: Path, way: str) -> Change:
    """A change of one field."""

    def text(whole: str) -> str:
        if (document := _document(whole)) is not None:
            return json.dumps(_at(copy.deepcopy(document), path, VALUES[way]))
        if (found := XML.search(whole)) is None:
            return _in_lines(whole, path[0], VALUES[way])
        root = ElementTree.fromstring(found[0])
        _in_xml(root, path, VALUES[way])
        return whole[: found.start()] + ElementTree.tostring(root, encoding="unicode") + whole[found.end() :]

    return _text(text)


def _at(document: Any, path: Path, change: Callable[[Any], Any]) -> Any:
    if not path:
        return change(document)
    first, rest = path[0], path[1:]
    if isinstance(document, list) and first == "*":
        return [made for each in document if (made := _at(each, rest, change)) is not GONE]
    if isinstance(document, dict) and first in document:
        if (made := _at(document[first], rest, change)) is GONE:
            del document[first]
        else:
            document[first] = made
    return document


def _in_lines(text: str, key: str, change: Callable[[Any], Any]) -> str:
    def line(found: re.Match[str]) -> str:
        if found[1] != key:
            return found[0]
        made = change(found[2])
        return "" if made is GONE else f"{key}: {made}"

    return LINE.sub(line, text)


def _in_xml(root: ElementTree.Element, path: Path, change: Callable[[Any], Any]) -> None:
    *parents, name = path
    above = root.findall("/".join(parents)) if parents else [root]
    for parent in above:
        for each in parent.findall(name):
            if (made := change(each.text or "")) is GONE:
                parent.remove(each)
            else:
                each.text = made
