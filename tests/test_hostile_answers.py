"""Any answer of a model's server: only the right one passes; what is garbled, huge or without end fails in clear words.

The server here is a socket that says what a test gives it, so that HTTP itself may be garbled too.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from fixtures.base import settings as options
from fixtures.base.errors import BuildError
from fixtures.base.server_args import API_KEY
from fixtures.base.settings import Settings
from fixtures.proxmox.command import DeadlineExceeded
from fixtures.record.model import Record, from_json
from fixtures.report import summary
from fixtures.report.head import head
from fixtures.run.mode import Outcome
from fixtures.run.stages import CheckResult
from fixtures.serving import client, performance
from fixtures.serving.client import Client, LoginError, ServerError
from fixtures.serving.served_model import ServedModel
from fixtures.serving.server import Server
from fixtures.serving.startup import Startup

TOP = Path(__file__).parent.parent
MODEL = "Qwen/Qwen2.5-Coder-0.5B-Instruct-GPTQ-Int8"
TEXT = "The capital of France is Paris."
RIGHT: dict[str, Any] = {
    "model": MODEL,
    "choices": [{"message": {"role": "assistant", "content": TEXT}}],
    "usage": {"completion_tokens": 8},
}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([TEXT, [TEXT], "8"])
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=6)
PLACES = (
    *(("model",), ("choices",), ("usage",), ("choices", 0), ("choices", 0, "message")),
    *(("choices", 0, "message", "content"), ("usage", "completion_tokens")),
)


class Speaker:
    """A server that says the same to whoever connects.

    Attributes:
        says: It, in pieces.
    """

    def __init__(self) -> None:
        self.heard = b""
        self.says: Callable[[], Iterator[bytes]] = lambda: iter([b""])
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = self._socket.getsockname()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                try:
                    request = connection.recv(65536)
                    while b"Content-Length" in request and not request.rstrip().endswith(b"}"):
                        request += connection.recv(65536)
                    self.heard = request
                    for piece in self.says():
                        connection.sendall(piece)
                except OSError:
                    continue  # nobody listens any more

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def reply(body: object, status: int = 200) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return b"HTTP/1.1 %d x\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(content)) + content


@pytest.fixture(scope="module")
def speaker() -> Iterator[Speaker]:
    one = Speaker()
    yield one
    one.close()


@pytest.fixture(scope="module")
def asked(speaker: Speaker) -> Server:
    """The suite's side, with short deadlines."""
    values = {name: default for name, default, _ in options.OPTIONS} | {"answer_deadline": "1"}
    told = options.read(cast(Any, SimpleNamespace(getini=values.__getitem__, rootpath=TOP)))
    container = SimpleNamespace(execute=lambda *_, **__: SimpleNamespace(succeeded=False))
    one = Server(cast(Any, container), "127.0.0.1", told, "all")
    one.client = Client("http://{}:{}".format(*speaker.address), one._settings)
    return one


def tells(error: Exception) -> None:
    """Assert that an error can be printed."""
    assert str(error).isprintable()


