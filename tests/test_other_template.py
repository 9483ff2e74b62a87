"""Another template's suite: its own stages, checks and numbers, and no word of 920 in what its user reads."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fixtures.base.errors import BuildError
from fixtures.record.model import Record, from_json
from fixtures.run import mode
from fixtures.run.ledger import Ledger
from fixtures.run.stages import Check, declared_checks
from fixtures.session.core_fixtures import pull_afterwards
from fixtures.template.template import Situation
from tests.ledgers import has_heard
from tests.suite_run import TOP, Suite

# Numbers, the suite's folder, its files, and names of stages that only 920 has; `phoenix-920` is the project's name.
OF_920 = re.compile(
    r"(?<![\w-])(920|903)\b|\bct920\b|tests_920|vllm-base-snapshot|test_\d{3}_\w+|inherited stack|clone acceptance"
)
CHECKS = """\
before
  test_a.py::test_there_is_a_node
  test_a.py::test_nothing_holds_the_box
clone
  test_b.py::test_box_is_made
given: inherited
  test_c.py::test_box_has_what_it_needs
"""
MODULES = {
    "test_a.py": '''
import pytest
from fixtures.base.errors import BuildError
pytestmark = pytest.mark.stage("before")
@pytest.mark.asks_node
def test_there_is_a_node(node):
    """A node answers."""
    assert node.run("WORD").succeeded
def test_nothing_holds_the_box(template):
    """No task holds the box."""
    raise BuildError(f"container {template.ctid} is locked (snapshot)")
''',
    "test_b.py": '''
import pytest
pytestmark = pytest.mark.stage("clone")
def test_box_is_made():
    """The box is made."""
''',
    "test_c.py": '''
import pytest
pytestmark = pytest.mark.stage("given")
def test_box_has_what_it_needs():
    """The box has what it needs."""
''',
}


@pytest.mark.parametrize("pattern", ["*.py", "*.toml", "*.jinja2", "*.css", "*.js"])
def test_engine_names_nothing_of_920(pattern: str) -> None:
    found = [
        f"{path.relative_to(TOP)}:{number}: {line.strip()}"
        for path in sorted((TOP / "fixtures").rglob(pattern))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if OF_920.search(line)
    ]
    assert found == []


def test_sentences_of_checks_that_others_reuse_name_no_number() -> None:
    claims = re.compile(r"(?<![\w-])(920|903)\b")
    assert [path.name for path in (TOP / "tests_920").glob("*.py") if claims.search(path.read_text())] == []


class Other:
    """A suite for container 951, cloned from 950, in a folder of its own."""

    def __init__(self, top: Path, word: str) -> None:
        self.stub = Suite(top)
        self.folder = top / "elsewhere/tests_951"
        self.folder.mkdir(parents=True)
        (self.folder / "CHECKS").write_text(CHECKS)
        for name, text in MODULES.items():
            (self.folder / name).write_text(text.replace("WORD", word))
        document = json.loads((TOP / "phoenix_lxc_configs.json").read_text())
        parent, template = (document["lxc_configs"][number] for number in ("903", "920"))
        parent |= {"name": "Base", "template_snapshot_name": "base"}
        template |= {"name": "Box", "template_snapshot_name": "box", "clone_from_template_ctid": "950"}
        document["lxc_configs"] = {"950": parent, "951": template}
        (top / "declared.json").write_text(json.dumps(document))
        for name in ("conftest.py", "pytest.ini", "requirements.txt", "fixtures"):
            (top / name).symlink_to(TOP / name)

    def run(self, *words: str) -> tuple[int, str, Record]:
        top = self.stub.top
        command = [sys.executable, "-m", "pytest", "elsewhere/tests_951", "--node=lab:stub", "-p", "no:cacheprovider"]
        command += [f"-oreport_folder={self.stub.reports}", f"-olxc_configs={top}/declared.json"]
        env = {**os.environ, "PHOENIX_LAB_STATE": str(top / "labs"), "COLUMNS": "400"}
        done = subprocess.run(
            [*command, *words], cwd=top, env=env, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode != 4, done.stdout + done.stderr
        record = from_json((self.stub.reports / "latest/record.json").read_text())
        return done.returncode, done.stdout + done.stderr, record

    def read(self) -> str:
        """All that a person or a program reads of the run, but which files of Python were loaded."""
        folder = self.stub.reports / "latest"
        record = json.loads((folder / "record.json").read_text())
        record |= {"loaded": "", "suite": ""}
        pages = [re.sub(r"<(style|script)\b.*?</\1>", "", (folder / "report.html").read_text(), flags=re.DOTALL)]
        pages += [(folder / name).read_text() for name in ("summary.md", "ctrf.json", "junit.xml")]
        return "\n".join([json.dumps(record), *pages])


def told(text: str, other: Other) -> list[str]:
    """What of 920 stands in a text, apart from paths of this machine."""
    lines = text.replace(str(other.stub.top), "").replace(str(TOP), "").splitlines()
    return [line[:300] for line in lines if OF_920.search(line)]


def test_failure_of_another_template_is_told_in_its_own_names(tmp_path: Path) -> None:
    other = Other(tmp_path, "hostname")
    status, output, record = other.run()
    assert status == 1, output
    assert [(check.stage, check.role, check.verdict) for check in record.checks] == [
        ("before", "before", "passed"),
        ("before", "before", "failed"),
        ("clone", "clone", "skipped"),
        ("given", "inherited", "skipped"),
    ], output
    assert [check.blocked_by for check in record.checks] == ["", "", "before", "before"]
    assert "951@box" in record.sentence
    assert "-m pytest elsewhere/tests_951 --node=lab:stub " in output.partition("next:")[2]
    assert "pct unlock 951" in output
    assert "pct unlock 951" in other.read()
    assert told(output, other) == []
    assert told(other.read(), other) == []


def test_node_that_does_not_answer_another_template_blocks_all_of_it(tmp_path: Path) -> None:
    other = Other(tmp_path, "refuses")
    status, output, record = other.run()
    assert status == 1, output
    assert record.sentence == "lab:stub did not answer, so the state of 951@box is unknown."
    assert [check.reason for check in record.checks[1:]] == ["blocked by: A node answers"] * 3
    assert {check.blocked_by for check in record.checks[1:]} == {"test_a.py::test_there_is_a_node"}
    assert told(output, other) == []
    assert told(other.read(), other) == []


def test_role_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    (tmp_path / "CHECKS").write_text(CHECKS.replace("inherited", "inherted"))
    with pytest.raises(BuildError, match=r"CHECKS:6: stage 'given' has the role 'inherted'; did you mean inherited\?"):
        declared_checks(tmp_path / "CHECKS", [0])


def test_stage_is_found_by_its_role_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "CHECKS").write_text(CHECKS)
    ledger = Ledger(declared_checks(tmp_path / "CHECKS", [0]))
    assert ledger.roles["inherited"] == "given"
    assert ledger.role("given") == "inherited"
    assert ledger.unproved_in("inherited", "serving") == ["test_c.py::test_box_has_what_it_needs"]
    assert ledger.precedes("clone", "inherited")
    assert not ledger.precedes("clone", "sealed")


@pytest.mark.parametrize(
    ("outcomes", "is_time"),
    [
        ({"a": "passed", "b": "passed"}, True),
        ({"a": "passed", "c": "passed"}, False),  # nothing has proved Docker
        ({"b": "passed"}, False),  # an earlier stage is not proved
    ],
)
def test_image_is_pulled_ahead_when_docker_is_proved(outcomes: dict[str, str], is_time: bool) -> None:
    """Whatever the stage and its checks are called."""
    ledger = Ledger([Check("before", "f.py::a"), Check("given", "f.py::b"), Check("given", "f.py::c")])
    has_heard(ledger, {f"f.py::{name}": outcome for name, outcome in outcomes.items()})

    def item(name: str) -> Any:
        marks = {"stage": pytest.mark.stage("given").mark}
        return SimpleNamespace(
            nodeid=f"tests_951/f.py::{name}", get_closest_marker=marks.get, fixturenames=["prefetch"]
        )

    items, begun = [item("b"), item("c")], list[str]()
    request: Any = SimpleNamespace(node=items[0], session=SimpleNamespace(items=items))
    for kind in (mode.VERIFY_PARENT, mode.BUILD):
        build: Any = SimpleNamespace(mode=kind, situation=Situation.TO_BUILD, ledger=ledger)
        ahead: Any = SimpleNamespace(begin=lambda kind=kind: begun.append(kind.id))
        assert list(cast(Any, pull_afterwards).__wrapped__(request, build, ahead)) == [None]
    assert begun == ([mode.BUILD.id] if is_time else [])
