"""What another image changes: old beside new, and what is beyond a limit."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fixtures.base.errors import Unseen
from fixtures.record.model import ImageFacts, Record, from_json
from fixtures.report.head import head
from fixtures.run import answers
from fixtures.serving.image import Image
from fixtures.serving.image_change import Change, beyond, compare
from fixtures.serving.served_model import Figure, Fingerprint, Reply, ServedModel
from fixtures.template import record_store

OLD = Image("vllm/vllm-openai:latest", "vllm/vllm-openai@sha256:" + "a" * 64, (), 20 * 2**30)
NEW = replace(OLD, digest="vllm/vllm-openai@sha256:" + "b" * 64, size=22 * 2**30)
CARDS = ["NVIDIA H100 PCIe"]


def served(speed: float, perplexity: float | None = 20.0, logprob: float = -1.0, vllm: str = "0.23.0") -> ServedModel:
    reply = Reply("English", ["1", "2"], [logprob, -1.0], 3, forced=True)
    return ServedModel(
        "all",
        [],
        1.0,
        2.0,
        3.0,
        [{"question": "?", "text": f"Paris of {vllm}", "model": "m", "tokens": 3, "seconds": 1.0}],
        figures=[
            Figure("first token", 1000 / speed, "ms", 1, 1),
            Figure("one request", speed, "tokens/s", speed, speed),
        ],
        versions={"vllm": vllm},
        fingerprint=Fingerprint([reply], perplexity=perplexity),
    )


def document(**more: Any) -> dict[str, Any]:
    image = cast(ImageFacts, asdict(OLD))
    record = Record("1", 0.0, image=image, served=[served(500.0)], gpus=[{"name": CARDS[0]}], **more)
    return dict(json.loads(record.to_json()))


def changes(now: ServedModel, **more: Any) -> dict[str, Change]:
    return {each.name: each for each in compare(document(**more), NEW, [now], CARDS)}


def test_old_stands_beside_new() -> None:
    found = changes(served(400.0, 21.0, -1.5, "0.24.0"))
    assert str(found["image"]) == f"image: {OLD.digest} → {NEW.digest}"
    assert str(found["size"]) == "size: 20.0 GiB → 22.0 GiB"
    assert str(found["vllm"]) == "vllm: 0.23.0 → 0.24.0"
    assert str(found["answer"]) == "answer: Paris of 0.23.0 → Paris of 0.24.0"
    assert found["token by token"].now == "0.2500 nats per token apart; they part in 'English' at token 1"
    assert str(found["one request"]) == "one request: 500.0 tokens/s → 400.0 tokens/s (20.0 % worse)"
    assert str(found["first token"]) == "first token: 2.0 ms → 2.5 ms (25.0 % worse)"
    assert str(found["perplexity of plain English"]).endswith("20.0 → 21.0 (5.0 % worse)")


def test_faster_is_better() -> None:
    assert str(changes(served(600.0))["one request"]).endswith("(20.0 % better)")


def test_the_same_image_changes_nothing() -> None:
    assert compare(document(), OLD, [served(1.0)], CARDS) == []


@pytest.mark.parametrize(
    ("limit", "names"),
    [
        (None, []),
        (25.0, []),
        (24.9, ["first token"]),
        (10.0, ["first token", "one request"]),
        (0.0, ["perplexity of plain English", "first token", "one request"]),
    ],
)
def test_a_limit_refuses_what_is_worse_by_more(limit: float | None, names: list[str]) -> None:
    found = beyond(list(changes(served(400.0, 21.0)).values()), limit)
    assert [each.partition(":")[0] for each in found] == names


@pytest.mark.parametrize(
    ("now", "more", "cards"),
    [
        (served(500.0, None), {}, CARDS),
        (served(float("nan")), {}, CARDS),
        (served(500.0), {"simulated": ["GPU"]}, CARDS),
        (served(500.0), {}, ["NVIDIA H200"]),
        (served(500.0), {}, []),
        (replace(served(500.0), fingerprint=None), {}, CARDS),
    ],
    ids=["perplexity", "figure", "simulated-before", "other-card", "simulated-now", "off"],
)
def test_what_is_not_known_is_never_within_a_limit(now: ServedModel, more: Any, cards: list[str]) -> None:
    found = compare(document(**more), NEW, [now], cards)
    assert beyond(found, None) == []
    with pytest.raises(Unseen, match=r"unknown: whether these are worse by more than 5 %"):
        beyond(found, 5.0)


@pytest.mark.parametrize(
    "spoilt",
    [
        {"image": {}},
        {"image": None},
        {"image": {"digest": "x"}},
        {"served": []},
        {"served": None},
        {"served": [{"gpus": "all"}]},
        {"gpus": None},
        {"simulated": None},
        {"image": {"digest": "x", "size": "large"}},
    ],
)
def test_a_record_that_is_not_whole_says_nothing(spoilt: dict[str, Any]) -> None:
    with pytest.raises(Unseen, match="unknown: "):
        compare(document() | spoilt, NEW, [served(1.0)], CARDS)


def a_build(description: str | None, text: str = "", unknown: str = "") -> Any:
    found = SimpleNamespace(description=description, name="vllm-base-snapshot") if description is not None else None
    return SimpleNamespace(
        found_snapshot=found,
        unknown=unknown,
        node=text,
        simulated=False,
        gpus=[SimpleNamespace(name=CARDS[0])],
        served=[],
    )


def test_only_a_snapshot_that_is_there_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_store, "read", lambda node, _: {"record.json": "[]", "sealed-record.json": node})
    named = f"phoenix-920: manifest sha256:{'c' * 64}"
    assert answers.image_changes(a_build(None), NEW) == []
    assert answers.sealed_record(a_build(named, '{"a": 1}')) == {"a": 1}
    for build in (a_build(None, unknown="no answer"), a_build("by hand"), a_build(named, "{"), a_build(named, "[]")):
        with pytest.raises(Unseen, match="unknown: "):
            answers.image_changes(build, NEW)


def test_record_and_report_show_it() -> None:
    found = [*changes(served(400.0, 21.0, vllm="<b>")).values()]
    record = from_json(Record("1", 0.0, image_change=found).to_json())
    assert record.image_change == found
    page = head(record, [])
    assert "Changes with the new image" in page
    assert "20.0 % worse" in page
    assert "&lt;b&gt;" in page
    assert "Changes with the new image" not in head(Record("1", 0.0), [])