@functools.cache
def check() -> Callable[[Server, Settings], None]:
    """The build's own check of an answer."""
    spec = importlib.util.spec_from_file_location("serving_checks", TOP / "tests_920/test_050_serving.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    with patch.object(pytest.mark, "_config", None):  # else only the marks of our own pytest.ini are known
        spec.loader.exec_module(module)
    return cast(Callable[[Server, Settings], None], module.TestServer().test_server_answers)


def passes(asked: Server) -> bool:
    """Whether the check passes; it may fail, but not crash."""
    try:
        check()(asked, asked._settings)
    except AssertionError:  # which pytest shows
        return False
    except BuildError as error:
        tells(error)
        return False
    return True


def asks(asked: Server) -> list[Callable[[], object]]:
    """What a run asks a server: a chat, its models, and a stream."""
    return [lambda: asked.chat("?"), asked.client.models, lambda: performance._request(asked, 8)]


def test_right_answer_passes(speaker: Speaker, asked: Server) -> None:
    speaker.says = lambda: iter([reply(RIGHT)])
    assert passes(asked)


@effort(max_examples=60, deadline=None)
@given(content=st.binary() | JSON.map(lambda value: json.dumps(value).encode()), status=st.integers(200, 599))
@example(content=b"[" * 100_000, status=200)
@example(content=b"1" * 5000, status=200)
@example(content=b"\x1b]0;owned\x07\x1b[2J\r", status=500)
@example(content=json.dumps(RIGHT).encode(), status=404)
def test_any_other_body_fails(speaker: Speaker, asked: Server, content: bytes, status: int) -> None:
    speaker.says = lambda: iter([reply(content, status)])
    assert not passes(asked)
    for ask in asks(asked):
        try:
            ask()
        except BuildError as error:
            tells(error)


@effort(max_examples=150, deadline=None)
@given(place=st.sampled_from(PLACES), value=JSON)
@example(place=("choices", 0, "message", "content"), value=[TEXT])
@example(place=("choices", 0, "message", "content"), value={"text": TEXT})
@example(place=("usage", "completion_tokens"), value="8")
@example(place=("usage", "completion_tokens"), value=float("inf"))
@example(place=("usage", "completion_tokens"), value=True)
@example(place=("usage", "completion_tokens"), value=-1)
def test_answer_with_one_wrong_value_fails(
    speaker: Speaker, asked: Server, place: tuple[Any, ...], value: object
) -> None:
    """It may pass only if the value is one that a right answer can have."""
    body = copy.deepcopy(RIGHT)
    inner: Any = body
    for each in place[:-1]:
        inner = inner[each]
    inner[place[-1]] = value
    speaker.says = lambda: iter([reply(body)])
    right = {
        "content": isinstance(value, str) and "paris" in value.casefold(),
        "completion_tokens": type(value) is int and value > 0,
    }
    assert passes(asked) is right.get(str(place[-1]), False)


@effort(max_examples=40, deadline=None)
@given(said=st.binary(max_size=200))
@example(said=b"")
@example(said=b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")
@example(said=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
@example(said=b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc")
def test_what_is_no_http_fails(speaker: Speaker, asked: Server, said: bytes) -> None:
    speaker.says = lambda: iter([said])
    assert not passes(asked)


HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


def dripping() -> Iterator[bytes]:
    yield HEAD
    for _ in range(200):
        yield b" "
        time.sleep(0.1)


def gushing() -> Iterator[bytes]:
    yield HEAD
    for _ in range(64):
        yield b" " * 2**20


@pytest.mark.parametrize("number", range(3))
def test_answer_without_end_is_given_up(
    speaker: Speaker, asked: Server, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whether it is asked for a chat, for its models, or for a stream."""
    monkeypatch.setattr(client, "GET_DEADLINE", 1.0)
    speaker.says = dripping
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="the answer does not end; after 1 s it was"):
        asks(asked)[number]()
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("number", range(3))
def test_head_without_end_is_given_up(
    speaker: Speaker, asked: Server, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Each line of it comes in time, so that the socket's own timeout never strikes."""
    over = threading.Event()

    def dripping_head() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n"
        for each in range(90):  # http.client reads at most 100 of them
            if over.wait(0.2):
                return
            yield b"X-%d: y\r\n" % each

    monkeypatch.setattr(client, "GET_DEADLINE", 1.0)
    speaker.says = dripping_head
    try:
        with pytest.raises(ServerError, match="its headers do not end"):
            asks(asked)[number]()
    finally:
        over.set()


@pytest.mark.parametrize("number", range(3))
def test_huge_answer_is_given_up(speaker: Speaker, asked: Server, number: int) -> None:
    speaker.says = gushing
    with pytest.raises((ServerError, DeadlineExceeded), match=r"larger than 2 MiB|does not end"):
        asks(asked)[number]()


@effort(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=())))
@example(text="\ud800\x1b[2J<script>\0|\n")
def test_any_text_can_be_told(text: str) -> None:
    """In the record, in the page and in the summary; nothing of it steers a terminal or breaks a file."""
    answer = {"question": "?", "text": text, "model": text, "tokens": 3, "seconds": 0.5}
    record = Record("1", 1000.0, 1100.0, Outcome.FAILED, sentence=text)
    record.served = [ServedModel("all", ["docker"], 1.0, 2.0, 3.0, [answer])]
    record.checks = [CheckResult("a::b", "serving", text, "failed", text, 1000.0, 1.0)]
    record.warnings = [text]
    written = record.to_json().encode()
    assert from_json(written.decode()).served[0].answers[0]["text"] == text
    for page in (head(record, []), summary.page(record, "reports/x")):
        page.encode()
        assert not {"\x1b", "\0", "\u202e"} & set(page)


def test_server_that_refuses_our_key_is_not_waited_for(speaker: Speaker, asked: Server) -> None:
    """Its list of models was asked for until ready_deadline, and a longer one was advised."""
    speaker.says = lambda: iter([reply({"error": "Unauthorized"}, 401)])
    channel: Any = SimpleNamespace(waiting=lambda *_: contextlib.nullcontext())
    startup = Startup(cast(Any, SimpleNamespace(node=SimpleNamespace(channel=channel))), 60, str)
    startup.begin()
    begun = time.monotonic()
    with pytest.raises(LoginError, match=r"/v1/models answered 401: .*Unauthorized"):
        startup.wait_for("its models", lambda: bool(asked.client.models()))
    assert time.monotonic() - begun < 30


def test_key_of_the_server_is_sent_and_no_other(
    speaker: Speaker, asked: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("default login me password theirs\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    speaker.says = lambda: iter([reply({"data": []})])
    asked.client.models()
    sent = re.findall(rb"(?i)^authorization: (.*?)\r$", speaker.heard, re.MULTILINE)
    assert sent == [f"Bearer {asked._settings.variables[API_KEY]}".encode()]
