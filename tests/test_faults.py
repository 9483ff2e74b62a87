"""The catalogue of faults is whole: each check of the build is turned red by one, alone where that can be."""

import argparse
from pathlib import Path

import pytest

from tests.faults import campaign, kills, results, table
from tests.faults.__main__ import lines
from tests.faults.campaign import Campaign
from tests.faults.catalogue import BY_NAME, FAULTS
from tests.faults.moments import fixes
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


def result(trial: str, **facts: object) -> dict[str, object]:
    return {"id": trial, "wrong": [], "seconds": 2.0, "occasion": "Monday", **facts}


def test_table_is_of_the_last_result_of_each_fault(tmp_path: Path) -> None:
    file, (again, other) = tmp_path / "results", FAULTS[:2]
    results.add(file, result(again.name, verdict=1.0))
    results.add(file, result(other.name, verdict=2.0))
    results.add(file, result(again.name, verdict=3.0, occasion="Tuesday"))
    page = table.text(lines(results.read(file)))
    assert f"2 of {len(FAULTS)} faults, all as expected; 1 on Tuesday; 1 on Monday." in page
    assert f"The longest time to a verdict was 3 s: {again.what}." in page


def test_result_that_was_cut_off_is_not_read(tmp_path: Path) -> None:
    """Its worker was killed while it wrote: the trial is run again."""
    file = tmp_path / "results"
    results.add(file, result("one"))
    with file.open("a") as lines_of_file:
        lines_of_file.write('{"id": "two", "wro')
    assert [facts["id"] for facts in results.read(file)] == ["one"]


def words(*given: str) -> argparse.Namespace:
    return campaign.parser("kills", "").parse_args(given)


def trials(*names: str) -> Campaign:
    return Campaign("kills", "none", names, lambda *_: {}, lambda _: "")


def test_second_call_resumes() -> None:
    found = [result("b"), result("c", wrong=["lost"])]
    assert campaign.chosen(trials("a", "b", "c"), words(), found) == ["a"]
    assert campaign.chosen(trials("a", "b", "c"), words("--wrong"), found) == ["a", "c"]
    assert campaign.chosen(trials("a", "b", "c"), words("--again", "--only", "b"), found) == ["b"]


def test_sample_is_the_same_for_the_same_seed() -> None:
    """Also where it is resumed: what is left comes in the same order."""
    every = trials(*"abcdefghij")
    first = campaign.chosen(every, words("--sample", "20", "--seed", "7"), [])
    assert sorted(first) == list("abcdefghij") != first
    assert campaign.chosen(every, words("--sample", "20", "--seed", "7"), [result(first[0])]) == first[1:]
    assert campaign.chosen(every, words("--sample", "20", "--seed", "8"), []) != first


def test_two_campaigns_do_not_share_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHOENIX_CACHE", str(tmp_path))
    with (
        campaign.alone("pve-x", tmp_path / "one.pid") as first,
        campaign.alone("pve-x", tmp_path / "two.pid") as second,
    ):
        assert (first, second) == (True, False)
    with campaign.alone("pve-x", tmp_path / "three.pid") as third:
        assert third


def test_state_file_is_named_by_what_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHOENIX_CACHE", str(tmp_path))
    file = campaign.state_file("kills", words())
    assert file.parent == tmp_path / "trials"
    assert results.content_key() in file.name
    assert campaign.state_file("kills", words("--sample", "20")) != file


def test_commands_that_a_refusal_names_are_found() -> None:
    output = """E   920@x is incomplete (snapstate prepare): pct unlock 920, then:
    pct delsnapshot 920 x
    --force
E   `pct start 920` afterwards; pct unlock 920"""
    assert fixes(output) == ["pct unlock 920", "pct delsnapshot 920 x --force", "pct start 920"]


def test_page_of_kills_has_every_kind() -> None:
    moment = next(iter(kills.GIVEN))
    end = {"way": "power", "stage": "seal", "words": "", "state": "off"}
    page = kills.text(
        [
            result(moment, state="off", then="green"),
            result("random 1.1", ends=[end, {**end, "state": "sealed"}], then="existing", wrong=["lost"]),
        ]
    )
    assert "2 trials of " in page
    assert " with 3 ends, 1 unexpected" in page
    assert "| seal | 2 | off 1, sealed 1 |" in page
    assert "- **random 1.1**: lost" in page


def test_given_moments_have_names_of_their_own() -> None:
    """An id says the kind, the moment and the way, and has no second meaning."""
    assert len(kills.GIVEN) > 150
    assert all(trial.endswith(f"; {way}") and moment.name in trial for trial, (moment, way) in kills.GIVEN.items())
