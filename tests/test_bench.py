"""The measurements' own parts: what they count, and the relay that delays."""

from __future__ import annotations

import socket
import sys
import time

import pytest

from bench import calls
from bench.figures import BenchError, Figure, Line, Result
from bench.relay import relay
from bench.spans import ASKING, _removes_server, covered
from bench.timing import TOP, timed
from fixtures.proxmox import docker
from fixtures.record.model import CommandEntry


def test_what_lies_in_two_spans_counts_once() -> None:
    assert covered([(10, 12), (0, 5), (4, 6), (1, 2)]) == 8
    assert covered([]) == 0


@pytest.mark.parametrize(
    ("figure", "met"),
    [
        (Figure("", [1.0, 9.0, 1.4], at_most=1.5), True),
        (Figure("", [1.0, 1.6, 1.7], at_most=1.5), False),
        (Figure("", [4.0], at_least=5), False),
        (Figure("", [400.0]), True),
    ],
)
def test_the_median_decides(figure: Figure, met: bool) -> None:
    assert figure.met is met


def test_line_that_was_not_measured_is_not_met() -> None:
    line = Line("x", "", "", lambda _: [])
    assert Result(line, 0, [Figure("", [1], at_most=2)]).met
    assert not Result(line, 0, problem="no lab").met


def test_command_that_fails_is_no_figure() -> None:
    assert timed([sys.executable, "-c", "import time; time.sleep(0.3)"]).seconds > 0.3
    with pytest.raises(BenchError, match="ended with 3"):
        timed([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(BenchError, match="not done in time"):
        timed([sys.executable, "-c", "import time; time.sleep(5)"], deadline=0.3)


def test_relay_delays_each_way_and_nothing_else() -> None:
    with relay(["cat"], 0.2) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as near:
        for _ in range(2):
            begun = time.monotonic()
            near.sendall(b"x" * 10_000)
            found = b""
            while len(found) < 10_000:
                found += near.recv(65536)
            assert 0.2 <= time.monotonic() - begun < 2


def test_calls_are_counted_by_kind() -> None:
    noted = ["pct exec 920 -- true", "pvesh get /nodes/n/storage", "pvesm path x", "pct set 920", "pct start 920"]
    found = calls.of([*noted, "pct start 920", "", "pct"])
    assert (found.reading, found.inside, found.most) == (2, 1, 2)
    assert found.changing == "pct set, pct start (2)"


def test_removal_is_known_by_the_words_that_remove() -> None:
    removal, other = (CommandEntry("lab/ct920", ["sh", "-c", words], 0, 1, 0, "") for words in (docker.REMOVE, "true"))
    assert _removes_server(removal)
    assert not _removes_server(other)


def test_check_that_scores_answers_asks_a_server() -> None:
    """Its time is not the suite's own."""
    listed = (TOP / "tests_920/CHECKS").read_text().replace("[gpu]", "").split()
    asking = {each.rpartition("::test_")[2] for each in listed if each.endswith(ASKING)}
    assert asking == {*ASKING}
    assert "server_scores_its_answers" in asking
