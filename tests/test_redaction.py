"""Redaction: no secret in any file of a run or in the terminal, and nothing else lost."""

from __future__ import annotations

import gzip
import json
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.base.redaction import Redactor, looks_secret
from fixtures.base.text import beginning, clean, ending, plain, short
from fixtures.run.stages import CheckResult
from fixtures.serving.image import Image
from fixtures.serving.server import Server
from tests import schemas
from tests.suite_run import Suite

HUB, API, REGISTRY = "hf_QwErTyUiOpAsDfGhJk", 'sk-"quoted"&<odd>-920', "r3gistry-passw0rd"
ODD = "license-4711"
SPOILER = """
import os, warnings
import pytest
from fixtures.run.build import BUILD
from fixtures.serving.served_model import ServedModel
TOLD = f"{os.environ['VLLM_API_KEY']} and {os.environ['HUGGING_FACE_HUB_TOKEN']} and license-4711"
def pytest_runtest_call(item):
    print(TOLD)
    warnings.warn(TOLD)
    if "proxmox" in item.name:
        pytest.skip(TOLD)
    if "no_other_run" in item.name:
        raise AssertionError(f"{TOLD} is not https://robot:r3gistry-passw0rd@registry.example/v2")
@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    build = session.config.stash[BUILD]
    build.channel.run(["docker", "login", "--password", "unheard-of", TOLD], deadline=5)
    build.logs["device=1"] = f"the server says {TOLD}"
    build.warnings.append(TOLD)
    build.served.append(ServedModel("all", ["docker", "--api-key", "unheard-of"], None, None, None, [{"text": TOLD}]))
    build.manifest["template"] = {"config": {"description": TOLD}}
"""


