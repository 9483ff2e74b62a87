"""Two records side by side: what differs is shown, times are not, bad input is one clear line."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.record.model import Record, Subject
from fixtures.report import diff
from fixtures.run.mode import Outcome
from fixtures.run.stages import CheckResult
from fixtures.serving.served_model import ServedModel

CHECKS = [CheckResult("a.py::one", "s", "One.", "passed", seconds=1.0), CheckResult("b.py::two", "s", "Two.", "passed")]
RECORD = Record(
    "1",
    1000.0,
    outcome=Outcome.BUILT,
    software={"docker": "26.1"},
    checks=CHECKS,
    served=[ServedModel("all", ["docker", "run"], 1.0, 2.0, 3.0, [{"text": "Paris", "seconds": 0.4}])],
    subjects=[Subject("pve:n/lxc/920@s", "1")],
    manifest={"packages": {"bash": "5.2"}},
)


def put(folder: Path, record: Record) -> str:
    folder.mkdir()
    (folder / "record.json").write_text(record.to_json())
    return str(folder)


def test_times_do_not_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    later = replace(
        RECORD, invocation="2", started=2000.0, finished=3.0, checks=[replace(CHECKS[0], seconds=9.0), CHECKS[1]]
    )
    a, b = put(tmp_path / "a", RECORD), put(tmp_path / "b", later)
    assert diff.main([a, f"{b}/record.json"]) == 0
    assert "no differences except times" in capsys.readouterr().out


def test_what_differs_is_shown_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)  # the columns are headed by the paths
    other = replace(
        RECORD,
        software={"docker": "27.0"},
        checks=[replace(CHECKS[0], name="new.py::three"), replace(CHECKS[1], verdict="failed", reason="<why>")],
        manifest={"packages": {"bash": "5.3"}},
        served=[replace(RECORD.served[0], answers=[{"text": "Berlin", "seconds": 0.4}])],
    )
    a, b = put(Path("a"), RECORD), put(Path("b"), other)
    page = tmp_path / "diff.html"
    assert diff.main([a, b, "--html", str(page)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    for each in ("software docker 26.1 27.0", "manifest packages bash 5.2 5.3", "answers 0 text Paris Berlin"):
        assert each in out
    assert "checks b.py::two verdict passed failed" in out
    assert "docker run" not in out
    assert "<td>&lt;why&gt;</td>" in page.read_text()
    assert "://" not in page.read_text()


def test_columns_keep_to_the_terminal() -> None:
    a, b = (diff.Side(name, {"k": name * 200}) for name in "ab")
    assert max(map(len, diff.to_text(a, b, 80).splitlines())) <= 80


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "can't be read: No such file"),
        ("{", "record.json: "),
        ("{}", "not a record"),
        ("[]", "not a record"),
        ("\xff", ""),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, said: str) -> None:
    a, folder = put(tmp_path / "a", RECORD), tmp_path / "b"
    folder.mkdir()
    if text is not None:
        (folder / "record.json").write_bytes(text.encode("latin-1"))
    assert diff.main([a, str(folder)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


def test_pipe_is_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "record.json")
    assert diff.main([str(tmp_path), str(tmp_path / "record.json")]) == 2
    assert capsys.readouterr().err == f"{tmp_path}/record.json: can't be read: Is a named pipe\n"


def test_page_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = put(tmp_path / "a", RECORD)
    assert diff.main([a, a, "--html", str(tmp_path / "no/such/folder.html")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
