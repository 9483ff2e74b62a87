"""How all tests are run."""

from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings

from fixtures.base.inconclusive import Inconclusive

# a slow moment of the machine is no failure of what is tested
settings.register_profile("without a deadline", deadline=None)
settings.load_profile("without a deadline")


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, Any, Any]:
    """Fail a test whose check was inconclusive: as a skipped one it would prove nothing, and nobody would see it."""
    try:
        return (yield)
    except Inconclusive as reason:
        pytest.fail(f"the check under test was inconclusive, so this test proves nothing: {reason}")
