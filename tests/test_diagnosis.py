"""What a failure is put down to: told in terminal, report and record, from what was seen at that moment."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from fixtures.diagnosis.root_cause import LOG
from fixtures.proxmox import conf
from fixtures.proxmox.command import Command
from fixtures.run.stages import CheckResult
from fixtures.serving.client import ServerError
from fixtures.serving.server import Server
from fixtures.session.diagnosing import Diagnostician, _Collection
from tests import pve_files, schemas
from tests.suite_run import Suite

LOCKED = """#!/bin/sh
case "$1 $2" in
  python3*) exit 127 ;;
  hostname*) echo stub ;;
  pveversion*) echo pve-manager/9.0.0/stub ;;
  "sh -s") {sh} ;;
  "sh -c") case "$3" in say*) cat {files} ;; cd*) exit {absent} ;; *) echo "{words}" >&2; exit 255 ;; esac ;;
  pct*) {pct} ;;
  *) echo "{words}" >&2; exit 255 ;;
esac
"""
WHY = "a snapshot is still being taken or removed, or the task died"
SECRET = "s3cret-of-the-registry"
UNKNOWN = "the moon is in the wrong quarter"


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


def node(suite: Suite, words: str, sh: str = "echo '### node'; echo all is quiet", pct: str = "exit 1") -> None:
    """A node whose files can be read, which has no container, and whose commands refuse with some words."""
    files = suite.top / "files"
    files.write_text(pve_files.files({}, "stub"))
    script = LOCKED.format(words=words, sh=sh, pct=pct, files=files, absent=conf.ABSENT)
    (suite.top / "labs/stub/node").write_text(script)


def failed(checks: list[CheckResult]) -> list[CheckResult]:
    return [check for check in checks if check.verdict == "failed"]


def test_diagnosis_is_told_everywhere(suite: Suite) -> None:
    node(suite, "CT is locked (snapshot)")
    run = suite.run()
    first = next(check for check in failed(run.record.checks) if check.diagnosis == ["A6"])
    assert first.diagnosis == ["A6"]
    assert "   A6 Container 920 is locked by a snapshot task\n     why:  a snapshot" in run.output
    assert "if no task is active (pvesh get /nodes/$(hostname)/tasks --source active): pct unlock 920" in run.output
    page = (run.folder / "report.html").read_text()
    assert WHY in page
    assert "grep ^lock /etc/pve/lxc/*.conf" in page
    assert "all is quiet" in page
    tests = run.document("ctrf.json")["results"]["tests"]  # type: ignore[index]
    assert [test["extra"]["diagnosis"] for test in tests if test["name"] == first.name] == [["A6"]]
    schemas.check_folder(run.folder)  # JUnit's has no place for an id


def test_head_summary_and_terminal_show_the_fix_of_the_same_place(suite: Suite) -> None:
    node(suite, "pct: symbol lookup error: undefined symbol: x")
    run = suite.run()
    page = (run.folder / "report.html").read_text()
    shown = (run.output, (run.folder / "summary.md").read_text(), page[page.index('<p class="fix">') :])
    assert ["update the whole node" in text for text in shown] == [True] * 3
    assert not [text for text in shown if "install both parts" in text]


def test_sources_are_links(suite: Suite) -> None:
    node(suite, "cluster not ready - no quorum?")
    page = (suite.run().folder / "report.html").read_text()
    assert "https://github.com/community-scripts/ProxmoxVE/issues/1163" in page


def test_no_match_says_what_was_looked_at(suite: Suite) -> None:
    node(suite, "")
    run = suite.run()
    assert (
        "no known failure mode matches; searched: failure, commands, node, container (evidence-preflight.txt)"
        in run.output
    )
    assert failed(run.record.checks)[0].diagnosis == []


def test_machines_are_asked_once_for_each_stage(suite: Suite) -> None:
    node(suite, UNKNOWN)
    run = suite.run()
    assert len(failed(run.record.checks)) > 1
    commands = [json.loads(line) for line in (run.folder / "commands.jsonl").read_text().splitlines()]
    asked = [command["where"] for command in commands if command["argv"][:2] == ["sh", "-s"]]
    assert sorted(asked) == ["lab:stub", "lab:stub/ct920"]
    page = (run.folder / "report.html").read_text()
    assert page.count("State at that moment: node") == 1
    assert page.count("the first failure of this stage, and in evidence-preflight.txt") == len(
        failed(run.record.checks)
    ) - len({check.stage for check in failed(run.record.checks)})


def test_dead_node_is_said_and_costs_seconds(suite: Suite) -> None:
    node(suite, UNKNOWN, sh="sleep 1000", pct="sleep 1000")
    run = suite.run("-o", "command_deadline=2")
    commands = [json.loads(line) for line in (run.folder / "commands.jsonl").read_text().splitlines()]
    asked = [command["seconds"] for command in commands if command["argv"][:2] == ["sh", "-s"]]
    assert len(asked) == 2
    assert max(asked) < 10  # and not a thousand: two deadlines, and the ways that are tried before
    evidence = (run.folder / "evidence-preflight.txt").read_text()
    assert re.search(r"=== node\nno information: `sh -s 920 \d+` on lab:stub took longer than 4 s", evidence)
    assert "=== container\nno information:" in evidence


def test_evidence_has_no_secret_and_no_markup(suite: Suite) -> None:
    said = f"echo '### node'; printf '%s\\033[31m<script>alert(1)</script>\\n' {SECRET}"
    node(suite, UNKNOWN, sh=said)
    run = suite.run(REGISTRY_PASSWORD=SECRET)
    evidence = (run.folder / "evidence-preflight.txt").read_text()
    assert "[redacted: REGISTRY_PASSWORD]<script>alert(1)</script>" in evidence  # plain text
    page = (run.folder / "report.html").read_text()
    assert "alert(1)" in page
    assert "<script>alert(1)" not in page
    assert not [path for path in run.folder.iterdir() if SECRET.encode() in path.read_bytes()]


def test_long_evidence_is_cut(suite: Suite) -> None:
    node(suite, UNKNOWN, sh="echo '### node'; yes 'a line of a log' | head -n 100000; echo the end")
    evidence = suite.run().folder / "evidence-preflight.txt"
    assert evidence.stat().st_size < 100_000
    assert "the end" in evidence.read_text()


def test_full_disk_here_does_not_hide_the_failure(suite: Suite) -> None:
    plugin = """
