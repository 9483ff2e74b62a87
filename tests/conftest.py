"""How all tests are run."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from fixtures.base.errors import Inconclusive

# a slow moment of the machine is no failure of what is tested
settings.register_profile("without a deadline", deadline=None)
settings.load_profile("without a deadline")

# The files that take longest begin first, so that in the end no worker is left alone with one of them.
FAST = "wheelhouse trust mutations node_model node_process other_plugins verdict internal_error report_page"
LAB = "record clone faults half_made build verify family generations gpu_numbers power nodes sealing flood docs"
LONGEST = [f"test_{name}.py" for name in FAST.split()] + [f"lab/test_{name}.py" for name in LAB.split()]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by file; the order of the tests in a file stays."""
    here = Path(__file__).parent
    place = {here / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(LONGEST)))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, Any, Any]:
    """Fail a test whose check was inconclusive: as a skipped one it would prove nothing, and nobody would see it."""
    try:
        return (yield)
    except Inconclusive as reason:
        pytest.fail(f"the check under test was inconclusive, so this test proves nothing: {reason}")
