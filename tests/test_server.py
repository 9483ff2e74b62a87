"""The test server: its command line, and what counts as an answer."""

import json
import shlex
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.base import server_args
from fixtures.base.errors import BuildError
from fixtures.base.settings import _environment
from fixtures.gpu.gpu import Gpu
from fixtures.gpu.gpus import index_of
from fixtures.serving import performance, vllm
from fixtures.serving.client import ServerError, _answer, _part, says
from fixtures.serving.image import Image
from fixtures.serving.served_model import ONE_REQUEST
from fixtures.serving.server import Server
from fixtures.session.server_fixtures import share

DATA = Path(__file__).parent / "data/vllm"


def image(*entrypoint: str) -> Image:
    return Image("vllm/vllm-openai:latest", "vllm/vllm-openai@sha256:0", entrypoint, 1)


def recorded(name: str) -> tuple[int, bytes]:
    """A real server's reply: its status and content."""
    head, _, rest = (DATA / name).read_text().partition("\n\n")
    return int(head.splitlines()[1].split()[1]), rest.rpartition("\n[time_total")[0].encode()


def test_command_follows_the_entrypoint() -> None:
    assert vllm.serve_command(image("vllm", "serve"), "/m", ["--x"]) == ["/m", "--x"]
    old = image("python3", "-m", "vllm.entrypoints.openai.api_server")
    assert vllm.serve_command(old, "/m", ["--x"]) == ["--model", "/m", "--x"]


@pytest.mark.parametrize("entrypoint", [(), ("sh",), ("vllm", "bench")])
def test_unknown_entrypoint_is_refused(entrypoint: tuple[str, ...]) -> None:
    with pytest.raises(BuildError, match="entrypoint"):
        vllm.serve_command(image(*entrypoint), "/m", [])


CHUNK = 'data: {"choices": [{"index": 0, "delta": {"content": "a"}}], "usage": null}\n\n'
FINISHED = 'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}\n\n'
USAGE = 'data: {"choices": [], "usage": {"completion_tokens": 2}}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (f"\ufeff{CHUNK}{CHUNK}{USAGE}", ""),  # HTML standard, "Parsing an event stream"
        # vllm-project/vllm#42363 has this form, older versions the other one
        (CHUNK + 'data: {"error": {"message": "EngineCore encountered an issue", "code": 500}}\n\n', "EngineCore enc"),
        (CHUNK + 'data: {"object": "error", "message": "CUDA error", "code": 500}\n\n', "broke off: .*CUDA error"),
        (f"{CHUNK}{FINISHED}data: [DONE]\n\n", "does not say how many came"),  # TheTom/vllm-swift#19
        (f"{CHUNK}{CHUNK}", "broke off: no part of it has a finish_reason"),
        ('data: {"choices": [5]}\n\n', "not what a chat is made of"),
        (CHUNK + USAGE.replace("2", "1"), "2 tokens were requested, 1 came"),
    ],
)
def test_stream_that_breaks_off_says_why(said: str, why: str) -> None:
    client = SimpleNamespace(stream=lambda _: filter(None, map(_part, said.split("\n"))))
    server: Any = SimpleNamespace(client=client)
    if not why:
        assert performance._request(server, 2)[1] > 0
        return
    with pytest.raises(ServerError, match=why):
        performance._request(server, 2)


def test_recorded_answer_is_read() -> None:
    answer = _answer("?", *recorded("chat-second.txt"), 0.5)
    assert (answer.status, answer.text, answer.tokens) == (200, "The capital of France is Paris.", 8)
    assert answer.model == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_recorded_refusal_is_told() -> None:
    with pytest.raises(ServerError, match=r"404: .*no-such-model. does not exist"):
        _answer("?", *recorded("bad-wrong-model.txt"), 0.5)


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"<html>", {}, {"choices": []}, {"choices": [{"message": {}}]}, [], {"choices": None}]
)
def test_anything_else_is_an_error_not_a_crash(body: object) -> None:
    with pytest.raises(ServerError, match="answered with 200"):
        _answer("?", 200, body if isinstance(body, bytes) else json.dumps(body).encode(), 0.5)


