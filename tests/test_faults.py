"""The catalogue of faults is whole: each check of the build is turned red by one, alone where that can be."""

from pathlib import Path

from tests.faults import kills, results, table
from tests.faults.__main__ import earlier
from tests.faults.catalogue import BY_NAME, FAULTS
from tests.faults.trial import NEVER, Line, declared, short

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


def test_table_tells_of_earlier_runs_too(tmp_path: Path) -> None:
    """A fault that was put again stands in it once, as it came out last."""
    file, (again, other) = tmp_path / "results", FAULTS[:2]
    for fault, seconds, occasion in ((again, 1.0, "Monday"), (other, 2.0, "Monday"), (again, 3.0, "Tuesday")):
        results.add(file, {**vars(Line(fault, seconds=seconds, occasion=occasion)), "fault": fault.name})
    page = table.text(earlier(file, []))
    assert "2 faults, none not as it must be; 1 on Tuesday; 1 on Monday." in page
    assert f"The longest time to a verdict was 3 s: {again.what}." in page
    assert [line.fault for line in earlier(file, [again])] == [other]


def test_loops_of_one_kind_are_one_table() -> None:
    kill = {"number": 1, "what": "power", "stage": "seal", "seconds": 1.0, "state": "off", "broken": []}
    loop = {"title": kills.FAST, "seed": 1, "occasion": "Monday", "seconds": 60.0, "ended": {"built": 2}, "wrong": []}
    loop["last"] = "green"
    page = kills.text([{**loop, "kills": [kill]}, {**loop, "seed": 2, "kills": [kill, {**kill, "broken": ["lost"]}]}])
    assert "3 ends: power 3. Runs in between that came to their end: built 4." in page
    assert "| seal | 3 | off 3 | lost |" in page
    assert kills.FULL not in page
