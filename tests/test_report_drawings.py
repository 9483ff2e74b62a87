"""Waterfall and plot: what is drawn where, from records made by hand."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from fixtures.gpu.sampler import GpuSample
from fixtures.record.model import CommandEntry, Record
from fixtures.report import head, plot, waterfall
from fixtures.report.axis import duration, mark_text, marks
from fixtures.report.html import CSS
from fixtures.run.stages import CheckResult
from fixtures.serving.served_model import ServedModel

SERVE = ["docker", "run", "image", "/model"]
CHECKS = [
    CheckResult("a.py::one", "first stage", "One is so.", "passed", "", 1000.0, 10.0),
    CheckResult("a.py::two", "first stage", "Two is <so>.", "failed", "why", 1010.0, 30.0),
    CheckResult("b.py::three", "second", "Three is so.", "skipped", "blocked by first stage", 1040.0, 0.0),
]
COMMANDS = [
    CommandEntry("lab/ct920", ["pct", "exec", "920", "--", *SERVE], 1012.0, 1.0, 0, ""),
    CommandEntry("lab", ["pct", "list"], 1001.0, 0.001, 0, ""),
    CommandEntry("lab", ["pct", "start"], 1002.0, 4.0, 255, ""),
]
SERVED = [ServedModel("all", SERVE, 8.0, 9.0, 10.0)]


def drawn(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def bars(svg: str, kind: str) -> list[tuple[float, float, str]]:
    """Beginning and width in per cent, and the title, of each bar of a kind."""
    found = [each for each in drawn(svg).iter("svg") if kind in each.attrib["class"].split()]
    return [(float(e.attrib["x"][:-1]), float(e.attrib["width"][:-1]), str(e.findtext("title"))) for e in found]


def test_checks_lie_where_their_time_was() -> None:
    svg = waterfall.draw(CHECKS, COMMANDS, SERVED)
    assert bars(svg, "check") == [(0, 25, "One is so. (passed, 10 s)"), (25, 75, "Two is <so>. (failed, 30 s)")]


def test_each_kind_of_the_legend_has_a_colour_of_its_own() -> None:
    rules = CSS.read_text().replace(".check rect", ".check.passed rect").replace(".phase rect", ".phase.loading rect")
    kinds = [f".{kind.replace(' ', '.')} rect" for kind in waterfall.LEGEND]
    assert [kind for kind in kinds if kind not in rules] == []


def test_commands_are_drawn_if_they_are_seen() -> None:
    svg = waterfall.draw(CHECKS, COMMANDS, SERVED)
    assert [title for _, _, title in bars(svg, "command")] == [
        "pct exec 920 -- docker run image /model (1.0 s)",
        "pct start (4.0 s, ended with 255)",
    ]


def test_phases_count_from_the_servers_command() -> None:
    svg = waterfall.draw(CHECKS, COMMANDS, SERVED)
    assert [(x, width) for x, width, _ in bars(svg, "phase")] == [(30, 20), (50, 2.5), (52.5, 2.5)]


def test_servers_that_start_at_the_same_time_lie_below_each_other() -> None:
    other = [*SERVE, "--port", "8001"]
    commands = [*COMMANDS, CommandEntry("lab/ct920", other, 1013.0, 1.0, 0, "")]
    served = [*SERVED, ServedModel("device=1", other, 8.0, 9.0, 10.0)]
    phases = [
        each for each in drawn(waterfall.draw(CHECKS, commands, served)).iter("svg") if "phase" in each.get("class", "")
    ]
    assert [len({each.attrib["y"] for each in half}) for half in (phases[:3], phases[3:], phases)] == [1, 1, 2]


def test_server_that_never_got_healthy_has_no_phase() -> None:
    assert bars(waterfall.draw(CHECKS, COMMANDS, [ServedModel("all", SERVE, None, None, None)]), "phase") == []


def test_stage_that_did_not_run_says_so() -> None:
    texts = ["".join(text.itertext()) for text in drawn(waterfall.draw(CHECKS, [], [])).iter("text")]
    assert "Secondnot run" in texts
    assert "First stage40 s" in texts


@pytest.mark.parametrize("checks", [[], CHECKS[2:], [CheckResult("a", "s", "t", "passed", "", 5.0, 0.0)]])
def test_nothing_to_draw_is_no_drawing(checks: list[CheckResult]) -> None:
    assert waterfall.draw(checks, COMMANDS, SERVED) == ""


def samples(*values: tuple[float, int, float, float]) -> list[GpuSample]:
    return [GpuSample(*each) for each in values]


def test_no_samples_no_plot() -> None:
    assert plot.draw([], {}) == ""


def test_lines_go_through_the_samples() -> None:
    svg = plot.draw(samples((0, 0, 0, 0), (0, 1, 512, 50), (10, 0, 1024, 100), (10, 1, 512, 50)), {"ready": 5.0})
    lines = [line.attrib["points"] for line in drawn(svg).iter("polyline")]
    memory_0, memory_1, use_0, use_1 = lines
    assert (memory_0, use_0) == ("0.0,100.0 1000.0,0.0", "0.0,100.0 1000.0,0.0")
    assert (memory_1, use_1) == ("0.0,50.0 1000.0,50.0", "0.0,50.0 1000.0,50.0")
    assert [line.attrib["x1"] for line in drawn(svg).iter("line") if line.attrib["class"] == "moment"] == ["50.00%"]


def test_long_plot_is_small_and_keeps_its_peak() -> None:
    many = [GpuSample(number / 2, 0, 900.0, 97.0 if number == 3333 else 1.0) for number in range(10_000)]
    svg = plot.draw(many, {})
    assert len(svg) < 15_000
    assert ",3.0 " in svg


def test_uses_are_counted() -> None:
    used = samples((0, 1, 10, 0), (1, 1, 30, 100))
    page = head.head(Record("x", 1.0, served=[ServedModel("all", SERVE, 8.0, 9.0, 10.0, samples=used)]), [])
    assert "GPU 1: at most 30 MiB and 100 %, on average 50 %" in page


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 ms"), (0.05, "50 ms"), (0.0999, "0.1 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (3725, "1 h 02 min")],
)
def test_durations_are_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("total", [0.3, 1, 95, 3600, 86400, 10**7])
def test_axis_has_few_marks_within_it(total: float) -> None:
    places = marks(total)
    assert 2 <= len(places) <= 8
    assert places[0] == 0
    assert places[-1] <= total
    assert len({mark_text(place) for place in places}) == len(places)


@pytest.mark.parametrize(
    ("gpus", "assigned", "ways", "said", "legend"),
    [
        ("all", [1, 3], 2, "all GPUs", ["GPU 1", "GPU 3"]),
        ("all", [1, 3], 1, "GPU 1", ["GPU 1", "GPU 3"]),  # vLLM takes the first of all that it is given
        ("all", [1, 3], None, "all GPUs", ["GPU 1", "GPU 3"]),
        ("device=1", [1, 3], 1, "GPU 3", ["GPU 1", "GPU 3"]),
        ("device=1", [], 1, "device=1", ["GPU 0", "GPU 1"]),  # of a run that was cut short before it knew
    ],
)
def test_gpus_of_a_server_have_their_numbers_on_the_node(
    gpus: str, assigned: list[int], ways: int | None, said: str, legend: list[str]
) -> None:
    samples = [GpuSample(at, index, 100.0, 50.0, None, None) for at in (0.0, 2.0) for index in (0, 1)]
    served = [ServedModel(gpus, SERVE, 8.0, 9.0, 10.0, samples=samples)]
    record = Record(
        "invocation",
        1000.0,
        container={"declared": {"gpus": assigned, "tensor_parallel": ways}},
        served=served,
        checks=CHECKS,
    )
    text = head.head(record, COMMANDS)
    assert f"Server with {said}<" in text
    assert f"server with {said}: loading" in text
    assert re.findall(r"</svg> (GPU \d): at most", text) == legend