def test_run_leaves_no_secret(tmp_path: Path) -> None:
    run = Suite(tmp_path, f": {HUB}, {REGISTRY}").run(
        *("-rA", "-o", f"server_env=HUGGING_FACE_HUB_TOKEN VLLM_API_KEY ODD_NAME={ODD}"),
        *("-o", "server_args=--max-num-batched-tokens 2048"),
        plugin=SPOILER,
        HUGGING_FACE_HUB_TOKEN=HUB,
        VLLM_API_KEY=API,
        REGISTRY_PASSWORD=REGISTRY,
    )
    files = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    files["server-device-1.log.gz"] = gzip.decompress(files["server-device-1.log.gz"])
    files["terminal"] = run.output.encode()
    secrets = (HUB, API, json.dumps(API)[1:-1], escape(API), REGISTRY, ODD, "unheard-of")
    found = [(name, secret) for name, content in files.items() for secret in secrets if secret.encode() in content]
    assert found == []
    assert b"odd>-920" not in b"".join(files.values())
    for name in ("report.html", "junit.xml", "record.json", "server-device-1.log.gz", "terminal"):
        assert b"[redacted: VLLM_API_KEY]" in files[name], name
    assert b"refused: [redacted: HUGGING_FACE_HUB_TOKEN], [redacted: REGISTRY_PASSWORD]" in files["record.json"]
    assert {"HUGGING_FACE_HUB_TOKEN", "VLLM_API_KEY", "REGISTRY_PASSWORD", "ODD_NAME"} <= set(run.record.redacted)
    assert run.record.settings["server_env"] == ["HUGGING_FACE_HUB_TOKEN", "VLLM_API_KEY", "ODD_NAME"]
    assert "2048" in str(run.record.settings["server_args"])
    schemas.check_folder(run.folder)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("NOT_HERE", "server_env: NOT_HERE has no value here, and the environment has no NOT_HERE"),
        ("2X=secret-value", "server_env: '2X' can't be passed on"),
        ("'X=secret-value", "server_env: can't be split into words"),
    ],
)
def test_mistake_in_the_environment_does_not_tell_it(tmp_path: Path, words: str, said: str) -> None:
    run = Suite(tmp_path).run("-o", f"server_env={words}")
    assert run.status == 4
    assert said in run.output
    assert "secret-value" not in run.output


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "VLLM_API_KEY", "PGPASSWORD", "apiKey", "registry_password", "AWS_SECRET_ACCESS_KEY", "token"]
)
def test_name_looks_secret(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize(
    "name",
    ["TOKENIZERS_PARALLELISM", "signing_key", "HF_TOKEN_PATH", "PASSWORD_FILE", "PWD", "SSH_AUTH_SOCK", "KEYMAP"],
)
def test_name_does_not_look_secret(name: str) -> None:
    assert not looks_secret(name)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("it is hf_abcdEFGH1234!", "it is [redacted: Hub token]!"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer [redacted: Authorization]"),
        ('{"Authorization": "Basic dXNlcg=="}', '{"Authorization": "Basic [redacted: Authorization]"}'),
        ("https://robot:pw@r.example/v2/", "https://[redacted: credentials in a URL]@r.example/v2/"),
        ("https://ghp_x@r.example/", "https://[redacted: credentials in a URL]@r.example/"),
        ("HF_TOKEN=abc docker run", "HF_TOKEN=[redacted: NAME=VALUE] docker run"),
        ("vllm --api-key abc /m", "vllm --api-key [redacted: option] /m"),
        ("password=abc", "password=[redacted: name=value]"),
    ],
)
def test_form_is_found(text: str, clean: str) -> None:
    assert Redactor({}).text(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "ssh://root@pve.example:22",
        "vllm/vllm-openai@sha256:0123",
        "pve:node/lxc/920@vllm-base-snapshot",
        "max_num_batched_tokens=2048, --max-num-batched-tokens 4096",
        "the tokenizer=auto of 8 tokens in 0.5 s",
        "--tokenizer-mode auto",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Redactor({}).text(text) == text


def test_short_value_does_not_spoil_digests() -> None:
    assert Redactor({"KEY": "abc"}).text("sha256:00abc0") == "sha256:00abc0"


def test_redaction_is_done_once() -> None:
    redactor = Redactor({"HF_TOKEN": "s3cret-value"})
    once = redactor.text("HF_TOKEN=s3cret-value Authorization: Bearer s3cret-value --hf-token s3cret-value")
    assert redactor.text(once) == once
    assert "s3cret" not in once


def test_whole_data_is_redacted() -> None:
    redactor = Redactor({"NAME": "s3cret-value"})
    check = CheckResult("n", "s", "t", "failed", "it is s3cret-value")
    assert redactor.value({"a": [check, ("s3cret-value", 1)]}) == {
        "a": [CheckResult("n", "s", "t", "failed", "it is [redacted: NAME]"), ("[redacted: NAME]", 1)]
    }
    assert redactor.names == {"NAME"}


def test_environment_of_the_server_is_on_no_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes in through standard input; the server itself asks for the key, so the suite sends it."""
    calls: list[Any] = []

    class Container:
        node, channel = SimpleNamespace(run_id="1", command_deadline=1.0), MagicMock()

        def execute(self, *argv: str, **options: object) -> object:
            calls.append((argv, options))
            raise InterruptedError

    settings: Any = SimpleNamespace(
        server_env=("VLLM_API_KEY=s3cret-value", "X=1"),
        variables={"VLLM_API_KEY": "s3cret-value", "X": "1"},
        server_args=(),
        server_mounts=(),
        server_port=8000,
        warm_caches="",
        keep_model="",
        test_model="/m",
        command_deadline=1.0,
        ready_deadline=1.0,
        answer_deadline=1.0,
    )
    monkeypatch.setattr("fixtures.proxmox.docker.remove_own", lambda _: None)
    server: Any = Server(cast(Any, Container()), "127.0.0.1", settings, "all")
    server._sampler = MagicMock()  # its program is none, and has no output to read
    with pytest.raises(InterruptedError):
        server.start(Image("v", "v@sha256:0", ("vllm", "serve"), 1), 1)
    ((argv, options),) = calls
    assert options["stdin"] == b"VLLM_API_KEY=s3cret-value\nX=1\n"
    assert "s3cret-value" not in " ".join(argv)
    assert argv[argv.index("--env-file") + 1] == "/dev/stdin"


@pytest.mark.parametrize("cut", range(40, 60))
def test_half_a_secret_is_not_left_where_a_text_is_cut(cut: int) -> None:
    key = "sk-0123456789abcdef0123456789"
    for text in (f"a word {key} and more of it", f'{{"a":"word","key":"{key}","more":"of it, and so on"}}'):
        for kept in (beginning(text, len(text) - cut + 20), ending(text, cut - 10)):
            assert key in kept or not any(key[at : at + 4] in kept for at in range(len(key) - 3))


# --- hostile text -------------------------------------------------------------------------------------

SECRETS = st.text("abcdefghijkmnpqrstuvwxyzABCDEF0123456789-_.", min_size=16, max_size=40)
# what a terminal or a browser shows nothing for
UNSEEN = st.sampled_from(
    ["\x00", "\x08", "\x1b[0m", "\x1b]0;x\x07", "\x9b", "\u200b", "\u200d", "\ufeff", "\u2060", "\xad", "\ufe0f"]
)
TEXTS = st.text(st.one_of(st.characters(), st.sampled_from("\x1b[]\r\n:='\"<>&@/ \u202e")), max_size=60)


@given(secret=SECRETS, before=TEXTS, after=TEXTS, data=st.data())
def test_secret_is_found_whatever_stands_in_it(secret: str, before: str, after: str, data: st.DataObject) -> None:
    """What is taken out when a text is cleaned goes first: it would rejoin a secret that was not recognised."""
    told = "".join(char + data.draw(UNSEEN) for char in secret)
    shown = Redactor({"NAME": secret}).text(f"{before} {told} {after}")
    assert secret not in shown
    assert secret not in short(clean(shown), 10_000)


@given(
    token=st.from_regex(r"hf_[A-Za-z0-9]{20,34}", fullmatch=True), unseen=UNSEEN, at=st.integers(1, 22), before=TEXTS
)
def test_token_nobody_told_of_is_found_whatever_stands_in_it(token: str, unseen: str, at: int, before: str) -> None:
    assert token not in clean(Redactor({}).text(f"{before}\n{token[:at]}{unseen}{token[at:]}"))


@given(text=TEXTS, secret=SECRETS)
def test_redaction_is_clean_and_done_once(text: str, secret: str) -> None:
    redactor = Redactor({"NAME": secret})
    once = redactor.text(f"{text}{secret}{text} HF_TOKEN={secret}")
    assert redactor.text(once) == once
    assert clean(once) == once


@given(secret=SECRETS, before=st.integers(0, 900), after=st.integers(0, 900), most=st.integers(60, 600))
def test_no_piece_of_a_secret_is_left_where_a_text_was_cut(secret: str, before: int, after: int, most: int) -> None:
    text = f"{'word ' * before}{secret}{' word' * after}"
    for cut in (short, beginning, ending, plain):
        left = Redactor({"NAME": secret}).text(cut(text, most))
        assert not any(secret[at : at + 8] in left for at in range(len(secret) - 7)), cut.__name__
