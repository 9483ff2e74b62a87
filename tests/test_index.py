"""The page of all runs: a row each, made again on demand, and what retention never removes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.record.model import Record, Subject, Verdict
from fixtures.report import index
from fixtures.run.mode import Outcome
from fixtures.serving.served_model import ONE_REQUEST
from fixtures.template.comparison import SnapshotFacts
from tests.browser import browser


def record(number: int, outcome: Outcome = Outcome.VERIFIED, *, sealed: str = "", node: str = "pve") -> Record:
    made = Record(f"run {number}", 1_800_000_000.0 + number, 1_800_000_060.0 + number, outcome, Verdict.PASSED)
    made.node, made.settings = {"name": node}, {"mode": "verify"}
    made.snapshot = SnapshotFacts("s", 1, f"phoenix-920: sealed T generation {number} run r manifest")
    made.subjects = [Subject("pve:pve/lxc/920@s", sealed)] if sealed else []
    return made


def leave(top: Path, number: int, made: Record | None = None) -> Path:
    folder = top / f"20270115T0000{number:02}Z-920"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text((made or record(number)).to_json())
    return folder


def shown(top: Path) -> list[str]:
    lines = (top / index.NAME).read_text().splitlines()
    return [line.split('"')[1] for line in lines if line.startswith("<tr id")]


def test_each_run_adds_one_row_the_newest_first(tmp_path: Path) -> None:
    for number in range(3):
        index.add(tmp_path, leave(tmp_path, number), record(number))
    assert shown(tmp_path) == [f"20270115T0000{number:02}Z-920" for number in (2, 1, 0)]
    text = (tmp_path / index.NAME).read_text()
    assert 'href="20270115T000002Z-920/report.html"' in text
    assert "<td>g2</td>" in text


def test_same_run_has_one_row_and_a_rebuild_gives_the_same_page(tmp_path: Path) -> None:
    folders = [leave(tmp_path, number) for number in range(3)]
    for number in (0, 1, 2, 2):
        index.add(tmp_path, folders[number], record(number))
    before = (tmp_path / index.NAME).read_text()
    (tmp_path / "latest").symlink_to(folders[2].name)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/record.json").write_text("{")
    assert index.main([str(tmp_path)]) == 0
    assert (tmp_path / index.NAME).read_text() == before


@pytest.mark.parametrize("change", [{"started": 1e300}, {"started": "x"}, {"node": [1]}])
def test_record_of_another_form_hides_no_other(tmp_path: Path, change: dict[str, Any]) -> None:
    leave(tmp_path, 1)
    path = leave(tmp_path, 2) / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    index.add(tmp_path, leave(tmp_path, 3), record(3), keep=1)
    assert shown(tmp_path) == ["20270115T000003Z-920"]
    assert path.is_file(), "what is no record is not removed"


def test_page_of_a_folder_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert index.main([str(tmp_path / "none")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_names_are_escaped_and_short(tmp_path: Path) -> None:
    made = record(1, node="<script>" + "x" * 10_000)
    index.add(tmp_path, leave(tmp_path, 1), made)
    text = (tmp_path / index.NAME).read_text()
    assert "<script>" not in text
    assert "x" * 200 not in text


def test_retention_keeps_the_newest_and_the_last_built_one_of_each_generation(tmp_path: Path) -> None:
    kinds = {1: ("a", 1), 2: ("a", 1), 3: ("a", 2), 4: ("b", 3)}  # generation 2 has the content of 1
    for number in range(8):
        sealed, generation = kinds.get(number, ("", 0))
        made = record(number, Outcome.BUILT if sealed else Outcome.VERIFIED, sealed=sealed * 64)
        made.generation = generation
        leave(tmp_path, number, made)
    for other in ("mine", "20270115T000000Z-920-mine"):
        (tmp_path / other).mkdir()
    (tmp_path / "20260101T000000Z-920").mkdir()  # nothing in it says what it is
    index.add(tmp_path, tmp_path / "20270115T000007Z-920", record(7), keep=2)
    assert sorted(int(name[13:15]) for name in shown(tmp_path)) == [2, 3, 4, 6, 7]
    assert {each.name for each in tmp_path.iterdir() if each.is_dir()} >= {
        *("mine", "20270115T000000Z-920-mine", "20260101T000000Z-920")
    }


def test_node_of_several_is_found_below_its_run(tmp_path: Path) -> None:
    folder = leave(tmp_path, 1) / "pve1"
    folder.mkdir()
    (folder / "record.json").write_text(record(2).to_json())
    index.add(tmp_path, folder, record(2))
    assert shown(tmp_path) == ["20270115T000001Z-920/pve1", "20270115T000001Z-920"]


def test_row_is_added_to_two_hundred_in_a_moment(tmp_path: Path) -> None:
    """Processor time, whatever else the machine does."""
    one = leave(tmp_path, 1)
    index._write(tmp_path, [index.row(record(number), f"run-{number}") for number in range(200)])
    begun = time.process_time()
    index.add(tmp_path, one, record(1))
    assert time.process_time() - begun < 0.05
    assert len(shown(tmp_path)) == 201


def test_two_hundred_runs_fit_a_screen_and_a_telephone(tmp_path: Path) -> None:
    rows = [index.row(record(number, node="pve" * 20), f"run-{number}") for number in range(200)]
    index._write(tmp_path, rows)
    with browser(tmp_path / "profile") as page:
        for width in (1200, 375):
            page.look(width)
            page.open(tmp_path / index.NAME)
            assert page.run("return document.documentElement.scrollWidth") <= width
            assert page.run("return document.querySelectorAll('tbody tr').length") == 200
            assert (page.console(), page.violations()) == ([], [])


def test_figure_of_the_server_is_shown(tmp_path: Path) -> None:
    made = record(1)
    made.served = [SimpleNamespace(figures=[SimpleNamespace(name=ONE_REQUEST, value=1234.5)])]  # type: ignore[list-item]
    assert "<td>1,234.5</td>" in index.row(made, "x")
