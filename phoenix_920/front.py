"""The engine as an installed pytest plugin, for suites that lie outside a checkout; elsewhere it does nothing.

pytest loads this module in every run of the Python that it is installed in (entry point `pytest11`). It imports the
engine only for a folder `tests_NUMBER` with a CHECKS file. A checkout has its own engine, which its conftest.py loads.
"""

from __future__ import annotations

import configparser
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
INSTALLED = (HERE / "suite").is_dir()
SUITE = HERE / "suite" if INSTALLED else HERE.parent  # what is installed of a checkout, or the checkout itself
ENGINE = "fixtures/session/command_line.py"


def suites(words: Iterable[str], beside: Path) -> set[Path]:
    """The folders `tests_NUMBER` that words of a command line name, or lie in; whether they exist or not."""
    paths = [(word, beside / word.partition("::")[0]) for word in words if not word.startswith("-")]
    return {
        folder
        for word, path in paths
        for folder in (path, *path.parents)
        if re.fullmatch(r"tests_\d+", folder.name) and (folder.name in word or path.exists())
    }


def _has_its_engine(folder: Path) -> bool:
    return any((each / ENGINE).is_file() and (each / "conftest.py").is_file() for each in folder.resolve().parents)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Iterator[None]:
    """Load the engine before the first conftest.py, if the run names a suite that has none of its own.

    Yields:
        To pytest, which loads the files conftest.py.
    """
    words = early_config.known_args_namespace.file_or_dir
    if words:
        found = suites(words, early_config.invocation_params.dir)
    else:
        found = suites(early_config.getini("testpaths"), early_config.rootpath)
    if any((folder / "CHECKS").is_file() for folder in found) and not any(map(_has_its_engine, found)):
        sys.path.insert(0, str(SUITE))  # before a distribution that has a package `fixtures`
        early_config.pluginmanager.import_plugin("phoenix_920.plugins" if INSTALLED else "conftest")
        ini = configparser.ConfigParser(interpolation=None)
        ini.read(SUITE / "pytest.ini", encoding="utf-8")
        for marker in ini["pytest"]["markers"].split("\n"):
            early_config.addinivalue_line("markers", marker)
    return (yield)