def test_each_run_has_a_key_of_its_own_unless_the_user_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = _environment("X=1"), _environment("X=1")
    assert first[0] == second[0] == "X=1"
    assert first[1].startswith("VLLM_API_KEY=sk-")
    assert len(first[1]) > 50
    assert first != second
    monkeypatch.setenv("VLLM_API_KEY", "mine")
    assert _environment("VLLM_API_KEY") == ("VLLM_API_KEY=mine",)


def test_docker_is_told_a_gpus_number_in_the_container_not_on_the_node() -> None:
    """Also where the devices are not in the order of the PCI addresses, by which vLLM takes the first."""
    cards = [Gpu(index, f"GPU-{index}", "H100", "", None, "", minor=minor) for index, minor in enumerate((3, 1))]
    assert [share(index_of(cards, gpu, (1, 3))) for gpu in (1, 3)] == ["device=1", "all"]
    assert [share(index_of([], gpu, (1, 3))) for gpu in (1, 3)] == ["all", "device=1"]


@pytest.mark.parametrize(
    ("text", "word", "said"),
    [
        ("The capital of France is Paris.", "Paris", True),
        ("PARIS", "paris", True),
        ("**Paris**, of course", "Paris", True),
        ("Not Lyon, but Paris.", "Paris", True),
        ("There is no comparison.", "Paris", False),
        ("Parisian", "Paris", False),
        ("The capital is not Paris.", "Paris", False),
        ("It isn't Paris", "Paris", False),
        ("It is not called *Paris*.", "Paris", False),
        ("Paris is not the capital of France.", "Paris", False),
        ("**Paris** isn't it; Lyon, rather than Paris, is.", "Paris", False),
        ("I don't know whether it is Paris.", "Paris", False),
        ("Neither Paris nor Lyon; anything but Paris.", "Paris", False),
        ("Paris is not only the capital, it is the largest town.", "Paris", True),
        ("It is Paris. Old Paris was not.", "Paris", True),
        ("Is it Paris?", "Paris", False),
        ("What about Paris, or Lyon?", "Paris", False),
        ("Is it Paris? Yes, it is Paris.", "Paris", True),
        ("Which city? Paris", "Paris", True),
        ("It is Paris, would you like to know more?", "Paris", True),
        ("Paris! Anything else?", "Paris", True),
        ("Did you know that Paris is the capital?", "Paris", True),
        ("A non-Paris answer", "Paris", False),
        ("Saint-Denis-Paris", "Paris", True),
        ("Paris is wrong.", "Paris", False),
        ("Paris is false", "Paris", False),
        ("\u9996\u90fd\u662f\u5df4\u9ece\u3002", "\u5df4\u9ece", True),
        ("whatever", "", True),
    ],
)
def test_answer_says_a_word_only_as_a_word_that_is_not_denied(text: str, word: str, said: bool) -> None:
    assert says(text, word) is said


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ('{"Status": "exited", "ExitCode": 137}', " (exit status 137)"),
        ('{"Status": "running", "ExitCode": 0}', ""),
        *((text, "") for text in ("", "[]", "null", "{}", '{"Status": "exited"}', "Error: No such object", '"exited"')),
    ],
)
def test_end_of_a_server_that_does_not_answer_is_said_as_far_as_docker_knows_it(state: str, said: str) -> None:
    """What Docker answers is no reason for an error of Python in place of the check's sentence."""
    container = SimpleNamespace(execute=lambda *_, **__: SimpleNamespace(out=state, succeeded=True))
    server: Any = SimpleNamespace(inspect=lambda: Server.inspect(server), container=container, name="")
    assert Server._exit(server) == said


def test_server_of_another_model_is_named_at_once() -> None:
    """It was waited for until the deadline, as if it still loaded."""
    server: Any = SimpleNamespace(
        record=None,
        model="m",
        client=SimpleNamespace(is_healthy=lambda: True, models=lambda: ["llama.gguf"]),
        container=SimpleNamespace(pasteable=lambda *words: " ".join(words)),
        _settings=SimpleNamespace(server_port=8000),
        _startup=SimpleNamespace(wait_for=lambda what, happened: float(happened())),
    )
    with pytest.raises(ServerError, match=r"lists \['llama\.gguf'\]; expected m; another server .* sport = :8000"):
        Server.wait_until_ready(server)


