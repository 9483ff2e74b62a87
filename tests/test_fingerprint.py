"""The fingerprint of a server, and how near two of them are: what agrees, what contradicts, and what is not known."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fixtures.base.errors import Unseen
from fixtures.base.number import write_json
from fixtures.gpu.gpu import Gpu
from fixtures.proxmox.command import DeadlineExceeded
from fixtures.record.model import Record, from_json
from fixtures.report.head import head
from fixtures.run import answers, caveats
from fixtures.run.ledger import Ledger
from fixtures.serving import agreement, fingerprint
from fixtures.serving.agreement import COARSE, FLOOR, difference
from fixtures.serving.client import ServerError
from fixtures.serving.fingerprint import CHATS, TEXTS, take
from fixtures.serving.image import Image
from fixtures.serving.reference import Reference
from fixtures.serving.served_model import Fingerprint, Reply, ServedModel, fingerprint_of
from fixtures.serving.server import Server

Body = dict[str, Any]
Ask = Callable[[str, Body], tuple[int, Any]]


def scored(prompt: str) -> Body:
    words = [None, *({str(len(word)): {"logprob": -2.0}} for word in prompt.split() or "x")]
    return {"usage": {"prompt_tokens": len(words)}, "choices": [{"prompt_logprobs": words}]}


def chatted() -> Body:
    tokens = [{"token": f" {number}", "logprob": -0.25} for number in range(16)]
    return {"usage": {"prompt_tokens": 30}, "choices": [{"logprobs": {"content": tokens}}]}


def right(path: str, body: Body) -> tuple[int, Any]:
    return 200, scored(body["prompt"]) if path == "/v1/completions" else chatted()


def server(ask: Ask) -> Server:
    def answer(path: str, body: Body, _: float) -> tuple[int, bytes]:
        status, said = ask(path, body)
        return status, said if isinstance(said, bytes) else json.dumps(said).encode()

    return cast(Server, SimpleNamespace(client=SimpleNamespace(ask=answer)))


def test_a_server_that_answers_has_a_fingerprint_that_a_record_keeps() -> None:
    found = take(server(right), 10)
    assert (found.wrong, found.refused) == ("", "")
    assert [reply.prompt for reply in found.replies] == [*TEXTS, *CHATS]
    assert found.perplexity == pytest.approx(math.exp(2))
    assert found.at_once == 0
    assert take(server(right), 10).sha256 == found.sha256
    served = [ServedModel("all", [], None, None, None, fingerprint=found)]
    assert from_json(Record("1", 0.0, served=served).to_json()).served == served


@pytest.mark.parametrize("field", ["tokens", "logprobs", "prompt_tokens", "forced", "prompt"])
@pytest.mark.parametrize("value", [None, {}, [None], "gone"])
def test_a_spoilt_fingerprint_is_none(field: str, value: object) -> None:
    document = json.loads(write_json(take(server(right), 10)))
    document["replies"][2][field] = value
    if (field, value) != ("prompt", "gone"):
        with pytest.raises(ValueError, match="not whole"):
            fingerprint_of(document)


def test_each_question_has_a_salt_of_its_own_and_is_bounded() -> None:
    asked: list[Body] = []

    def ask(path: str, body: Body) -> tuple[int, Any]:
        asked.append(body)
        return right(path, body)

    take(server(ask), 10)
    assert len({body["cache_salt"] for body in asked}) == len(asked) == 11 + 16
    assert all(body["max_tokens"] <= 16 and body.get("prompt_logprobs", 0) == 0 for body in asked)
    assert sum(map(len, TEXTS.values())) < 3 * 512  # characters: some 3.5 are a token


def test_a_server_that_refuses_the_salt_is_asked_without() -> None:
    def ask(path: str, body: Body) -> tuple[int, Any]:
        return (400, b"cache_salt: extra inputs are not permitted") if "cache_salt" in body else right(path, body)

    assert take(server(ask), 10).replies == take(server(right), 10).replies


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_what_is_refused_is_not_known(status: int) -> None:
    found = take(server(lambda *_: (status, b"<html>no")), 10)
    assert f"answered {status}: <html>no" in found.refused
    assert not found.replies


@pytest.mark.parametrize(
    "error", [ServerError("it died (exit status 1)"), DeadlineExceeded("it has no end")], ids=["died", "slow"]
)
def test_an_engine_that_dies_of_it_leaves_it_unknown(error: Exception) -> None:
    def ask(path: str, body: Body) -> tuple[int, Any]:
        raise error

    assert take(server(ask), 10).refused == str(error)


def test_time_that_is_over_leaves_it_unknown() -> None:
    assert take(server(right), 0).refused == "the time for the fingerprint is over"


def spoilt(place: int, value: Any) -> Body:
    body = scored("a b c")
    entries = body["choices"][0]["prompt_logprobs"]
    entries[place] = value
    return body


NONSENSE: list[Any] = [
    b"",
    b"<html>",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"usage": {"prompt_tokens": 2}, "choices": [{"prompt_logprobs": [null, {"5": {"logprob": NaN}}]}]}',
    [],
    {},
    {"usage": None, "choices": [{}]},
    {"usage": {"prompt_tokens": 4}, "choices": []},
    {"usage": {"prompt_tokens": 4}, "choices": [{"prompt_logprobs": None, "logprobs": None}]},
    {"usage": {"prompt_tokens": 1}, "choices": [{"prompt_logprobs": [None], "logprobs": {"content": []}}]},
    {**scored("a b c"), "usage": {"prompt_tokens": 9}},
    {**scored("a b c"), "usage": {"prompt_tokens": True}},
    spoilt(0, {"5": {"logprob": -1.0}}),
    spoilt(1, None),
    spoilt(1, {}),
    spoilt(1, {"five": {"logprob": -1.0}}),
    spoilt(1, {"5": {"logprob": 0.5}}),
    spoilt(1, {"5": {"logprob": None}}),
    spoilt(1, {"5": {"logprob": "low"}}),
    spoilt(1, {"5": -1.0}),
]


@pytest.mark.parametrize("body", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_is_wrong_and_no_traceback(body: Any) -> None:
    found = take(server(lambda *_: (200, body)), 10)
    assert found.wrong
    assert not found.replies


@pytest.mark.parametrize("token", [None, 5, float("nan"), ["a"]])
def test_a_token_that_is_no_text_is_wrong(token: object) -> None:
    def ask(path: str, body: Body) -> tuple[int, Any]:
        status, said = right(path, body)
        if "messages" in body:
            said["choices"][0]["logprobs"]["content"][3]["token"] = token
        return status, said

    assert take(server(ask), 10).wrong


@pytest.mark.parametrize("count", [0, 17])
def test_a_chat_of_another_length_is_wrong(count: int) -> None:
    def ask(path: str, body: Body) -> tuple[int, Any]:
        status, said = right(path, body)
        if "messages" in body:
            said["choices"][0]["logprobs"]["content"] = [{"token": "a", "logprob": -1.0}] * count
        return status, said

    assert f"log probabilities of {count} tokens" in take(server(ask), 10).wrong


def test_a_model_to_which_english_is_noise_is_wrong_without_any_reference() -> None:
    def ask(path: str, body: Body) -> tuple[int, Any]:
        status, said = right(path, body)
        return status, json.loads(json.dumps(said).replace("-2.0", "-9999.0"))

    assert "perplexity" in take(server(ask), 10).wrong


# --- how near two are ---------------------------------------------------------------------------------


def text(*logprobs: float, tokens: str = "123456789") -> Reply:
    return Reply("text", list(tokens[: len(logprobs)]), list(logprobs), len(logprobs) + 1, True)


def chat(words: str, *logprobs: float, prompt_tokens: int = 30) -> Reply:
    return Reply("chat", words.split(), list(logprobs), prompt_tokens, False)


def test_scores_differ_by_their_mean_and_part_where_they_are_further_apart_than_the_limit() -> None:
    found = difference([text(-1, -2, -3)], [text(-1, -2.3, -3)], 0.2)
    assert found.nats == pytest.approx(0.1)
    assert found.parts == "in 'text' at token 2"
    assert not found.exact


def test_other_tokens_of_a_text_are_no_rounding() -> None:
    assert difference([text(-1, -2)], [text(-1, -2, tokens="19")]).exact
    assert difference([text(-1, -2)], [text(-1)]).exact


def test_another_chat_template_shows_by_its_length() -> None:
    found = difference([chat("a", -1)], [chat("a", -1, prompt_tokens=21)])
    assert found.exact
    assert found.parts == "in 'chat': 21 tokens of the prompt, not 30"


def test_a_tie_that_falls_the_other_way_proves_nothing() -> None:
    found = difference([chat("a b", 0.0, -0.69)], [chat("a c", 0.0, -0.69)])
    assert found.nats < 0.02
    assert found.parts == "in 'chat' at token 2 ('b', now 'c')"


def test_a_token_that_was_certain_and_is_another_one_proves_much() -> None:
    assert difference([chat("a b", 0.0, -0.001)], [chat("a c", 0.0, -0.3)]).nats > COARSE
    assert difference([chat("a b", 0.0, -0.001)], [chat("a", 0.0)]).nats > COARSE
    assert difference([chat("a", 0.0)], [chat("a b", 0.0, -0.001)]).nats > COARSE


def test_other_prompts_are_not_comparable() -> None:
    assert difference([text(-1)], [chat("a", -1)]).exact
    assert difference([text(-1)], []).exact


def whole(shift: float = 0.0) -> Fingerprint:
    found = take(server(right), 10)
    moved = [replace(each, logprobs=[one + shift for one in each.logprobs]) for each in found.replies]
    return replace(found, replies=moved)


def test_limits_are_as_wide_as_the_runs_were_apart() -> None:
    assert agreement.limits([]) == agreement.limits([whole()]) == (None, None)
    assert agreement.limits([whole(), whole()]) == (FLOOR, FLOOR)
    apart, at_once = agreement.limits([whole(), whole(-0.02), whole(-0.01)])
    assert apart == pytest.approx(0.04)
    assert at_once == FLOOR


@pytest.mark.parametrize(
    ("nats", "limit", "said"),
    [
        (0.00001, 0.01, "agree with the reference to less than 0.0001 nats per token"),
        (0.002, 0.01, "agree with the reference to 0.0020 nats per token"),
        (0.02, 0.01, "differ from the reference by 0.0200 nats per token, more than 0.0100; they part there"),
        (0.02, None, "differ from the reference by 0.0200 nats per token, not judged without a reference"),
        (0.5, None, "differ from the reference by 0.5000 nats per token; they part there"),
    ],
)
def test_what_is_not_judged_never_agrees(nats: float, limit: float | None, said: str) -> None:
    assert str(agreement.judged("the reference", agreement.Difference(nats, "there", exact=False), limit)) == said


# --- the reference and the other servers ----------------------------------------------------------------

IMAGE = Image("vllm/vllm-openai:latest", "vllm/vllm-openai@sha256:" + "0" * 64, ("vllm", "serve"), 1)
COMMAND = ["docker", "run", IMAGE.digest, "m", "--tensor-parallel-size", "1"]
CARD = Gpu(0, "GPU-1", "NVIDIA H100", "580", 81559, "9.0")


def a_server(command: list[str], taken: Fingerprint) -> ServedModel:
    return ServedModel("all", command, None, None, None, fingerprint=taken)


def a_build(folder: Path, *, write: bool = False, served: tuple[Fingerprint, ...] = ()) -> Any:
    return SimpleNamespace(
        settings=SimpleNamespace(reference_folder=folder, test_model="m", server_args=()),
        gpus=[CARD],
        served=[a_server(COMMAND, each) for each in served],
        found_snapshot=None,
        write_reference=write,
    )


def compared(build: Any, mine: Fingerprint, command: list[str] = COMMAND, model: str = "m") -> list[str]:
    one = cast(Any, SimpleNamespace(model=model, record=a_server(command, mine)))
    found = answers.compare(build, one, IMAGE, 0)
    assert one.record.fingerprint.agreements == found
    return [each.other for each in found if each.contradicts] + [each.other for each in found if each.limit is None]


def test_reference_is_made_of_runs_and_judges_once_it_has_a_spread(tmp_path: Path) -> None:
    assert compared(a_build(tmp_path), whole()) == ["those under load"]
    for _ in range(2):
        compared(a_build(tmp_path, write=True), whole())
    assert compared(a_build(tmp_path), whole()) == []
    assert compared(a_build(tmp_path), whole(-0.01)) == ["the reference"]
    reference = Reference(a_build(tmp_path).settings, CARD, IMAGE)
    assert (
        reference.answers == [whole(), whole()] or [each.sha256 for each in reference.answers] == [whole().sha256] * 2
    )


def test_what_contradicts_is_not_added_to_the_reference(tmp_path: Path) -> None:
    for shift in (0.0, -0.01, -1.0):
        compared(a_build(tmp_path, write=True), whole(shift))
    assert len(Reference(a_build(tmp_path).settings, CARD, IMAGE).answers) == 2


def test_servers_of_a_run_are_compared_if_they_serve_the_same(tmp_path: Path) -> None:
    first = "the first server of this run"
    assert first in compared(a_build(tmp_path, served=(whole(-1.0),)), whole())
    other = [*COMMAND[:-1], "2"]
    assert first not in compared(a_build(tmp_path, served=(whole(-1.0),)), whole(), command=other)
    assert "the reference" not in compared(a_build(tmp_path), whole(), model="another")


@pytest.mark.parametrize(("shift", "contradicts"), [(-0.29, False), (-0.31, True)])
def test_several_gpus_answer_as_one_up_to_rounding(tmp_path: Path, shift: float, *, contradicts: bool) -> None:
    build = a_build(tmp_path, served=(whole(),))
    one = a_server([*COMMAND[:-1], "2"], whole(shift))
    found = answers.with_one_gpu(build, one)
    assert (found.contradicts, found.limit, found.other) == (contradicts, COARSE, "those of one GPU (all)")
    assert one.fingerprint
    assert one.fingerprint.agreements == [found]


@pytest.mark.parametrize("place", [2, 3, 5])  # another image, another model, a server of several GPUs
def test_several_gpus_are_compared_with_one_of_the_same_model_only(tmp_path: Path, place: int) -> None:
    other = [*COMMAND[:place], "x@sha256:1" if place == 2 else "2", *COMMAND[place + 1 :]]
    build = a_build(tmp_path)
    build.served = [a_server(other, whole())]
    one = a_server([*COMMAND[:-1], "2"], whole())
    with pytest.raises(Unseen, match="no server on one GPU has recorded answers"):
        answers.with_one_gpu(build, one)


def test_nothing_to_compare_with_is_said() -> None:
    with pytest.raises(
        Unseen,
        match=r"unknown: whether answers agree: the reference needs 2 runs \(--write-reference\); GPU 0",
    ):
        agreement.report("GPU 0", [agreement.judged("x", agreement.Difference(0.0, "", exact=False), None)])


def test_a_fingerprint_is_valid_json_whatever_the_server_said() -> None:
    assert json.loads(write_json(take(server(lambda *_: (200, b"\xed\xa0\x80")), 10)))["wrong"]
    assert fingerprint.GENERATED <= 16


def test_that_it_is_turned_off_weakens_the_proof() -> None:
    def caveats_of(*, on: bool) -> list[str]:
        build: Any = SimpleNamespace(
            ledger=Ledger([]),
            unsearched="",
            no_clone=False,
            served=[1],
            settings=SimpleNamespace(fingerprint=on, expected_word="Paris"),
        )
        return caveats.of_run(build, [])

    assert caveats_of(on=False) == ["answers not compared token by token"]
    assert caveats_of(on=True) == []


def test_the_report_says_how_near_the_answers_are() -> None:
    near = agreement.judged("the reference", agreement.Difference(0.002, "", exact=False), 0.01)
    served = ServedModel("all", [], None, None, None, fingerprint=replace(whole(), agreements=[near]))
    page = head(Record("1", 0.0, served=[served]), [])
    assert (
        "The answers agree with the reference to 0.0020 nats per token. Plain English has a perplexity of 7.4." in page
    )
    unknown = replace(served, fingerprint=take(server(lambda *_: (500, b"<b>no")), 10))
    assert "answered 500: &lt;b&gt;no" in head(Record("1", 0.0, served=[unknown]), [])
