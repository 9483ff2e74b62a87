"""Any text as a setting, an ini file or a declaration: it is used, or refused in clear lines, and never a traceback."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fixtures.base import settings as options
from fixtures.base.declaration import load
from fixtures.base.errors import BuildError
from fixtures.base.settings import Settings
from fixtures.run.stages import declared_checks
from fixtures.run.waivers import load as load_waivers
from tests.suite_run import TOP, Suite

GOOD = json.loads((TOP / "phoenix_lxc_configs.json").read_text())
DEFAULTS = {name: default for name, default, _ in options.OPTIONS}
LONGEST = 600  # characters of a line that a person is to read
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)
NASTY = ["a\0b", "\x1b[2J", "~nobody-of-that-name/x", "x" * 5000, "../" * 50, "nan", "-1", "1e400", "'", "\ud800", "\n"]


def refused(error: Exception, what: str, lines: int = 1) -> None:
    """Assert that a refusal is clear: few short lines that can be printed and begin with what can't be used."""
    said = str(error).split("\n")
    assert len(said) <= lines
    assert all(line.startswith(what) and len(line) <= LONGEST and line.isprintable() for line in said), said


# --- settings -----------------------------------------------------------------------------------------


def read(**changed: str) -> Settings:
    values = {**DEFAULTS, **changed}
    return options.read(cast(Any, SimpleNamespace(getini=values.__getitem__, rootpath=TOP)))


@pytest.mark.parametrize("name", DEFAULTS)
@settings(max_examples=30)
@given(st.text() | st.sampled_from(NASTY) | st.from_regex(r"[0-9,. -]{1,12}"))
def test_any_setting_is_read_or_refused(name: str, text: str) -> None:
    try:
        found = read(**{name: text})
    except pytest.UsageError as error:
        refused(error, f"{name}: ")
    else:
        values = [each for value in vars(found).values() for each in (value if isinstance(value, tuple) else [value])]
        assert not [each for each in values if isinstance(each, str | Path) and "\0" in str(each)]


INI = st.lists(
    st.tuples(
        st.sampled_from([*DEFAULTS, "unknown", "vllm image", "[x]", "report-folder"]),
        st.sampled_from([each for each in NASTY if each != "\ud800"]) | st.text(st.characters(codec="utf-8")),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=3, deadline=None)
@given(INI)
@example([("unknown", "1")])
@example([("report_folder", "a\0b")])
@example([("waivers", "~nobody-of-that-name/x")])
def test_any_ini_file_is_used_or_refused_before_anything_is_made(lines: list[tuple[str, str]]) -> None:
    """A run on a node that refuses everything ends with 1 and a report; a bad file ends it with 4 and without."""
    with tempfile.TemporaryDirectory() as folder:
        suite, ini = Suite(Path(folder)), Path(folder, "some.ini")
        text = "".join(f"{name} = {value}\n" for name, value in lines if name != "report_folder" or "\0" in value)
        kept = (TOP / "pytest.ini").read_text()
        ini.write_text(f"{kept}{text}")
        run = suite.start("-c", str(ini), f"--rootdir={TOP}")
        output, _ = run.communicate(timeout=60)
        assert "Traceback" not in output
        assert run.returncode in (1, 4)
        assert bool(suite.folders()) is (run.returncode == 1), output
        if run.returncode == 4:
            assert len(output.strip().splitlines()) <= 3, output
            assert "\x1b" not in output


# --- the declaration ----------------------------------------------------------------------------------


def declare(document: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "declared.json")
        path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
        try:
            declared = load(path)
        except BuildError as error:
            refused(error, f"{path}:", lines=21)
        else:
            for each in declared.containers.values():
                sizes = (each.memory_mb, each.cores, each.storage_size_gb)
                numbers = (each.ctid, each.tensor_parallel, *sizes, *each.gpus)
                assert all(type(number) is int for number in numbers)


@given(st.binary() | st.text().map(lambda text: text.encode(errors="surrogatepass")))
@example(b"[" * 200_000)
@example(b"1" * 5000)
@example(b'{"a": Infinity}')
def test_any_file_is_a_declaration_or_refused(content: bytes) -> None:
    declare(content)


@given(JSON)
def test_any_json_is_a_declaration_or_refused(document: Any) -> None:
    declare(document)


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to each value of a document."""
    if path:
        yield path
    if isinstance(document, dict):
        for key, value in document.items():
            yield from places(value, (*path, key))


@settings(max_examples=300)
@given(st.sampled_from(list(places(GOOD))), JSON | st.sampled_from([4096.0, "920\n", "\x1b[2J", "x" * 9999]), st.text())
def test_any_change_of_the_declaration_is_read_or_refused(path: tuple[Any, ...], value: Any, key: str) -> None:
    """One value is another, and one key is added beside it."""
    document = copy.deepcopy(GOOD)
    place = document
    for each in path[:-1]:
        place = place[each]
    place[path[-1]] = value
    declare(document)
    place[key] = value
    declare(document)


# --- waivers ------------------------------------------------------------------------------------------


@given(st.binary() | st.text().map(lambda text: f"[[waiver]]\ncheck = {json.dumps(text)}\n".encode()))
@example(b"a = " + b"[" * 100_000)
@example(b"a = " + b"1" * 5000)
def test_any_file_is_waivers_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "waivers.toml")
        path.write_bytes(content)
        try:
            load_waivers(path, declared_checks(TOP / "tests_920/CHECKS", (0, 1)))
        except BuildError as error:
            refused(error, f"{path}:")
