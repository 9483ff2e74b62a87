"""What a run shows while it waits: drawn on a terminal, in lines elsewhere, and never in the way of pytest."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from fixtures.base.waiting import Progress
from fixtures.serving import image, vllm
from tests.suite_run import TOP, Suite
from tests.terminal import Seen, watch

# a node on which the second question takes two seconds, and a moment between two lines that is shorter than real
SLOW = """#!/bin/sh
case $1 in
  python3) exit 127 ;;
  pveversion) sleep 2; echo pve-manager/9.0.0/stub ;;
  hostname) echo stub ;;
  *) echo refused >&2; exit 1 ;;
esac
"""
SHORT = "import fixtures.report.progress\nfixtures.report.progress.PERIOD = 0.5\n"
STILL = ("-p", "no:cacheprovider", "-k", "proxmox or parent_is_as_declared")


SAYS = """
import threading
def pytest_runtest_logstart(nodeid):
    from fixtures.base.interrupts import INTERRUPTS
    if "proxmox" in nodeid:
        threading.Timer(1.2, lambda: INTERRUPTS.say("a word to the user")).start()
"""


def shown(tmp_path: Path, *words: str, plugin: str = SHORT, **env: str) -> Seen:
    suite = Suite(tmp_path)
    (suite.top / "labs/stub/node").write_text(SLOW)
    (suite.top / "plugin_of_the_test.py").write_text(plugin)
    command = [sys.executable, "-m", "pytest", "tests_920", "--node=lab:stub", "-p", "plugin_of_the_test"]
    paths = {"PYTHONPATH": str(suite.top), "PHOENIX_LAB_STATE": str(suite.top / "labs"), "TERM": "xterm", "CI": ""}
    options = [*STILL, f"--override-ini=report_folder={suite.reports}", *words]
    return watch([*command, *options], {**os.environ, **paths, **env}, TOP, 60)


@pytest.mark.parametrize("words", [(), ("-v",), ("--tb=long",), ("-vv", "--color=yes")], ids=" ".join)
def test_terminal_shows_the_wait_and_leaves_no_trace(tmp_path: Path, words: tuple[str, ...]) -> None:
    seen = shown(tmp_path, *words)
    assert seen.status == 1
    waits = [frame for frame in seen.frames if "waiting for `pveversion" in frame]
    assert waits, seen.frames[-1]
    assert "preflight: The node answers and is a Proxmox VE node\n  waiting for" in waits[-1]
    assert re.search(r"[12]\.\d s of 1 min 00 s", waits[-1])
    assert "waiting for" not in seen.history
    said = "  passed        The node answers and is a Proxmox VE node."
    expected = said if "-v" in words or "-vv" in words else "failed: The parent container exists under its"
    assert expected in seen.history
    assert "\n\n\n\n" not in seen.history.rstrip()


@pytest.mark.parametrize(("words", "env"), [((), {}), (("-q",), {}), ((), {"TERM": "dumb"})], ids=["", "-q", "dumb"])
def test_answer_to_an_interrupt_is_seen_while_a_check_runs(
    tmp_path: Path, words: tuple[str, ...], env: dict[str, str]
) -> None:
    seen = shown(tmp_path, *words, plugin=SAYS, **env)
    assert seen.history.splitlines().count("a word to the user") == 1
    assert "waiting for" not in seen.history
    assert seen.status == 1


def test_output_of_checks_is_not_drawn_over(tmp_path: Path) -> None:
    """With -s what checks print and what is waited for are lines of their own."""
    assert "preflight: waiting for `pveversion`" in shown(tmp_path, "-s").history


@pytest.mark.parametrize("words", [("-q",), ("-qq",)])
def test_quiet_is_quiet(tmp_path: Path, words: tuple[str, ...]) -> None:
    seen = shown(tmp_path, *words)
    assert seen.status == 1, seen.history
    assert not [frame for frame in seen.frames if "waiting for" in frame]


def test_log_gets_a_line_now_and_then(tmp_path: Path) -> None:
    suite = Suite(tmp_path)
    (suite.top / "labs/stub/node").write_text(SLOW)
    output = suite.run(*STILL, plugin=SHORT).output
    lines = [line for line in output.splitlines() if "waiting for" in line]
    assert 2 <= len(lines) <= 4
    assert re.fullmatch(r"preflight: waiting for `pveversion`, \d\.\d+ s of 1 min 00 s", lines[0]), lines
    assert "\x1b" not in output


def test_pull_is_counted_in_bytes() -> None:
    drawn = (
        "latest: Pulling from vllm/vllm-openai\r\n"
        "5a9a4a0ac12b: Pulling fs layer \r\n7e1dd1e9ae0c: Pulling fs layer \r\n"
        "\x1b[2A\x1b[2K\r5a9a4a0ac12b: Downloading  2.5MB/10MB\x1b[2B"
        "\x1b[1A\x1b[2K\r7e1dd1e9ae0c: Downloading [===>      ]  500kB/1.5GB\x1b[1B"
    )
    assert image.pull_progress(drawn) == Progress("downloading, 0 of 2 layers are there", 3e6, 1.51e9, "B")
    drawn += (
        "\x1b[2A\x1b[2K\r5a9a4a0ac12b: Pull complete \x1b[2B\x1b[1A\x1b[2K\r7e1dd1e9ae0c: Download complete \x1b[1B"
    )
    assert image.pull_progress(drawn) == Progress("unpacking, 1 of 2 layers are there", 1e7, 1.51e9, "B")
    drawn += "\x1b[1A\x1b[2K\r7e1dd1e9ae0c: Extracting [=====>  ]  1GB/1.5GB\x1b[1B"
    assert image.pull_progress(drawn).done == 1.01e9


def test_failed_pull_is_told_in_dockers_words() -> None:
    drawn = "5a9a4a0ac12b: Pulling fs layer \r\n\x1b[1A\x1b[2K\rError response from daemon: manifest unknown\r\n"
    assert image.pull_words(drawn) == "Error response from daemon: manifest unknown"


@pytest.mark.parametrize(
    ("log", "progress"),
    [
        ("", Progress()),
        ("(APIServer pid=1) INFO 11-24 05:02:29 [a.py:1] hello", Progress(line="[a.py:1] hello")),
        (
            "(EngineCore pid=812) Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<00:00,  5.25it/s]",
            Progress(
                "loading the weights",
                1,
                2,
                line="Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<00:00,  5.25it/s]",
            ),
        ),
        (
            "Capturing CUDA graphs (FULL):   0%| | 0/51 [00:00]\rCapturing CUDA graphs (FULL):   4%| | 2/51 [00:00]",
            Progress("capturing CUDA graphs", 2, 51, line="Capturing CUDA graphs (FULL):   4%| | 2/51 [00:00]"),
        ),
        (
            "x Loading model from scratch...\nEnforce eager set, disabling torch.compile\nlast",
            Progress("loading the weights", line="last"),
        ),
        (
            "INFO:     Application startup complete.",
            Progress("serving", line="INFO:     Application startup complete."),
        ),
    ],
    ids=["nothing", "unknown", "weights", "graphs", "eager", "done"],
)
def test_phase_of_the_servers_start(log: str, progress: Progress) -> None:
    assert vllm.progress(log) == progress
