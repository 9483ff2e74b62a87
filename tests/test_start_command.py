"""The command that is given to people: whole, to be pasted, and nothing of the suite's own."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fixtures.base.redaction import Redactor
from fixtures.serving import start_command
from fixtures.serving.all_reduce import NO_FIX, WITHOUT_PEER
from fixtures.serving.image import Image

RUN = ("docker", "run", "--detach", *start_command.owners_options("Qwen/Qwen2.5-0.5B"), "a b@sha256:0", "--model", "$x")


def test_server_is_named_after_its_model() -> None:
    for model, name in (("Qwen/Qwen2.5-0.5B", "vllm-Qwen2.5-0.5B"), ("/models/test-model/", "vllm-test-model")):
        assert start_command.owners_options(model)[1] == name
    assert start_command.owners_options("/models/ä b;c")[1] == "vllm-b-c"


def test_unit_starts_the_same_server_and_belongs_to_its_owner(tmp_path: Path) -> None:
    """It is pasted as it stands; the unit's line is read as systemd does."""
    odd = (*RUN, "50% of $HOME", 'say "hi"', "back\\slash")
    text = start_command.unit(start_command.text(odd, ["VLLM_API_KEY"]))
    script = text.replace("/etc/", f"{tmp_path}/").replace("systemctl", "echo systemctl")
    (tmp_path / "systemd/system").mkdir(parents=True)
    said = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True, timeout=10).stdout
    name = "vllm-Qwen2.5-0.5B"
    assert said.splitlines() == ["systemctl daemon-reload", f"systemctl enable --now {name}"]
    unit = (tmp_path / f"systemd/system/{name}.service").read_text()
    line = next(each for each in unit.splitlines() if each.startswith("ExecStart=")).partition("=")[2]
    words = [word.replace("$$", "$").replace("%%", "%") for word in shlex.split(line)]
    assert words[:3] == ["/usr/bin/docker", "run", "--rm"]
    left_out = ("--detach", "--restart", "unless-stopped", "docker", "run")
    assert [word.replace(f"{tmp_path}/", "/etc/") for word in words[3:]] == [
        each for each in odd if each not in left_out
    ]
    assert "Restart=always" in unit
    assert "phoenix" not in unit
    assert (tmp_path / "vllm.env").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("command", ["", "x", "a\ndocker run image", "made\npodman run --name x --restart no"])
def test_command_of_another_form_gives_no_unit(command: str) -> None:
    assert start_command.unit(command) == ""


def test_pasted_command_makes_the_file_of_the_key_once(tmp_path: Path) -> None:
    """It is run as it stands, but for the place of the file; `docker` prints its words."""
    text = start_command.text(RUN, ["VLLM_API_KEY", "HF_TOKEN"])
    assert Redactor({}).text(text) == text
    assert "..." not in text
    file = tmp_path / "vllm.env"
    script = 'docker() { printf "%s\\n" "$@"; }\n' + text.replace(start_command.ENV_FILE, str(file))
    for _ in range(2):
        done = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True, timeout=10)
        words = done.stdout.splitlines()
        assert words == [word.replace(start_command.ENV_FILE, str(file)) for word in RUN[1:]]
        kept = file.read_text()
    assert re.fullmatch(r"VLLM_API_KEY=[0-9a-f]{48}\nHF_TOKEN\n", kept)
    assert kept == file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert shlex.split(text.splitlines()[-1]) == list(RUN)


def test_what_the_gpus_need_stands_in_every_start_command() -> None:
    """In the options of Docker and in the arguments of vLLM, not in the file of secrets: it is none."""
    image = Image("vllm/vllm-openai:latest", "vllm/vllm-openai@sha256:0", ("vllm", "serve"), 1)
    told = cast(Any, SimpleNamespace(test_model="m", server_port=8000, server_mounts=(), server_args=("--x",)))
    words = start_command.docker_run(image, told, "all", 2, fix=WITHOUT_PEER, options=["--name", "y"])
    before, after = words[: words.index(image.digest)], words[words.index(image.digest) + 1 :]
    assert before[-4:] == ["--name", "y", "--env", "NCCL_P2P_DISABLE=1"]
    assert after == ["m", "--tensor-parallel-size", "2", "--disable-custom-all-reduce", "--x"]
    plain = start_command.docker_run(image, told, "all", 2, fix=NO_FIX, options=["--name", "y"])
    assert [word for word in words if word not in plain] == [
        "--env",
        "NCCL_P2P_DISABLE=1",
        "--disable-custom-all-reduce",
    ]
