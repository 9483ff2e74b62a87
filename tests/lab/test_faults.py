"""One fault of each stage, put for real; `make faults` puts all of them."""

from __future__ import annotations

import pytest

from tests.faults.catalogue import FAULTS
from tests.faults.fault import Fault
from tests.faults.trial import prepare, try_fault
from tests.lab.harness import STAND_IN, Lab

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.quick], ids=lambda fault: fault.name)
def test_fault_is_found(lab: Lab, fault: Fault) -> None:
    """By the right stage and by exactly the right checks; nothing is sealed, and nothing is left."""
    prepare(lab, fault.ground)
    assert try_fault(lab, fault).wrong == []


def test_next_run_is_green(lab: Lab) -> None:
    run = lab.build(*STAND_IN, "--rebuild")  # the last fault may have left an accepted one
    assert (run.status, run.outcome) == (0, "built")
