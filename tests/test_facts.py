"""Facts about the software in a container, asked by the suite's own script of stand-ins for the real commands."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from fixtures.proxmox import facts

CONFIG = """disable-require = false
[nvidia-container-cli]
ldconfig = "@/sbin/ldconfig.real"
[nvidia-container-runtime]
debug = "/var/log/x"
{mode}
[nvidia-container-runtime.modes]
[nvidia-container-runtime.modes.cdi]
mode = "nothing"
[nvidia-container-runtime-hook]
mode = "another"
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the container's root; its bin comes first on PATH."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "etc/cdi").mkdir(parents=True)
    (tmp_path / "etc/nvidia-container-runtime").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    return tmp_path


def software(root: Path, toolkit: str = "") -> dict[str, str]:
    """What the script finds there."""
    if toolkit:
        program = root / "bin/nvidia-ctk"
        program.write_text(f"#!/bin/sh\necho 'NVIDIA Container Toolkit CLI version {toolkit}'\necho commit: x\n")
        program.chmod(0o755)
    script = facts.CONTAINER
    for name in ("/etc/nvidia-container-runtime", "/etc/cdi", "/var/run/cdi"):
        script = script.replace(name, f"{root}{name}")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=30, check=False)
    container: Any = SimpleNamespace(execute=lambda *_, **__: SimpleNamespace(out=done.stdout))
    return facts.of_container(container)[0]


@pytest.mark.parametrize(
    "line",
    [
        *("components=NaN", 'components=[{"Name": "x"}]', "components=[1]", 'components={"a": 1}', "components=[[[["),
        *(
            "docker_info=1e999 x",
            "docker_info=null {} []",
            "gpu=",
            "gpu=0, GPU-0",
            "gpu=" + "," * 99,
            "toolkit=9.9",
        ),
    ],
)
def test_line_that_makes_no_sense_hides_no_other(line: str) -> None:
    """A container that says nonsense of one thing still has the GPUs that decide whether the record is real."""
    card = "0, GPU-0, SIMULATED card, 580, 8, 9.0, 00:1, x"
    container: Any = SimpleNamespace(
        execute=lambda *_, **__: SimpleNamespace(out=f"{line}\nos=Debian\ngpu={card}\n{line}\n")
    )
    found, gpus = facts.of_container(container)
    assert found["os"] == "Debian"
    assert [gpu["name"] for gpu in gpus] == ["SIMULATED card"]
    assert all(isinstance(value, str) for value in found.values())


@pytest.mark.parametrize(
    ("toolkit", "line", "mode"),
    [
        ("1.17.8", "", "auto (legacy)"),
        ("1.17.8", 'mode = "auto"', "auto (legacy)"),
        ("1.18.2", 'mode = "auto"', "auto (jit-cdi)"),
        ("1.20.0", '  mode="auto"  # the default', "auto (jit-cdi)"),
        ("1.18.2", 'mode = "cdi"', "cdi"),
        ("1.18.2", 'mode = "legacy"', "legacy"),
        ("1.18.2", 'mode = "leagcy"', "leagcy"),
        ("1.18.2", "\tmode\t=\t'cdi'", "cdi"),
        ("of somebody", 'mode = "auto"', "auto"),
    ],
)
def test_mode_of_the_toolkit_is_known(root: Path, toolkit: str, line: str, mode: str) -> None:
    (root / "etc/nvidia-container-runtime/config.toml").write_text(CONFIG.format(mode=line))
    assert software(root, toolkit)["toolkit_mode"] == mode


def test_toolkit_without_a_configuration_is_in_its_default_mode(root: Path) -> None:
    assert software(root, "1.18.2")["toolkit_mode"] == "auto (jit-cdi)"


def test_without_a_toolkit_nothing_is_said_of_it(root: Path) -> None:
    assert not [name for name in software(root) if name.startswith(("toolkit", "cdi"))]


def test_cdi_specifications_are_known_by_their_hash(root: Path) -> None:
    texts = {"nvidia.json": "{}", "nvidia.yaml": "cdiVersion: 0.5.0\n"}
    for name, text in texts.items():
        (root / "etc/cdi" / name).write_text(text)
    wanted = [
        f"{root}/etc/cdi/{name} sha256:{hashlib.sha256(text.encode()).hexdigest()}" for name, text in texts.items()
    ]
    assert software(root, "1.18.2")["cdi"] == ", ".join(wanted)


def test_what_a_comparison_has_asked_is_not_asked_again(root: Path) -> None:
    """Each of these programs takes 50 ms of a processor, while a second run waits for the container."""
    container: Any = MagicMock(execute=MagicMock(return_value=SimpleNamespace(out="os=Debian\n")))
    compared = {"docker": "29.1.2", "runc": "", "toolkit": "1.18.2"}
    found = {"os": "Debian", "docker": "29.1.2", "toolkit": "1.18.2", "toolkit_mode": "auto (jit-cdi)"}
    assert facts.of_container(container, compared) == (found, [])
    assert container.execute.call_args.args == facts.OF_COMPARED
    for name in ("docker", "nvidia-ctk"):
        (root / "bin" / name).write_text('#!/bin/sh\necho "$0 $1" >>"$LOG"\n')
        (root / "bin" / name).chmod(0o755)
    log = root / "log"
    subprocess.run(facts.OF_COMPARED, env={**os.environ, "LOG": str(log)}, capture_output=True, timeout=30, check=False)
    assert log.read_text().split() == [str(root / "bin/docker"), "info"]
