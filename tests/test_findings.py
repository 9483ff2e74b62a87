"""What a person reads of a failure: each cause once, the same text in colour, and no code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fixtures.base.errors import BuildError, explained
from fixtures.diagnosis.failure_modes import diagnose
from fixtures.diagnosis.root_cause import LOG, Diagnosis
from fixtures.diagnosis.words import says_it_itself
from fixtures.record.model import Record
from fixtures.record.run_folder import FOLDER
from fixtures.report import estimate
from fixtures.report.closing import Grey, findings, telling
from fixtures.report.terminal import Stages
from fixtures.run.build import BUILD
from fixtures.run.ledger import Ledger
from fixtures.run.mode import Outcome
from fixtures.run.stages import TRIAL, Blocked, Check, CheckResult, declared_checks
from fixtures.session import check_reports
from fixtures.session.check_reports import failure
from fixtures.template.clone import TriedClone
from tests.ledgers import hear
from tests.suite_run import Suite

LOCKED = "locked: {920: 'backup'}; expected no lock; run: pct unlock 920"
CODE = re.compile(r"\bassert\b|AssertionError|test_\w+ (FAILED|ERROR)|^E  ", re.MULTILINE)


def diagnosis(failure_text: str, check: str = "test_nothing_holds_a_lock") -> Diagnosis:
    texts = {"failure": failure_text}
    return Diagnosis(
        diagnose({"check": check, **texts}), texts, {}, "evidence.txt", check, says_it_itself(failure_text)
    )


def report(text: str, name: str = "test_a", **more: object) -> Any:
    return SimpleNamespace(longreprtext=text, nodeid=f"f.py::{name}", when="call", sections=[], **more)


def ledger(**blocked: str) -> Ledger:
    gpus = {f"f.py::test_a[gpu{gpu}]": f"GPU {gpu}: It answers." for gpu in (0, 1)}
    own = {"f.py::test_b": "It is free.", **gpus}
    names = ["f.py::test_a", "f.py::test_b", *gpus, *(f"f.py::{name}" for name in blocked)]
    book = Ledger([Check("preflight", name) for name in names])
    for name in names:
        well = own.get(name, "It is well.")
        claim = f"{name[6:]} claims this; a warning adds that." if name[6:] in blocked else well
        book.begin(name, claim)
        if cause := blocked.get(name[6:]):
            hear(book, name, "skipped", Blocked(f"f.py::{cause}"))
    return book


def lines(*reports: Any, of: Ledger | None = None) -> list[str]:
    diagnoses = {(each.nodeid, each.when): diagnosis(each.longreprtext) for each in reports}
    return [*findings(reports, diagnoses, of or ledger())]


def test_finding_says_what_why_and_how() -> None:
    assert lines(report(LOCKED))[:3] == [
        "1. preflight: It is well.",
        f"   {LOCKED}",
        "   A6 Container 920 is locked by a backup",
    ]


def test_same_diagnosis_is_said_once() -> None:
    said = lines(report(LOCKED), report(LOCKED.replace("{920: 'backup'}", "{920: 'backup', 903: 'disk'}"), "test_b"))
    assert said[-1] == "   as in 1."
    assert len([line for line in said if "fix:" in line]) == 1


def test_what_two_checks_saw_is_one_finding() -> None:
    said = lines(report(LOCKED), report(LOCKED.replace("no lock", "that it is free"), "test_b"))
    assert said[:3] == ["1. preflight: It is well.", f"   {LOCKED}", "   the same: It is free."]
    assert not [line for line in said if line.startswith("2.")]


def test_whole_claim_of_a_gpus_check_is_expected_and_line_ends_of_ssh_are_read() -> None:
    said = explained("gone\r\nclosed", "GPU 0: The server becomes ready: healthy, one chat finished.", "look")
    assert said == "gone; expected that the server becomes ready: healthy, one chat finished; run: look\nclosed"


@pytest.mark.parametrize(
    ("command", "typed"),
    [
        ("H: pct config 920", "pct config 920"),
        ("C: nvidia-ctk cdi list; nvidia-smi -L", "pct exec 920 -- sh -c 'nvidia-ctk cdi list; nvidia-smi -L'"),
        ("D: env", ""),  # in a server that is gone
        ("in the run's folder: zcat server-*.log.gz", "cd reports/latest/n && zcat server-*.log.gz"),
    ],
)
def test_command_of_the_catalogue_is_typed_on_the_node(command: str, typed: str) -> None:
    container = SimpleNamespace(pasteable=lambda *words: f"pct exec 920 -- {shlex.join(words)}")
    settings, template = SimpleNamespace(report_folder=Path("reports")), SimpleNamespace(container=container)
    stash = {
        BUILD: SimpleNamespace(settings=settings, template=template),
        FOLDER: Path("reports/20261130T000000Z-920/n"),
    }
    item: Any = SimpleNamespace(config=SimpleNamespace(stash=stash))
    assert check_reports._confirms(item, command) == typed


WRONG = "asked 'Capital?', the answer has no 'Berlin': 'Paris, {}.'; expected the word 'Berlin'; run: zless {}"


def test_one_failure_of_two_gpus_is_one_finding() -> None:
    """A wrong answer begins with the question, the answer and what was expected."""
    two = [report(WRONG.format(gpu, gpu), f"test_a[gpu{gpu}]") for gpu in (0, 1)]
    said = lines(*two, of=ledger(test_c="test_a[gpu1]"))
    assert said[:2] == ["1. preflight: GPU 0, GPU 1: It answers.", f"   {WRONG.format(0, 0)}"]
    assert said[-1] == "   blocks 1: test_c claims this"
    assert not [line for line in said if line.startswith("2.")]
    named = [report(explained("wrong", "It.", "look", f"GPU {n} (UUID-{'ab'[n]})"), f"test_a[gpu{n}]") for n in (0, 1)]
    said = lines(*named)
    assert said[1:3] == ["   wrong; expected that It; card: GPU 0 (UUID-a); run: look", "   the same: GPU 1 (UUID-b)"]
    other = report("it is hot", "test_a[gpu1]")
    assert len([line for line in lines(two[0], other) if re.match(r"\d\. ", line)]) == 2


def test_servers_log_is_what_may_explain_its_end() -> None:
    log = (Path(__file__).parent / "data/cases/21-kv-cache/log.txt").read_text()
    noise = 'INFO:     127.0.0.1:5 - "GET /health HTTP/1.1" 200 OK\nINFO Route: /ping, Methods: GET, POST\n\n'
    assert telling(noise + log + noise) == log.splitlines()


def earlier(reports: Path, when: str, outcome: Outcome, seconds: float, clone: TriedClone | None = None) -> None:
    (folder := reports / f"{when}-920").mkdir(parents=True)
    checks = [
        CheckResult(f"{stage}.py::a", stage, "A.", "passed", "", 100.0, seconds) for stage in ("one", "two", "three")
    ]
    (folder / "record.json").write_text(Record("x", 0.0, outcome=outcome, checks=checks, clone=clone or {}).to_json())


def test_the_rest_is_estimated_from_earlier_runs_of_the_kind(tmp_path: Path) -> None:
    for number, seconds in enumerate((1000.0, *[60.0] * 5, 9.0)):
        earlier(tmp_path, f"2026112{number}T000000Z", Outcome.EXISTING if seconds == 9.0 else Outcome.BUILT, seconds)
    (tmp_path / "20261130T000000Z-920").mkdir()
    (tmp_path / "20261130T000000Z-920/record.json").write_text("{")
    known = estimate.typical(tmp_path, 920, Outcome.BUILT)
    assert known == {"one": 60.0, "two": 60.0, "three": 60.0}
    assert estimate.left(known, ["one", "two", "three"], "one") == 120.0
    assert estimate.typical(tmp_path, 930, Outcome.BUILT) == {}
    settings = SimpleNamespace(report_folder=tmp_path)
    more: dict[str, Any] = {
        "settings": settings,
        "suite": SimpleNamespace(ctid=920),
        "mode": SimpleNamespace(ends=Outcome.BUILT),
    }
    ledger = SimpleNamespace(stages=["one", "two", "three"])
    results = [CheckResult(f"{stage}.py::a", stage, "A.", "passed") for stage in ledger.stages]
    first, second, last = shown(results, only_reads=False, ledger=ledger, **more)
    assert "; about 2 min 00 s left)" in first
    assert "; about 1 min 00 s left)" in second
    assert "left" not in last


def test_the_clone_costs_what_it_took_in_the_newest_run_that_copied_one(tmp_path: Path) -> None:
    build: Any = SimpleNamespace(settings=SimpleNamespace(report_folder=tmp_path), suite=SimpleNamespace(ctid=920))
    build.ledger = SimpleNamespace(roles={TRIAL: "two"})
    assert estimate.clone_step(build) == ""
    earlier(tmp_path, "20261101T000000Z", Outcome.BUILT, 90.0, {"copied_in_seconds": 61.0, "copy_takes_mib": 20480})
    earlier(tmp_path, "20261102T000000Z", Outcome.BUILT, 30.0)
    said = "in an earlier run 1 min 30 s, 1 min 01 s of it to copy 20480 MiB; --no-clone skips it"
    assert estimate.clone_step(build) == said
    build.ledger.roles.clear()
    assert estimate.clone_step(build) == ""


def test_what_a_failure_blocks_is_listed_in_grey() -> None:
    found = lines(report("x"), of=ledger(test_c="test_a", test_d="test_b"))
    assert (found[-1], type(found[-1])) == ("   blocks 1: test_c claims this", Grey)


def test_servers_log_is_in_grey_and_short() -> None:
    log = "\n".join(f"line {number}" for number in range(60))
    failed = report("x")
    failed.sections = [(LOG, log)]
    grey = [line for line in lines(failed) if isinstance(line, Grey)]
    assert [line.strip() for line in grey] == [f"{LOG}:", *log.splitlines()[-15:]]


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("the disk is green; expected a blue one; run: df", False),
        ("`pct start 920` on pve ended with 1", True),
        ("the chat was answered with 418: I am a teapot", True),
    ],
)
def test_no_known_mode_is_said_only_of_what_nothing_explains(text: str, *, unknown: bool) -> None:
    said = diagnosis(text, "test_x").text
    assert ("no known failure mode matches" in said) is unknown
    assert ("report it" in said) is unknown


def shown(results: list[CheckResult], *, verbose: int = 0, only_reads: bool = True, **build: Any) -> list[str]:
    """What the terminal shows of these checks, one after the other."""
    said: list[str] = []
    reporter = SimpleNamespace(write_line=lambda line, **_: said.append(line), showfspath=True, stats={})
    plugins = SimpleNamespace(get_plugin=lambda _: reporter)
    config: Any = SimpleNamespace(pluginmanager=plugins, option=SimpleNamespace(verbose=verbose))
    known = {result.name: result for result in results}
    more = {"ledger": SimpleNamespace(), **build}
    more["ledger"].result = known.get
    stages = Stages(config, cast(Any, SimpleNamespace(only_reads=only_reads, **more)))
    for name in known:
        for when in ("setup", "call", "teardown"):
            stages.pytest_runtest_logreport(SimpleNamespace(nodeid=name, when=when))
    known["next"] = CheckResult("next", "the stage after", "A.", "passed")
    stages.pytest_runtest_logstart("next")
    before = [*said]
    stages.pytest_sessionfinish()
    assert said == before or known[name].verdict == "skipped", "a stage is not said before the next begins"
    return said


def test_stage_says_its_own_time_and_failures_first() -> None:
    verdicts = {"a": "passed", "b": "passed", "c": "failed"}
    results = [CheckResult(f"x.py::{name}", "image", "A.", each, "", 100.0, 18.0) for name, each in verdicts.items()]
    assert shown(results)[-1] == "image              1 failed, 2 passed (18 s)"


def existing() -> list[CheckResult]:
    """An accepted template: most checks are not needed."""
    reads = {"test_010_preflight.py::test_node_is_proxmox", "test_070_sealed.py::test_snapshot_is_whole"}
    checks = declared_checks(Path(__file__).parent.parent / "tests_920/CHECKS", (0, 1))
    return [
        CheckResult(check.name, check.stage, f"{check.name}.", "passed")
        if check.name in reads or check.stage == "recorded"
        else CheckResult(check.name, check.stage, f"{check.name}.", "skipped", "920@s was built before")
        for check in checks
        if check.role != "family"
    ]


def test_existing_template_is_a_few_lines() -> None:
    lines = shown(existing())
    assert [line.partition("  ")[0] for line in lines] == [
        "preflight",
        "clone to seal:",
        "sealed",
        "recorded",
        "clone acceptance to accepted: 920@s was built before",
    ]
    assert "1 passed" in lines[0]
    assert "not needed" in lines[0]


def test_v_shows_each_check_by_its_sentence() -> None:
    checks = [
        CheckResult("a.py::test_a", "one", "It is well.", "passed", seconds=1.0),
        CheckResult("a.py::test_b", "one", "GPU 1: It is well.", "failed", "it is ill", seconds=2.0),
        CheckResult(
            "a.py::test_c",
            "one",
            "It can be asked.",
            "skipped",
            "blocked by: GPU 1: It is well",
            blocked_by="a.py::test_b",
        ),
    ]
    assert shown(checks, verbose=1)[:3] == [
        "  passed        It is well. (1.0 s)",
        "  failed        GPU 1: It is well: it is ill (2.0 s)",
        "  skipped       It can be asked: blocked by: GPU 1: It is well",
    ]
    assert shown(checks)[0] == "failed: GPU 1: It is well."
    assert "1 blocked" in shown(checks)[1]
    assert shown(checks, verbose=-1) == []


def raised(error: BaseException) -> str:
    with pytest.raises(type(error)) as found:
        raise error
    return failure(found)


def test_failure_begins_with_its_own_words() -> None:
    assert raised(BuildError("the node refused")) == "the node refused"
    assert raised(AssertionError(LOCKED)) == LOCKED
    mistake = raised(KeyError("x"))
    assert mistake.startswith("KeyError: 'x'\n")
    assert "test_findings.py" in mistake
    assert "\x1b" not in mistake


def test_text_is_the_same_in_colour(tmp_path: Path) -> None:
    runs = []
    for colour in ("yes", "no"):
        (tmp_path / colour).mkdir()
        runs.append(Suite(tmp_path / colour).run(f"--color={colour}"))
    reasons = [[check.reason.replace(str(run.folder.parent), "") for check in run.record.checks] for run in runs]
    assert reasons[0] == reasons[1]
    assert any("refused" in reason for reason in reasons[0])
    assert "\x1b" in runs[0].output
    assert "\x1b" not in "".join((runs[0].folder / name).read_text() for name in ("record.json", "junit.xml"))
    assert not CODE.search(runs[1].output)
    assert "findings" in runs[1].output
