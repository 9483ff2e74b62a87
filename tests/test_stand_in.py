"""The stand-in for vLLM, and what the suite makes of it: it serves as vLLM does, or fails as asked."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fixtures.proxmox.channel import Channel
from fixtures.proxmox.command import DeadlineExceeded
from fixtures.serving import agreement, fingerprint, performance
from fixtures.serving.client import Client, ServerError
from fixtures.serving.server import Server
from lab.stand_in import server as stand_in
from lab.vllm import await_port

MODEL = "/models/test-model"


@pytest.fixture
def serve() -> Iterator[Callable[[str], Server]]:
    """A server of the suite that speaks to a stand-in with a fault."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(fault: str) -> Server:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, stand_in.__file__, "serve", MODEL, "--port", str(port)]
        processes.append(subprocess.Popen(command, env={**os.environ, "STAND_IN": fault}, stderr=subprocess.DEVNULL))
        await_port("127.0.0.1", port, 10)
        key = {"VLLM_API_KEY": "any"}
        deadlines = {"answer_deadline": 1.0, "ready_deadline": 3.0}
        asked = {"test_model": MODEL, "test_prompt": "?", "answer_tokens": 64, "server_port": port}
        settings = SimpleNamespace(**asked, server_env=(), variables=key, **deadlines)
        ended = SimpleNamespace(succeeded=False, out="")
        container = cast(
            Any,
            SimpleNamespace(
                execute=lambda *_, **__: ended, node=SimpleNamespace(channel=Channel("none")), pasteable="{}".format
            ),
        )
        server = Server(container, "127.0.0.1", cast(Any, settings), "all")
        server.client = Client(f"http://127.0.0.1:{port}", server._settings)
        server._startup.begin()
        return server

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_it_serves(serve: Callable[[str], Server]) -> None:
    server = serve("")
    assert server.wait_until_ready() > 0
    assert server.client.models() == [MODEL]
    assert "Paris" in server.chat("What is the capital of France?").text


def test_its_speed_can_be_measured(serve: Callable[[str], Server]) -> None:
    server = serve("")
    server.wait_until_ready()
    assert all(figure.value > 0 for figure in performance.measure(server, performance.SHORT))


@pytest.mark.parametrize("fault", ["", "refuses-salt"])
def test_it_has_a_fingerprint(serve: Callable[[str], Server], fault: str) -> None:
    found = [fingerprint.take(waited(serve(fault)), 10) for _ in range(2)]
    assert [(each.wrong, each.refused, each.at_once) for each in found] == [("", "", 0.0)] * 2
    assert agreement.difference(found[0].replies, found[1].replies) == (0.0, "", False)


def waited(server: Server) -> Server:
    server.wait_until_ready()
    return server


def test_its_fingerprint_drifts(serve: Callable[[str], Server]) -> None:
    found = fingerprint.take(waited(serve("drifts")), 10)
    assert found.at_once == pytest.approx(1.0)
    other = fingerprint.take(waited(serve("other-scores")), 10)
    assert agreement.difference(found.replies, other.replies).nats == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("fault", "refused", "wrong"),
    [
        ("refuses-scores", "prompt_logprobs are not supported", ""),
        ("dies-of-scores", "/v1/completions was not answered", ""),
        ("no-number", "", "NaN"),
        ("http-500", "answered 500", ""),
        ("endless", "does not end", ""),
    ],
)
def test_it_has_no_fingerprint(serve: Callable[[str], Server], fault: str, refused: str, wrong: str) -> None:
    server = serve(fault)
    assert server.client.is_healthy()
    begun = time.monotonic()
    found = fingerprint.take(server, 2)
    assert refused in found.refused
    assert wrong in found.wrong
    assert found.wrong or found.refused
    assert time.monotonic() - begun < 20


def test_it_does_not_get_ready(serve: Callable[[str], Server]) -> None:
    with pytest.raises(DeadlineExceeded, match="timed out after"):
        serve("silent").wait_until_ready()


def test_it_lists_another_model(serve: Callable[[str], Server]) -> None:
    with pytest.raises(ServerError, match=r"the server lists \['.*'\]; expected /models/test-model; "):
        serve("other-model").wait_until_ready()


@pytest.mark.parametrize("fault", ["no-json", "http-500"])
def test_its_answer_is_none(serve: Callable[[str], Server], fault: str) -> None:
    with pytest.raises(ServerError, match="answered with"):
        serve(fault).chat("?")


def test_an_answer_that_drips_for_ever_is_ended(serve: Callable[[str], Server]) -> None:
    """Each piece of it comes in time, so that requests' own timeout never strikes."""
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="does not end"):
        serve("endless").chat("?")
    assert time.monotonic() - begun < 5


def test_proxy_of_the_user_is_not_asked(serve: Callable[[str], Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve("")
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert server.wait_until_ready() > 0
    assert "Paris" in server.chat("What is the capital of France?").text
