"""The report of a run whose node, settings, answers and names are hostile: nothing of it runs, and it stays small."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jinja2 import DictLoader, Environment

from fixtures.base.text import clean, short, tail
from fixtures.gpu.sampler import GpuSample
from fixtures.record.model import CommandEntry, Record, Subject
from fixtures.report.head import head
from fixtures.report.markup import Compiled, render, words
from fixtures.run.mode import Outcome
from fixtures.run.stages import CheckResult
from fixtures.serving.served_model import ServedModel
from fixtures.template.comparison import SnapshotFacts
from tests.browser import browser

TOP = Path(__file__).parent.parent
SCRIPT = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'><svg onload='window.pwned = 1'>"
HOSTILE = f"\"'>--></title></pre></style>{SCRIPT}{{{{ 7 * 7 }}}}{{% raw %}}\x1b[31mred\x1b[0m\x1b]8;;http://x\x07\x00\u202e\ufffd"
LONG = HOSTILE + "x" * 1_000_000


def record() -> tuple[Record, list[CommandEntry]]:
    """A record in which whatever can be a text is hostile and long."""
    argv = ["docker", "run", LONG]
    values: Any = {HOSTILE: LONG, "list": [LONG], "dictionary": {HOSTILE: LONG}}
    answers = [{"question": LONG, "text": LONG, "model": LONG, "tokens": 3, "seconds": 0.5}] * 2
    served = ServedModel(LONG, argv, 1.0, 2.0, 3.0, answers, [GpuSample(float(at), 0, 1e9, 1e9) for at in range(5000)])
    checks = [CheckResult(f"a::{HOSTILE}{n}", HOSTILE, LONG, "failed", LONG, 1000.0 + n, 1.0) for n in range(60)]
    whole = Record(LONG, 1000.0, 1100.0, Outcome.FAILED, sentence=LONG, operator=LONG)
    whole.node = whole.image = whole.model = whole.container = values
    whole.software = {HOSTILE: LONG}
    whole.gpus, whole.checks, whole.served, whole.simulated = [values], checks, [served], [LONG]
    whole.subjects, whole.warnings = [Subject(LONG, LONG)], [LONG] * 5
    whole.snapshot = SnapshotFacts(LONG, 1000, LONG, {HOSTILE: LONG})
    commands = [CommandEntry(LONG, argv, 1000.5 + number, 0.9, 1, "") for number in range(60)]
    return whole, commands


def test_head_runs_nothing_even_without_the_policy(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(f"<!DOCTYPE html><meta charset='utf-8'><title>x</title>{head(*record())}", encoding="utf-8")
    assert page.stat().st_size < 2_000_000
    with browser(tmp_path / "profile") as chromium:
        chromium.open(page)
        assert chromium.run("return window.pwned") is None
        assert chromium.run("return document.scripts.length + document.images.length") == 0
        assert chromium.console() == []
        assert not [url for url in chromium.requests() if not url.startswith(("file:", "data:", "about:"))]
        text = chromium.run("return document.body.innerText")
        assert "<script>window.pwned = 1</script>" in text
        assert "{{ 7 * 7 }}" in text
        assert not set("\x1b\x00\u202e") & set(text)


def test_whole_report_of_a_hostile_node(tmp_path: Path) -> None:
    """The suite itself, on a node whose commands print such things: no lab is needed to fail."""
    text = tmp_path / "text"
    text.write_bytes(LONG.encode() + b"\xff\xfe\n" + HOSTILE.encode() * 2000)
    for name in ("pveversion", "pvesh", "pct"):
        (tmp_path / name).write_text(f"#!/bin/sh\ncat {text}; cat {text} >&2; exit $(({len(name)} % 2))\n")
        (tmp_path / name).chmod(0o755)
    report = tmp_path / "report.html"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests_920",
        "--node=local",
        f"--html={report}",
        "-p",
        "no:cacheprovider",
    ]
    command += [f"--override-ini=report_folder={tmp_path}", f"--override-ini=test_model={SCRIPT}"]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "CI": "1", "BUILD_TAG": SCRIPT}
    run = subprocess.run(command, cwd=TOP, env=environment, capture_output=True, timeout=120, check=False)
    assert run.returncode == 1
    assert not {b"\x1b", b"\x07", b"\x00"} & {bytes([each]) for each in run.stdout + run.stderr}
    assert len(run.stdout) < 1_000_000
    assert report.stat().st_size < 2_000_000
    with browser(tmp_path / "profile") as chromium:
        chromium.open(report)
        chromium.driver.find_element("id", "show_all_details").click()
        assert chromium.run("return window.pwned") is None
        assert chromium.console() == []
        assert chromium.run("return document.querySelectorAll('.failures a').length") > 0
        assert SCRIPT in chromium.run("return document.getElementById('environment').textContent")
        chromium.look(width=375)
        assert chromium.run("return document.documentElement.scrollWidth") == 375


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07shown", "shown"),
        ("a\r\nb\rc\td", "a\nb\nc\td"),
        ("bell\x07 null\x00 c1\x9b31m", "bell null c131m"),
        ("\u202eturned", "turned"),
        ("half of a pair \ud800", "half of a pair "),
        ("caf\u00e9 \ufffd", "caf\u00e9 \ufffd"),
    ],
)
def test_clean_leaves_text(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_long_texts_keep_their_ends() -> None:
    assert short("x" * 600) == "x" * 600
    cut = short("begin " + "x " * 5_000 + "end")
    assert (cut[:5], cut[-3:], len(cut) < 700) == ("begin", "end", True)
    log = tail("first\n" + "line\n" * 10_000 + "last")
    assert log.endswith("last")
    assert len(log) < 25_000


def test_values_are_words() -> None:
    assert words({"cores": 4, "on": True, "none": None, "list": [1, "b"]}) == "cores 4, on yes, none , list 1, b"


def test_templates_escape() -> None:
    nothing: dict[str, Any] = {"diagnosis": None, "commands": [], "more": 0}
    shown = render("report_evidence.jinja2", message="<b>&", sections=[("<i>", "<u>")], **nothing)
    assert "&lt;b&gt;&amp;" in shown
    assert not {"<b>", "<i>", "<u>"} & {shown[place : place + 3] for place in range(len(shown))}


@pytest.mark.parametrize("place", ["written", "missing", "not to be written"])
def test_compiled_template_is_kept_where_that_can_be(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a report is written all the same where it can't, as on a disk that is full."""
    monkeypatch.setattr(sys, "dont_write_bytecode", place == "not to be written")
    folder = tmp_path / "none" if place == "missing" else tmp_path
    pages = Environment(loader=DictLoader({"page": "{{ 6 * 7 }}"}), bytecode_cache=Compiled(str(folder)))
    assert pages.get_template("page").render() == "42"
    assert bool(list(tmp_path.iterdir())) is (place == "written")
