"""All faults, in the order of the build; each has a name of its own."""

from __future__ import annotations

from tests.faults import acceptance, family, preflight, sealing, serving, stack
from tests.faults.fault import Fault

FAULTS: tuple[Fault, ...] = tuple(
    fault for part in (preflight, stack, serving, sealing, acceptance, family) for fault in part.FAULTS
)
BY_NAME = {fault.name: fault for fault in FAULTS}
