"""The catalogue of faults is whole: each check of the build is turned red by one, alone where that can be."""

from tests.faults.catalogue import BY_NAME, FAULTS
from tests.faults.trial import NEVER, declared, short

GPUS = (0, 1)


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(FAULTS)


def test_faults_name_declared_checks() -> None:
    stages = {short(check.name): check.stage for check in declared(GPUS)}
    for fault in FAULTS:
        assert {stages.get(name, f"no check {name}") for name in fault.checks(GPUS)} <= {fault.stage}, fault.name


def test_each_check_can_fail() -> None:
    """A new check needs a fault that turns it red, and no other with it, or says with which it is paired and why."""
    alone = {name.partition("[")[0] for fault in FAULTS if len(families(fault.failed)) == 1 for name in fault.failed}
    paired = {name.partition("[")[0] for fault in FAULTS if fault.paired for name in fault.failed}
    checks = families(short(check.name) for check in declared(GPUS))
    assert checks - alone - paired - set(NEVER) == set()


def families(names: object) -> set[str]:
    return {name.partition("[")[0] for name in names}  # type: ignore[attr-defined]


def test_each_stage_has_one_fault_that_is_tried_each_time() -> None:
    stages = list(dict.fromkeys(check.stage for check in declared(GPUS)))
    assert sorted(fault.stage for fault in FAULTS if fault.quick) == sorted(stages)
