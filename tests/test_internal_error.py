"""An error of the suite itself: wherever it happens, the run ends with 3, a line, and no record that is good."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from fixtures.record.model import Record, Verdict
from fixtures.report import run_files
from fixtures.run.mode import Outcome
from tests import schemas
from tests.suite_run import GoodSuite, Suite
from tests.test_node_process import Nodes, record

# A run that would look good, and in which one function of the suite raises.
BREAKS = """
import pytest
from fixtures.record import builder
from fixtures.run import outcome
from fixtures.record.model import Verdict
from fixtures.run.mode import Outcome
outcome.of = lambda *_: Outcome.BUILT
builder.verdict = lambda *_: Verdict.PASSED
@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    import {module} as module
    def breaks(*_, **__):
        raise KeyError("vmid of hf_abcdefghij0123456789\\n::error::owned")
    setattr(module, {name!r}, breaks)
"""
ALWAYS = [
    *(("fixtures.run.ledger", name) for name in ("check_name",)),
    *(("fixtures.report.recorder", name) for name in ("redact_report", "check_name")),
    *(("fixtures.record.builder", name) for name in ("fill",)),
    *(("fixtures.run.caveats", name) for name in ("of_record",)),
    *(("fixtures.record.exports.statements", name) for name in ("test_result",)),
    *(("fixtures.report.conclusion", name) for name in ("sentence",)),
    *(("fixtures.session.check_reports", name) for name in ("title_of",)),
    *(("fixtures.report.html", name) for name in ("head", "words", "render", "finished")),
    *(("fixtures.report.summary", name) for name in ("page",)),
]
OF_FAILURES = [
    *(("fixtures.run.ledger", name) for name in ("first_line",)),
    *(("fixtures.record.builder", name) for name in ("gather",)),
    *(("fixtures.session.check_reports", name) for name in ("failure",)),
    *(("fixtures.report.summary", name) for name in ("notes",)),
    *(("fixtures.session.diagnosing", name) for name in ("diagnose", "said")),
]


@pytest.mark.parametrize(("module", "name"), [*ALWAYS, *OF_FAILURES])
def test_error_of_the_suite_ends_in_no_good_record(tmp_path: Path, module: str, name: str) -> None:
    """Where all is well it ends a run that would have passed with 3; where a check has failed that stays so."""
    _, hook, breaks = BREAKS.partition("@pytest.hookimpl")
    plugin = f"import pytest\n{hook}{breaks}".format(module=module, name=name)
    good = (module, name) in ALWAYS
    suite = GoodSuite(tmp_path) if good else Suite(tmp_path)
    selected = "test_node_is_proxmox" if good else "test_node_is_proxmox or test_parent_is_as_declared"
    run = suite.run("-k", selected, plugin=plugin, GITHUB_ACTIONS="true")
    assert run.status in ((3,) if good else (1, 3)), run.output
    assert (run.record.outcome, run.record.verdict) == (Outcome.FAILED, Verdict.FAILED)
    assert "hf_abcdefghij0123456789" not in run.output
    assert not [line for line in run.output.splitlines() if line.lstrip().startswith("::error::")]
    assert "Traceback (most recent call last):\n" not in run.output.replace("INTERNALERROR> Traceback", "")
    said = "internal error: " in run.output
    assert run.status == 3 or not said
    if said and run.record.subjects:  # else there is nothing that a statement could speak of
        schemas.check_folder(run.folder)


@pytest.mark.parametrize(
    "name", ["Merged._html", "Merged._summary", "Merged._show", "Merged._testsuites", "merged.result"]
)
def test_error_of_the_process_that_started_several_leaves_no_good_record(tmp_path: Path, name: str) -> None:
    """Also of the nodes, whose processes have ended well, and whatever was signed."""
    good, _, breaks = BREAKS.partition("@pytest.hookimpl")
    breaks = breaks.partition("import {module} as module\n")[2].partition("    setattr")[0]
    imported = "from fixtures.report import merged\nfrom fixtures.report.merged import Merged\n"
    run = Nodes(tmp_path).both(plugin=f"{good}\n{imported}{dedent(breaks)}{name} = breaks\n", GITHUB_ACTIONS="true")
    assert run.status == 3, run.output
    assert "internal error: KeyError" in run.output
    assert "hf_abcdefghij0123456789" not in run.output
    assert not [line for line in run.output.splitlines() if line.lstrip().startswith("::error::")]
    for label in ("stub", "other"):
        found = record(run, label)
        assert (found.outcome, found.verdict) == (Outcome.FAILED, Verdict.FAILED)
        assert "internal error" in found.sentence
        assert "internal error" in (run.folder / label / "junit.xml").read_text()
        assert not list((run.folder / label).glob("provenance.*"))
    schemas.check_junit(run.folder / "junit.xml")
    for file in ("summary.md", "report.html", "junit.xml"):
        assert "internal error" in (run.folder / file).read_text()


def test_withdrawn_record_is_not_signed(tmp_path: Path) -> None:
    signed = ("record.dsse.json", "provenance.dsse.json", "record.intoto.json", "provenance.intoto.json")
    for name in signed:
        (tmp_path / name).write_text("{}")
    (tmp_path / "record.json").write_text(Record("1", 1.0).to_json())
    run_files.fail_folder(tmp_path, "internal error")
    assert sorted(path.name for path in tmp_path.glob("*.intoto.json")) == ["record.intoto.json"]
    assert "FAILED" in (tmp_path / "record.intoto.json").read_text()
    assert not list(tmp_path.glob("*.dsse.json"))


@pytest.mark.parametrize(
    "hook", ["unconfigure(config)", "terminal_summary(config)", "sessionfinish(session)", "collection_finish(session)"]
)
def test_error_of_a_hook_ends_with_3_and_a_sentence(tmp_path: Path, hook: str) -> None:
    good = BREAKS.partition("@pytest.hookimpl")[0]
    run = Suite(tmp_path).run(plugin=f"{good}\ndef pytest_{hook}:\n    raise KeyError('vmid')\n")
    assert run.status == 3
    assert "internal error: KeyError: 'vmid' in pytest_" in run.output
    assert (run.record.outcome, run.record.verdict) == (Outcome.FAILED, Verdict.FAILED)
    assert any("internal error" in each for each in run.record.warnings)
    page = run.folder / "report.html"
    assert not page.exists() or "internal error" in page.read_text() or "collection" in hook
    schemas.check_folder(run.folder)
