"""All faults, in the order of the build; each has a name of its own."""

from __future__ import annotations

from tests.faults import acceptance, preflight, sealing, serving, stack
from tests.faults.fault import Fault

FAULTS: tuple[Fault, ...] = (*preflight.FAULTS, *stack.FAULTS, *serving.FAULTS, *sealing.FAULTS, *acceptance.FAULTS)
BY_NAME = {fault.name: fault for fault in FAULTS}
