"""The record of a run and its files: whole, true and valid, however the run ends."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from fixtures.base import files
from fixtures.record import builder, run_folder
from fixtures.record.exports import ctrf, junit, statements
from fixtures.record.model import Record, Subject, Verdict, from_json
from fixtures.report import summary
from fixtures.report.head import head
from fixtures.report.recorder import OFTEN, Recorder
from fixtures.run import caveats
from fixtures.run.ledger import Ledger
from fixtures.run.mode import BUILD, VERIFY, VERIFY_DEEP, Mode, Outcome
from fixtures.run.stages import Check, CheckResult
from fixtures.template import manifest
from tests import schemas
from tests.suite_run import Suite

FILES = {
    "report.html",
    "junit.xml",
    "record.json",
    "summary.md",
    "ctrf.json",
    "record.intoto.json",
    "provenance.intoto.json",
    "evidence-preflight.txt",
    "commands.jsonl",
}
AT_THIRD_CHECK = """
import pytest
from fixtures.proxmox.command import DeadlineExceeded
seen = []
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    seen.append(item)
    if len(seen) == 3:
        raise {error}
"""


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


def record(**changes: object) -> Record:
    checks = [
        CheckResult("a.py::test_a", "clone", "A.", "passed", "", 1000.5, 0.25),
        CheckResult("a.py::test_b", "clone", "B.", "passed", "it warned", 1001.0, 0.5),
        CheckResult("a.py::test_c", "image", "C.", "failed", "why", 1002.0, 1.0),
        CheckResult("a.py::test_d", "seal", "D.", "skipped", "blocked by image", 1003.0),
        CheckResult("a.py::test_e", "seal", "E.", "not run"),
    ]
    made = Record("2f0b1f0e-5a0c-4c69-9b43-6a1f4f0e7a11", 1000.0, 1010.0, checks=checks)
    made.subjects = [Subject("pve:n/lxc/920@s", "a" * 64)]
    made.suite = {"commit": "b" * 40, "changed": "no", "requirements_sha256": "c" * 64}
    made.node, made.container = {"name": "n"}, {"ctid": 920, "cloned_from": "903@p", "declared_in": "x.json"}
    made.image = {"digest": f"vllm/vllm-openai@sha256:{'d' * 64}"}
    made.model = {"name": "/m", "files": {"config.json": "e" * 64}}
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_failed_run_leaves_all_files(suite: Suite) -> None:
    run = suite.run()
    assert run.status == 1
    assert {path.name for path in run.folder.iterdir()} == FILES
    schemas.check_folder(run.folder)
    assert (run.record.outcome, run.record.verdict) == (Outcome.FAILED, Verdict.FAILED)
    assert run.record.finished > run.record.started > 0
    assert run.record.checks[0].verdict == "passed"
    assert run.record.checks[2].reason.startswith("`cat /etc/pve/.members")
    assert {check.stage for check in run.record.checks if check.verdict == "skipped"} > {"clone", "seal"}
    assert run.record.node["version"] == "pve-manager/9.0.0/stub"
    assert run.record.subjects[0].name == f"run:{run.record.invocation}"


def test_provenance_holds_the_digests_of_the_finished_files(suite: Suite) -> None:
    run = suite.run()
    provenance = json.loads((run.folder / "provenance.intoto.json").read_text())
    byproducts = {
        each["name"]: each["digest"]["sha256"] for each in provenance["predicate"]["runDetails"]["byproducts"]
    }
    assert set(byproducts) == FILES - {"provenance.intoto.json"}
    assert byproducts == {name: hashlib.sha256((run.folder / name).read_bytes()).hexdigest() for name in byproducts}


def test_commands_are_logged(suite: Suite) -> None:
    run = suite.run()
    commands = [json.loads(line) for line in (run.folder / "commands.jsonl").read_text().splitlines()]
    (first,) = [each for each in commands if each["argv"] == ["pveversion"]]
    assert (first["where"], first["exit_status"]) == ("lab:stub", 0)
    assert first["output_sha256"] == hashlib.sha256(b"pve-manager/9.0.0/stub\n").hexdigest()


@pytest.mark.parametrize("hook", ["", "@pytest.hookimpl(trylast=True)", "@pytest.hookimpl(wrapper=True)"])
def test_broken_reporter_does_not_lose_the_record(suite: Suite, hook: str) -> None:
    body = "yield; raise ValueError('no paper')" if "wrapper" in hook else "raise ValueError('no paper')"
    run = suite.run(plugin=f"import pytest\n{hook}\ndef pytest_sessionfinish(session):\n    {body}\n")
    assert run.record.outcome is Outcome.FAILED
    assert "a reporter broke: ValueError: no paper" in run.record.warnings
    assert (run.folder / "provenance.intoto.json").exists()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        ("KeyboardInterrupt", Outcome.ABORTED),
        ("DeadlineExceeded('`pct` took longer')", Outcome.TIMEOUT),
        ("MemoryError", Outcome.FAILED),
    ],
)
def test_outcome_says_how_the_run_ended(suite: Suite, error: str, outcome: Outcome) -> None:
    only = ["--deselect", "tests_920/test_010_preflight.py::test_parent_is_as_declared"]
    plugin = AT_THIRD_CHECK.replace("== 3", "== 1").format(error=error)
    run = suite.run(*only, plugin=plugin)
    assert (run.record.outcome, run.record.verdict) == (outcome, Verdict.FAILED)
    schemas.check_folder(run.folder)


def test_full_disk_is_no_traceback(suite: Suite) -> None:
    run = suite.run(plugin="def pytest_sessionfinish(session):\n    raise OSError(28, 'No space left on device')\n")
    assert run.status == 3
    assert "a report was not written: [Errno 28] No space left on device" in run.output
    assert "Traceback" not in run.output
    assert run.record.outcome is Outcome.FAILED


def test_what_can_not_be_written_fails_the_run(suite: Suite) -> None:
    plugin = (
        "from fixtures.record.exports import ctrf\n"
        "def broken(record):\n    raise OSError('disk full')\nctrf.document = broken\n"
    )
    run = suite.run(plugin=plugin)
    assert run.status == 3
    assert "ctrf.json was not written: OSError: disk full" in run.output
    assert (run.folder / "provenance.intoto.json").exists()


def noted(suite: Suite) -> bool:
    """Whether the record of some run has a check."""
    paths = [folder / "record.json" for folder in suite.folders()]
    return any(from_json(path.read_text()).checks for path in paths if path.exists())


def test_kill_leaves_a_record_that_says_so(suite: Suite) -> None:
    """At 10 random moments: each file is whole, and a record without an end says aborted."""
    plugin = "import time\ndef pytest_runtest_call(item):\n    time.sleep(0.03)\n"
    seed = random.randrange(10**6)
    print("seed", seed)
    moments = random.Random(seed)
    for number in range(10):
        process = suite.start(plugin=plugin)
        if number:
            time.sleep(moments.uniform(0.3, 4.0))
        while not number and process.poll() is None and not noted(suite):  # a busy machine takes seconds to begin
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=20)
        for folder in suite.folders():
            for path in folder.glob("*.json"):
                assert json.loads(path.read_text())
            found = from_json((folder / "record.json").read_text())
            assert found.outcome is (Outcome.FAILED if found.finished else Outcome.ABORTED)
            assert found.verdict is Verdict.FAILED
    assert noted(suite)


def test_killed_while_all_passes_is_aborted(suite: Suite) -> None:
    """Killed as the last thing before the session ends, with one check that has passed."""
    plugin = "import os\ndef pytest_sessionfinish():\n    os.kill(os.getpid(), 9)\n"
    run = suite.run("-k", "test_node_is_proxmox", plugin=plugin)
    assert run.status == -signal.SIGKILL
    assert (run.record.outcome, run.record.finished) == (Outcome.ABORTED, 0.0)
    assert run.record.checks[0].verdict == "passed"
    assert {path.name for path in run.folder.iterdir() if path.name.endswith(".json")} == {"record.json"}


def test_ctrf_counts_every_check() -> None:
    document = ctrf.document(record())
    schemas.check_json(document, "ctrf.schema.json")
    summary = document["results"]["summary"]
    counts = {key: summary[key] for key in ("tests", "passed", "failed", "skipped", "pending", "other")}
    assert counts == {"tests": 5, "passed": 2, "failed": 1, "skipped": 1, "pending": 1, "other": 0}
    assert (summary["start"], summary["stop"]) == (1000000, 1010000)


def test_test_result_names_the_checks() -> None:
    statement = statements.test_result(record(operator="https://ci.example/1", verdict=Verdict.FAILED))
    schemas.check_statement(statement, "record")
    predicate = statement["predicate"]
    assert predicate["passedTests"] == ["a.py::test_a"]
    assert predicate["warnedTests"] == ["a.py::test_b"]
    assert predicate["failedTests"] == ["a.py::test_c"]
    assert predicate["url"] == "https://ci.example/1"


def test_provenance_names_what_it_was_built_from() -> None:
    statement = statements.provenance(record(), {"report.html": "f" * 64, "server-all.log.gz": "0" * 64})
    schemas.check_statement(statement, "provenance")
    definition = statement["predicate"]["buildDefinition"]
    assert [each.get("uri", each.get("name")) for each in definition["resolvedDependencies"]] == [
        "pve:n/lxc/903@p",
        "suite",
        f"docker://vllm/vllm-openai@sha256:{'d' * 64}",
        "/m/config.json",
    ]
    assert statement["subject"] == [{"name": "pve:n/lxc/920@s", "digest": {"sha256": "a" * 64}}]


@pytest.mark.parametrize("spoil", [{"subjects": []}, {"subjects": [Subject("x", "short")]}])
def test_schema_refuses_what_is_wrong(spoil: dict[str, object]) -> None:
    with pytest.raises(AssertionError):
        schemas.check_statement(statements.test_result(record(**spoil)), "record")


def test_record_is_read_as_it_was_written() -> None:
    text = record().to_json()
    assert from_json(text).to_json() == text


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.ABORTED, Outcome.TIMEOUT])
def test_verdict_of_a_run_that_was_cut_short(outcome: Outcome) -> None:
    assert builder.verdict(outcome, Record("1", 1.0, checks=record().checks[:1])) is Verdict.FAILED


def test_what_weakens_a_proof_is_in_every_view() -> None:
    checks = [CheckResult(f"a.py::test_{v[0]}", "image", "A.", v) for v in ("inconclusive", "passed")]
    weak = record(checks=checks, caveats=["1 inconclusive check: a.py::test_i"], simulated=["GPU"])
    predicate = statements.test_result(weak)["predicate"]
    assert predicate["warnedTests"] == ["a.py::test_i"]
    assert predicate["configuration"][0]["annotations"] == {"caveats": weak.caveats, "simulated": ["GPU"]}
    schemas.check_statement(statements.test_result(weak), "record")
    (caveat,) = weak.caveats
    documents = (ctrf.document(weak), statements.provenance(weak, {}))
    for view in (weak.to_json(), *map(json.dumps, documents)):
        assert caveat in view
    page = head(weak, [])
    assert "<dd>1 inconclusive check</dd>" in page, "it names the check once, by its sentence, below"
    assert "<li>A.</li>" in page
    assert "- 1 inconclusive check\n" in summary.page(weak, "x")


def test_inconclusive_checks_are_a_line_for_each_reason() -> None:
    reasons = {
        "GPU 0: It computes.": "inconclusive: simulated GPU",
        "All add up.": "inconclusive: simulated GPU; on the CPU it is right",
        "GPU 1: It computes.": "inconclusive: simulated GPU",
        "Answers agree.": "unknown: whether answers agree: the reference needs 2 runs; GPU 0: 0.1",
    }
    checks = [CheckResult("a.py::test_a", "image", title, "inconclusive", why) for title, why in reasons.items()]
    page, told = head(record(checks=checks), []), summary.page(record(checks=checks), "x")
    assert page.count('<summary>Simulated GPU <span class="quiet">3 checks</span>') == 1
    assert "<li>GPU 0, GPU 1: It computes.</li>" in page
    assert "- simulated GPU: GPU 0, GPU 1: It computes. All add up.\n" in told
    assert "- unknown: whether answers agree: the reference needs 2 runs: Answers agree.\n" in told


def test_what_weakens_a_proof_is_in_the_junit_file() -> None:
    cases = '<testcase name="a" /><testcase />'
    written = f'<testsuites name="p"><testsuite name="pytest" tests="1">{cases}</testsuite></testsuites>'
    text = junit.named(written, [], ['1 waived failure: a.py::test_"b"', "simulated GPU"])
    suite = ElementTree.fromstring(text).find("testsuite")
    assert suite is not None
    found = [each.attrib["value"] for each in suite.iterfind("properties/property[@name='caveat']")]
    assert found == ['1 waived failure: a.py::test_"b"', "simulated GPU"]
    assert [each.attrib for each in suite.iterfind("testcase")] == [{"name": "a"}]
    assert "property" not in junit.named(written, [])


def test_search_for_secrets_that_did_not_end_is_in_the_description() -> None:
    build: Any = SimpleNamespace(
        ledger=Ledger([]), unsearched="/usr: 7 files, 1 MiB, were read", no_clone=False, simulated=False, served=[]
    )
    assert caveats.of_run(build, []) == ["search for secrets incomplete: in /usr: 7 files, 1 MiB, were read"]
    build.node, build.channel = SimpleNamespace(), SimpleNamespace(name="pve")
    assert caveats.for_description(build) == "in spite of search for secrets incomplete"


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ("phoenix-920: sealed T image i manifest sha256:1 accepted T", []),
        ("phoenix-920: sealed T image i manifest sha256:1", []),
        (
            "phoenix-920: sealed T manifest sha256:1 in spite of 2 waived failures, simulated GPU accepted T",
            ["sealed despite 2 waived failures, simulated GPU"],
        ),
        (
            "phoenix-920: sealed T manifest sha256:1 accepted T in spite of no clone was tried",
            ["accepted despite no clone was tried"],
        ),
        (
            "phoenix-920: sealed T manifest sha256:1 accepted T no clone was tried",
            ["accepted despite no clone was tried"],
        ),
    ],
)
def test_later_runs_know_what_weakens_a_snapshot(description: str, said: list[str]) -> None:
    assert caveats.of_snapshot(description) == said


def test_verdict_follows_warnings() -> None:
    first, second = record().checks[:2]
    assert builder.verdict(Outcome.BUILT, Record("1", 1.0, checks=[first])) is Verdict.PASSED
    assert builder.verdict(Outcome.BUILT, Record("1", 1.0, checks=[first], warnings=["look"])) is Verdict.WARNED
    assert builder.verdict(Outcome.BUILT, Record("1", 1.0, checks=[first, second])) is Verdict.WARNED
    assert builder.verdict(Outcome.BUILT, Record("1", 1.0)) is Verdict.FAILED


def report(when: str, outcome: str = "passed", longrepr: str | None = None) -> Any:
    where = ("d/f.py", 1, "t")
    made: Any = pytest.TestReport("d/f.py::t", where, {}, outcome, longrepr, when, duration=1.0, start=5.0)  # type: ignore[arg-type]
    made.stage = "clone"
    return made


def test_check_passes_only_with_its_teardown() -> None:
    ledger = Ledger([Check("clone", "f.py::t"), Check("seal", "g.py::u")])
    ledger.begin("f.py::t")
    for phase in (report("setup"), report("call")):
        ledger.expect(phase)
        ledger.hear(phase)
    assert ledger.results()[0].verdict == "passed"
    failed = report("teardown", "failed", longrepr="not stopped\nat line 3")
    ledger.expect(failed, AssertionError())
    ledger.hear(failed)
    (check, missing) = ledger.results()
    assert (check.verdict, check.reason, check.seconds, check.started) == ("failed", "not stopped", 3.0, 5.0)
    assert (missing.name, missing.verdict) == ("g.py::u", "not run")


def test_manifest_is_named_by_its_template() -> None:
    content: Any = {"b": "1", "a": "ü"}
    digest = hashlib.sha256('{"a":"ü","b":"1"}'.encode()).hexdigest()
    assert manifest.digest({"template": content}) == digest


def test_two_runs_of_one_second_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda *_: "20261125T000000Z-920")
    first = run_folder.free_folder(tmp_path, 920)
    run_folder.create(first, "record.json", "{}")
    assert run_folder.free_folder(tmp_path, 920).name == "20261125T000000Z-920-2"


def test_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    files.write(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write(path, b"new")
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"record.json": "old"}


def test_latest_leads_to_the_last_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run_folder.point_latest(tmp_path / name)
        assert (tmp_path / "latest").resolve() == tmp_path / name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "latest"]


def test_umask_of_whoever_runs_it_is_kept(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        run_folder.create(tmp_path / "reports/x", "record.json", "{}")
        files.write(tmp_path / "reports/x/a", b"")
    finally:
        os.umask(before)
    folder = tmp_path / "reports/x"
    modes = [path.stat().st_mode & 0o777 for path in (folder, folder / "record.json", folder / "a")]
    assert modes == [0o700, 0o600, 0o600]


@pytest.mark.parametrize(
    ("kind", "only_reads", "often"), [(VERIFY, True, 1), (BUILD, True, 1), (BUILD, False, 3), (VERIFY_DEEP, True, 3)]
)
def test_record_is_written_after_each_check_that_may_take_long(kind: Mode, only_reads: bool, often: int) -> None:
    """Once a second where all checks together take one, in a run that only compares."""
    written: list[str] = []
    ledger = SimpleNamespace(result=lambda _: None, results=list)
    build = SimpleNamespace(ledger=ledger, mode=kind, only_reads=only_reads)
    recorder: Any = SimpleNamespace(_build=build, _written=-OFTEN, record=SimpleNamespace())
    recorder.files = SimpleNamespace(write=lambda name, *_, **__: written.append(name))
    for _ in range(3):
        Recorder.pytest_runtest_logfinish(recorder, "test_x.py::test_a")
    assert written == ["record.json"] * often
