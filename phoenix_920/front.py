"""The installed suite as a pytest plugin: what conftest.py and `testpaths` are in a checkout."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

SUITE = Path(__file__).parent / "suite"
sys.path.insert(0, str(SUITE))  # before a distribution that has a package `fixtures`

pytest_plugins = ["phoenix_920.plugins"]  # conftest.py of the checkout


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Run the suite's own template where the command line names no other."""
    if config.args_source is config.ArgsSource.INVOCATION_DIR:
        config.args = [str(SUITE / "tests_920")]
