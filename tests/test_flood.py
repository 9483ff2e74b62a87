"""A node on which every command floods: the run ends, in bounded memory and disk, with valid files."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.record.model import Verdict
from tests import schemas
from tests.peaks import DISK, Peaks
from tests.suite_run import Suite, SuiteRun

MEMORY = 110_000_000  # bytes; several questions are asked at once, and what is cut of their answers is not kept
NODE = r"""#!/bin/sh
case $1 in
  hostname) echo stub ;;
  python3) exit 127 ;;
  pveversion) echo pve-manager/9.0.0/stub ;;
  bash) echo held; exec cat >/dev/null ;;
  *) exec yes "$(printf 'LINE')" REDIRECT ;;
esac
"""
LINES = {
    "short": "1e999 nan",
    "long": "::error::owned hf_abcdefghij0123456789 %0100000d",
    "no end": "\\033]0;",
    "json": '[{"vmid": 1e999, "status": "%0100000d"',
}


@pytest.mark.parametrize(
    ("line", "redirect"), [*((line, "") for line in LINES.values()), (LINES["long"], ">&2")], ids=[*LINES, "errors"]
)
def test_node_that_floods_ends_the_run_within_its_bounds(tmp_path: Path, line: str, redirect: str) -> None:
    suite, scratch = Suite(tmp_path), tmp_path / "tmp"
    scratch.mkdir()
    node = tmp_path / "labs/stub/node"
    node.write_text(NODE.replace("LINE", line).replace("REDIRECT", redirect))
    process = suite.start("-o", "command_deadline=5", TMPDIR=str(scratch))
    peaks = Peaks(process, scratch, suite.reports)
    peaks.start()
    output, _ = process.communicate(timeout=300)
    peaks.join()
    run = SuiteRun(process.returncode, output, (suite.reports / "latest").resolve())
    assert run.status == 1
    print(f"{peaks.memory >> 20} MiB of memory, {peaks.disk >> 10} KiB of disk")
    assert 0 < peaks.memory < MEMORY, peaks.memory >> 20
    assert 0 < peaks.disk < DISK
    assert "printed more than 8 MiB" in run.output
    assert run.record.verdict is Verdict.FAILED
    schemas.check_folder(run.folder)
    assert "hf_abcdefghij0123456789" not in run.output
    assert not [each for each in run.output.splitlines() if each.lstrip().startswith("::")]
    assert not list(scratch.iterdir())