@pytest.mark.parametrize(
    ("speed", "warm_up", "repeats", "takes"), [(480.0, 5, 5, 5), (60.0, 1, 3, 12), (1.0, 1, 3, 800)]
)
def test_slow_server_is_asked_less_often(
    monkeypatch: pytest.MonkeyPatch, speed: float, warm_up: int, repeats: int, takes: float
) -> None:
    """A fast one is soon warm and has five repeats of each figure; one that takes long for each has three."""
    now, asked, effort = 0.0, list[bool](), performance.STEADY
    monkeypatch.setattr(performance, "time", SimpleNamespace(monotonic=lambda: now))

    def request(_: Any, tokens: int, *, parts: bool = True) -> tuple[float, float]:
        nonlocal now
        asked.append(parts)
        took = 0.02 + (tokens - 1) / speed
        now += took if parts else took / effort.at_once  # many take as long as one
        return 0.02, took

    def at_once(do: Callable[[], Any]) -> Future[Any]:
        done = Future[Any]()
        done.set_result(do())
        return done

    monkeypatch.setattr(performance, "_request", request)
    monkeypatch.setattr(performance, "run_in_thread", at_once)
    server: Any = SimpleNamespace(record=SimpleNamespace(answered=9.0))
    found = {figure.name: figure for figure in performance.measure(server, effort)}
    one, many = found[ONE_REQUEST], found["16 requests at once, 96 tokens each"]
    assert one.value == pytest.approx(speed)  # whatever the first token takes
    assert many.value == pytest.approx(16 * 96 / (0.02 + 95 / speed))
    assert (one.repeats, many.repeats) == (repeats, repeats)
    assert asked.count(False) == 16 * (warm_up + repeats)
    assert now < takes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--port 9000", "use -o server_port=9000"),
        ("--dtype half --port=9000", "use -o server_port=9000"),
        ("--port", "use -o server_port=VALUE"),
        ("--host 127.0.0.1", "all addresses"),
        ("--uds=/run/vllm", "server_port"),
        ("--root-path /v1", "without a prefix"),
        ("--ssl_keyfile /k --ssl-certfile /c", "by HTTP on server_port"),
        ("--api-key 12345", "server_env=VLLM_API_KEY"),
        ("--model 'a b'", "use -o test_model='a b'"),
        ("Qwen/Qwen3-0.6B --dtype half", "use -o test_model='Qwen/Qwen3-0.6B'"),
        ("--served_model_name=x", "use -o test_model=x"),
        ("--served-model x", "test_model"),
        ("--tensor_parallel_size 4", "declare vllm_tensor_parallel_size"),
        ("-tp=4", "declare vllm_tensor_parallel_size"),
        ("--data-parallel-size 2", "one engine"),
        ("--data_parallel_backend ray", "one engine"),
        ("-dp 2", "one engine"),
        ("--headless", "the API server"),
        ("--config /etc/vllm.yaml", "give its options in server_args"),
    ],
)
def test_argument_that_the_run_sets_itself_is_refused(words: str, said: str) -> None:
    """It was accepted, and the run waited for a server that listened elsewhere, or asked it for another model."""
    with pytest.raises(ValueError, match=r"expected (no option that the run itself sets|an option)") as caught:
        server_args.read(words)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        "--port 8000 --host 0.0.0.0 --data-parallel-size 1",  # as the run has them
        "--enforce-eager --max-model-len 2048 --gpu-memory-utilization=0.3 -O3 --pipeline-parallel-size 2",
        "--config-format hf --model-impl vllm --hf-overrides '{\"port\": 1}' --middleware a.b --tokenizer x",
        "",
    ],
)
def test_other_arguments_are_passed_on(words: str) -> None:
    assert server_args.read(words) == tuple(shlex.split(words))
