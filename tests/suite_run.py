"""A whole run of the suite without a node: each command is answered by one small script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from fixtures.record.model import Record, from_json
from tests import schemas

TOP = Path(__file__).parent.parent
NODE = """#!/bin/sh
case $1 in
  hostname) echo stub ;;
  python3) exit 127 ;; # each command makes its own way
  pveversion) echo pve-manager/9.0.0/stub ;;
  bash) echo held; exec cat >/dev/null ;; # the lock of the run
  *) echo "refused{told}" >&2; exit 1 ;;
esac
"""


@dataclass(frozen=True)
class SuiteRun:
    """A run that has ended."""

    status: int
    output: str
    folder: Path

    @property
    def record(self) -> Record:
        schemas.check_json(self.document("record.json"), schemas.RECORD)
        return from_json((self.folder / "record.json").read_text())

    def document(self, name: str) -> dict[str, object]:
        return dict(json.loads((self.folder / name).read_text()))


class Suite:
    """Starts the suite as a user would, with a plugin of the test's own beside it."""

    def __init__(self, top: Path, told: str = "") -> None:
        self.top, self.reports = top, top / "reports"
        node = top / "labs/stub/node"
        node.parent.mkdir(parents=True)
        node.write_text(NODE.replace("{told}", told))
        node.chmod(0o755)

    def start(self, *words: str, plugin: str = "", beside: str = "", **env: str) -> subprocess.Popen[str]:
        (self.top / "plugin_of_the_test.py").write_text(plugin)
        command = [sys.executable, "-m", "pytest", "tests_920", "--node=lab:stub", "-p", "no:cacheprovider"]
        command += ["-p", "plugin_of_the_test", f"--override-ini=report_folder={self.reports}", *words]
        paths = {"PYTHONPATH": f"{self.top}{':' * bool(beside)}{beside}", "PHOENIX_LAB_STATE": str(self.top / "labs")}
        environment = {**os.environ, **paths, "COLUMNS": "400", **env}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=TOP, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)

    def run(self, *words: str, plugin: str = "", beside: str = "", **env: str) -> SuiteRun:
        process = self.start(*words, plugin=plugin, beside=beside, **env)
        output, _ = process.communicate(timeout=60)
        return SuiteRun(process.returncode, output, (self.reports / "latest").resolve())

    def folders(self) -> list[Path]:
        return sorted(path for path in self.reports.glob("*-920*") if path.is_dir())
