"""Each card of the table, fed to the checks that judge it: no sound card is refused, and a fault is named."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.base.errors import Unseen
from fixtures.gpu import gpus, health, nvidia_smi
from fixtures.gpu.node_gpus import parse
from fixtures.serving.registry import Published
from tests.cards import IMAGE, Card, cards, page

gpus_and_model, stack = (
    importlib.import_module(f"tests_920.test_{name}") for name in ("014_gpus_and_model", "030_inherited_stack")
)
TABLE = pytest.mark.parametrize("card", cards(), ids=lambda card: card.id)
SAID: list[str] = []
SETTINGS: Any = SimpleNamespace(command_deadline=1, gpu_share=0.9)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What checks warn of, and what they could not see."""
    SAID.clear()
    for module in ("fixtures.gpu.health", gpus_and_model.__name__):
        monkeypatch.setattr(f"{module}.warn", SAID.append)
    return SAID


def container(card: Card) -> Any:
    """A container in which nvidia-smi says what the card says."""
    done = SimpleNamespace(out=card.report, err="", exit_status=0)
    return SimpleNamespace(ctid=920, execute=lambda *_, **__: done)


def outcome(check: Any, *arguments: Any) -> str:
    """Why a check fails; empty if it passes."""
    try:
        check(*arguments)
    except AssertionError as error:
        return str(error)
    except Unseen as error:
        SAID.append(str(error))
    return ""


def fields(lines: list[str]) -> list[str]:
    named = (re.split(" (?:is|are) ", line.removeprefix("unknown: "))[0] for line in lines)
    return [each for names in named for each in names.split(", ")]


def build() -> Any:
    build: Any = SimpleNamespace(gpus=[], node_gpus={}, health={}, settings=SETTINGS)
    build.card = lambda gpu: gpus.named(build.gpus, gpu, gpu)
    return build


@TABLE
def test_health(card: Card, said: list[str]) -> None:
    message = outcome(stack.test_gpu_is_healthy, container(card), build(), 0, 0)
    failures, warnings = health.judge(card.card.values, loaded=card.loaded)
    assert (fields(failures), fields(warnings)) == (card.fails, card.warns)
    assert all(line in message for line in failures)
    assert bool(message) is bool(failures)
    assert len(said) == (0 if message else len(card.warns))


@TABLE
def test_what_is_sound_at_rest_is_sound_at_work(card: Card) -> None:
    failures, _ = health.judge(card.card.values, loaded=True)
    assert fields(failures) == card.fails


@TABLE
def test_memory(card: Card, said: list[str]) -> None:
    message = outcome(stack.test_gpu_has_room, container(card), build(), SETTINGS, 0, 0)
    if card.free is None:
        assert not message
        assert said[0].startswith("unknown: the memory of ")
    else:
        assert (not message) is card.free
        assert said == []


@TABLE
def test_card_is_on_the_node(card: Card, said: list[str]) -> None:
    template: Any = SimpleNamespace(declared=SimpleNamespace(tensor_parallel=1, gpus=tuple(card.node.gpus)))
    message = outcome(gpus_and_model.test_gpus_are_on_the_node, template, card.node)
    failures = [each for each in card.fails if each != "health"]  # which is unknown, and refuses nothing yet
    assert bool(message) is bool(failures and not card.loaded)  # what stops a server is found before the clone
    assert all(field in message for field in failures if message)
    unknown = ["unknown: the health of"] if "health" in card.fails else []
    assert [each.partition(" GPU ")[0] for each in said] == unknown


@TABLE
def test_driver_and_image(card: Card, said: list[str]) -> None:
    template: Any = SimpleNamespace(declared=SimpleNamespace(tensor_parallel=1, gpus=tuple(card.node.gpus)))
    message = outcome(gpus_and_model.test_driver_serves_the_image, template, Published(env=IMAGE), card.node)
    refused = "the image needs cuda>=12.9" in message or "expected branch 525 or newer" in message
    assert ("driver" in card.image) is refused
    words = {"compatibility": "starts through the image's compatibility library", "unknown": "unknown: whether"}
    if card.image in words:
        assert words[card.image] in said[0]
    elif not message and card.node.cuda:
        assert said == []


@TABLE
def test_kernels_of_the_image(card: Card) -> None:
    template: Any = SimpleNamespace(declared=SimpleNamespace(tensor_parallel=1, gpus=tuple(card.node.gpus)))
    message = outcome(gpus_and_model.test_image_has_kernels_for_the_gpus, template, Published(env=IMAGE), card.node)
    assert ("kernels" in card.image) is (f"has compute capability {card.capability}, the image is built" in message)


@TABLE
def test_source_is_quoted(card: Card) -> None:
    assert card.address.startswith("https://github.com/") or (Path("docs") / card.address).exists()
    assert len(card.report) < 4000


def test_page_is_current() -> None:
    """`python -m tests.cards > docs/cards.md` makes it."""
    assert Path("docs/cards.md").read_text() == page()


def test_cuda_is_the_librarys_whatever_the_banner_says() -> None:
    log = "<nvidia_smi_log><cuda_version>N/A</cuda_version></nvidia_smi_log>\n"
    assert parse(log).cuda == ""
    assert parse(f"{log}cuda=13.3\n").cuda == "13.3"
    assert parse(f"{log.replace('N/A', '12.4')}cuda=13.0\n").cuda == "13.0"
    for nonsense in ("cuda=\n", "cuda=x\n", "cuda=1e9\n", "cuda=0.0.0\n"):
        assert parse(f"{log.replace('N/A', '12.4')}{nonsense}").cuda == "12.4"


def test_reader_takes_no_card_for_another() -> None:
    names = {card.id: nvidia_smi.read(card.report).gpus[0].name for card in cards()}
    assert len(set(names.values())) == len(names)
