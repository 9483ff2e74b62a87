"""Numbers and JSON from elsewhere: finite and in range or refused, and what is written is always JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.base.number import LARGEST_EXACT, finite, read_json, read_object, whole, write_json
from fixtures.gpu import gpu, sampler
from fixtures.proxmox import tasks
from fixtures.proxmox.node import NodeError, stated
from fixtures.proxmox.remote_agent import read_results
from fixtures.record.model import Record, from_json
from fixtures.run.mode import Outcome
from fixtures.serving import image, vllm
from fixtures.template import generations

# what was seen to break a run or its record, and its like
NO_NUMBERS = [
    "1e999",
    "-1e999",
    "nan",
    "NaN",
    "inf",
    "Infinity",
    "9" * 400,
    "9" * 5000,
    "1_0",
    "٣",
    "0x1f",
    "",
    "1.2.3",
]
VALUES: list[object] = [float("nan"), math.inf, -math.inf, 10**400, True, False, None, [], {}, -1]


@pytest.mark.parametrize(
    "value", [*NO_NUMBERS, *VALUES], ids=lambda value: str(value)[:12] if value != 10**400 else "big"
)
def test_what_is_no_number_is_none(value: object) -> None:
    assert finite(value) is None
    assert whole(value) is None


@given(st.text() | st.floats() | st.integers() | st.booleans() | st.none())
def test_any_value_is_a_finite_number_or_none(value: object) -> None:
    number, integer = finite(value), whole(value)
    assert number is None or (math.isfinite(number) and number >= 0)
    assert integer is None or (type(integer) is int and 0 <= integer <= LARGEST_EXACT)


@pytest.mark.parametrize(("text", "number"), [("0", 0), (" 145.06 ", 145.06), ("1e3", 1000), (".5", 0.5), ("7.", 7)])
def test_number_is_read(text: str, number: float) -> None:
    assert finite(text) == number


@pytest.mark.parametrize("number", ["1e999", "NaN", "Infinity", "-Infinity", "9" * 400, "9" * 5000])
def test_document_with_no_number_is_refused(number: str) -> None:
    for text in (number, f'{{"a": [{number}]}}'):
        with pytest.raises(ValueError, match="is not a number"):
            read_json(text)


def test_deep_document_is_refused() -> None:
    with pytest.raises(ValueError, match="too deep"):
        read_json("[" * 200_000)


def strictly(text: str) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    return json.loads(text.encode(), parse_constant=refuse)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(JSON)
def test_what_is_written_is_json(document: object) -> None:
    strictly(write_json(document))


@given(st.floats(), st.integers())
def test_record_is_json_whatever_was_measured(seconds: float, number: int) -> None:
    gpus: list[Any] = [{"memory_mib": number, "power": seconds}]
    strictly(Record("1", 1000.0, seconds, Outcome.FAILED, gpus=gpus).to_json())
    del gpus[0]["memory_mib"]
    from_json(Record("1", 1000.0, gpus=gpus).to_json())


@pytest.mark.parametrize("number", ["1e999", "NaN", "true", '"1"' * 2, "9" * 400, "-1"])
@pytest.mark.parametrize("place", range(4))
def test_far_side_states_no_number(number: str, place: int) -> None:
    row = ["0", '""', '""', "0.5", '""']
    row[place] = number
    with pytest.raises(ValueError, match="its answer"):
        read_results(f"[[{','.join(row)}]]\n".encode(), 1)


@pytest.mark.parametrize("word", NO_NUMBERS)
def test_nvidia_smi_states_no_number(word: str) -> None:
    value = gpu.Value(word)
    assert value.number is None or math.isfinite(value.number)
    assert value.whole is None or abs(value.whole) < 10**40
    assert sampler.parse(f"0, {word}, 1", 0.0) is None
    found = sampler.parse(f"0, 1, 2, {word}, {word}", 0.0)
    assert found
    assert (found.power, found.clock) == (None, None)


@pytest.mark.parametrize("word", NO_NUMBERS)
def test_logs_state_no_number(word: str) -> None:
    assert set(vllm.phases(f"Loading weights took {word} s\n").values()) <= {finite(word)}
    vllm.progress(f"Capturing CUDA graphs: 1%|x| {word}/{word}")
    found = image.pull_progress(f"0123456789ab: Downloading [==>  ]  {word}MB/{word}MB\n")
    assert math.isfinite(found.done)
    assert math.isfinite(found.total)


@pytest.mark.parametrize(
    "entry", [{}, {"avail": None}, {"avail": "nan"}, {"avail": 1e999}, [], "x", {"avail": 10**400}]
)
def test_node_states_no_number(entry: Any) -> None:
    with pytest.raises(NodeError, match="states no number for 'avail'"):
        stated(entry, "avail")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"argv": 1e999}', "9" * 5000, "NaN", "[1]", "null", '"x"'])
def test_what_a_node_has_noted_is_refused_and_no_error_of_python(text: str) -> None:
    """Of a task, a generation and a snapshot."""
    for parse in (lambda: tasks._parse(f"done eA== {text}"), lambda: generations.parse(text)):
        with pytest.raises((ValueError, TypeError, KeyError)):
            parse()
    assert read_object(text) == {}