from fixtures.base import files
write = files.write
def full(path, *content, **more):
    if path.name.startswith("evidence"):
        raise OSError(28, "No space left on device")
    write(path, *content, **more)
files.write = full
"""
    node(suite, "")
    run = suite.run(plugin=plugin)
    assert run.status == 1
    assert "searched: failure, commands, node, container (not kept)" in run.output
    assert failed(run.record.checks)


def test_secret_in_a_failed_command_is_no_evidence(suite: Suite) -> None:
    node(suite, f"refused to {SECRET}")
    run = suite.run(REGISTRY_PASSWORD=SECRET)
    assert SECRET not in run.output


def test_server_that_failed_is_asked_itself() -> None:
    """What a stage's evidence says was asked when another GPU's server had failed."""
    template: Any = SimpleNamespace(ctid=920, parent=SimpleNamespace(ctid=903), snapshot_name="s")
    config = MagicMock()
    config.stash.__getitem__.return_value.redactor.text = str
    config.stash.setdefault.return_value = {}
    one = Diagnostician(config, MagicMock(template=template))
    one._collected = lambda *_: _Collection("test_server_gets_ready[gpu0]", {"docker": "of GPU 0"}, "file")  # type: ignore[method-assign]
    container, state = MagicMock(), '{"Status":"exited","OOMKilled":true,"ExitCode":1}'
    container.ask = lambda *_, **__: "loading\nits last words"
    container.execute = lambda *argv, **_: Command("pve/ct920", argv, 0.0, 0.1, 0, state.encode(), b"")
    server = Server(container, "", MagicMock(), "device=1")
    server.name = "vllm_test_container-1"
    item: Any = MagicMock(nodeid="x.py::test_server_gets_ready[gpu1]", funcargs={"server": server})
    report: Any = SimpleNamespace(sections=[], when="call")
    found = one.diagnose(item, report, ServerError("it died"))
    assert report.sections[0] == (LOG, "loading\nits last words")
    assert "vllm_test_container-1` on pve/ct920 ended with 0: " + state in found.texts["commands"]
    assert [each.mode.id for each in found.findings] == ["A14"]
