"""A whole run of the suite without a node: each command is answered by one small script."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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

    node: tuple[str, ...] = ("--node=lab:stub",)

    def __init__(self, top: Path, told: str = "") -> None:
        self.top, self.reports = top, top / "reports"
        node = top / "labs/stub/node"
        node.parent.mkdir(parents=True)
        node.write_text(NODE.replace("{told}", told))
        node.chmod(0o755)

    def start(self, *words: str, plugin: str = "", beside: str = "", **env: str) -> subprocess.Popen[str]:
        (self.top / "plugin_of_the_test.py").write_text(plugin)
        command = [sys.executable, "-m", "pytest", "tests_920", *self.node, "-p", "no:cacheprovider"]
        command += ["-p", "plugin_of_the_test", f"--override-ini=report_folder={self.reports}", *words]
        paths = {"PYTHONPATH": f"{self.top}{':' * bool(beside)}{beside}", "PHOENIX_LAB_STATE": str(self.top / "labs")}
        environment = {**os.environ, **paths, "COLUMNS": "400", **env}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=TOP, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)

    def run(self, *words: str, plugin: str = "", beside: str = "", **env: str) -> SuiteRun:
        process = self.start(*words, plugin=plugin, beside=beside, **env)
        output, _ = process.communicate(timeout=600)
        return SuiteRun(process.returncode, output, (self.reports / "latest").resolve())

    def folders(self) -> list[Path]:
        return sorted(path for path in self.reports.glob("*-920*") if path.is_dir())


class GoodSuite(Suite):
    """The same with a node in memory on which every check passes; one run goes on where the last has ended.

    A server's speed is judged by a reference, so that nothing weakens the proof unless a test wants it.
    """

    node = ("-p", "tests.good_node", "--node=local", "-o", "server_memory_mb=16384")

    def __init__(self, top: Path, built: Path | None = None, *, fresh: bool = False) -> None:
        """Begin with the references of another one, and if this is not `fresh`, with its node."""
        super().__init__(top)
        self.file, self.references = top / "node", top / "references"
        if built:
            shutil.copytree(built / "references", self.references)
        if built and not fresh:
            shutil.copy(built / "node", self.file)

    def start(self, *words: str, plugin: str = "", beside: str = "", **env: str) -> subprocess.Popen[str]:
        env = {"GOOD_NODE": str(self.file), **env}
        return super().start("-o", f"reference_folder={self.references}", *words, plugin=plugin, beside=beside, **env)

    @contextmanager
    def node_as_it_is(self) -> Iterator[Any]:
        """The node between two runs: what others do to it."""
        counted, facts = pickle.loads(self.file.read_bytes())
        yield SimpleNamespace(**facts)
        self.file.write_bytes(pickle.dumps((counted, facts)))
