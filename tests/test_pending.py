"""What has changed since a template was sealed: field by field, and no more of a run than is needed."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.base.errors import BuildError
from fixtures.proxmox.conf import Snapshot
from fixtures.record import comparison, origin
from fixtures.record.model import Record
from fixtures.run import again
from fixtures.run import suite as suites
from fixtures.serving import registry
from fixtures.template import record_store
from fixtures.template.comparison import DOES, Pending
from fixtures.template.differences import config_differences
from tests.small_node import DECLARATION

OLD, NEW = "a" * 64, "b" * 64
DECLARED = DECLARATION[920]
CONFIG = {
    "hostname": DECLARED.name,
    "memory": 2048,
    "cores": DECLARED.cores,
    "features": DECLARED.features,
    "net0": DECLARED.net0,
    "rootfs": f"{DECLARED.storage_pool}:subvol-920-disk-0,size={DECLARED.storage_size_gb}G",
}


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An accepted template whose image and model are those of the settings, and whose tag has moved since."""
    snapshot = Snapshot("s", f"phoenix-920: sealed manifest sha256:{OLD} accepted", 1, "")
    manifest = {"template": {"image": {"name": "vllm:v1", "digest": f"vllm@sha256:{OLD}"}, "model": {"name": "m"}}}
    proved = Record("x", 1.0, suite={"commit": "1" * 40, "changed": "no"})
    kept = {"manifest.json": json.dumps(manifest), "record.json": proved.to_json()}
    monkeypatch.setattr(comparison, "named_digest", lambda *_: OLD)
    monkeypatch.setattr("fixtures.template.manifest.from_json", json.loads)
    monkeypatch.setattr(record_store, "read", lambda *_: kept)
    monkeypatch.setattr(origin, "suite", lambda: {"commit": "2" * 40, "changed": "no"})
    monkeypatch.setattr(comparison, "Disk", lambda *_: None)
    found = registry.Published("r", 1, (), f"sha256:{NEW}")
    monkeypatch.setattr(registry, "look_up", lambda *_: found)
    template = SimpleNamespace(
        parent=SimpleNamespace(ctid=903),
        snapshot_name="s",
        snapshot=lambda: snapshot,
        differences=lambda _: config_differences(DECLARED, CONFIG),
    )
    settings = SimpleNamespace(vllm_image="vllm:v1", test_model="m")
    return SimpleNamespace(
        template=template, node=None, settings=settings, again=lambda *more: " ".join(("pytest tests_920", *more))
    )


def test_each_field_says_from_what_to_what(build: Any) -> None:
    found = comparison.pending(build)
    assert found.fields == (
        "memory 2048 → 4096",
        f"image digest {OLD[:12]} → {NEW[:12]} (tag moved)",
        f"suite {'1' * 12} → {'2' * 12}",
    )
    assert list(found.lines(build.again))[-2:] == [
        f"--rebuild applies it: it {DOES['--rebuild']}",
        "  pytest tests_920 --rebuild",
    ]


def test_other_image_and_model_are_named(build: Any) -> None:
    build.settings = SimpleNamespace(vllm_image="vllm:v2", test_model="n")
    assert comparison.pending(build).content == ("image vllm:v1 → vllm:v2", "model m → n")


def test_tag_that_was_not_asked_for_is_not_known(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "look_up", lambda *_: registry.Published(failures=("https://r: no answer",)))
    found = comparison.pending(build)
    assert found.content == ()
    assert found.unknown == ("unknown whether the tag vllm:v1 has moved: https://r: no answer",)


def test_node_that_does_not_say_is_no_lack_of_changes(build: Any) -> None:
    def refuses(_: str) -> list[str]:
        raise BuildError("refused")

    build.template.differences = refuses
    assert comparison.pending(build).unknown == ("the snapshot was not compared with its declaration: refused",)


@pytest.mark.parametrize(
    ("found", "mode"),
    [
        (Pending(), ""),
        (Pending(suite=("suite 1 → 2",)), ""),
        (Pending(("memory 4096 → 6144",)), "--rebuild"),
        (Pending(content=("image a → b",)), "--rebuild"),
        (Pending(("memory 4096 → 6144", "unprivileged True → False")), "--rebuild-clone"),
        (Pending(("rootfs storage local → tank",)), "--rebuild-clone"),
        (Pending(("GPUs [0] → [0, 1]",)), "--rebuild-clone"),
        (Pending(("mp0: /srv,mp=/srv: is not declared",)), "--rebuild-clone"),
        (Pending(("rootfs size 32 → 64 GB",)), "--rebuild"),
    ],
)
def test_no_more_than_is_needed_is_proposed(found: Pending, mode: str) -> None:
    assert found.mode == mode


# --- the command that can be pasted ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("tests_920 --node ssh://root@pve -v -x", "--node ssh://root@pve"),
        ("--node=lab -o test_model=/m --verify", "--node=lab -o test_model=/m"),
        ("@lab/options --rebuild -k gpu --tb=long", "@lab/options"),
        (
            "-otest_prompt=x --override-ini=a=b --no-clone --accept 950 --keep",
            "-otest_prompt=x --override-ini=a=b --no-clone",
        ),
        ("--plan --nodes file -m deep --deselect a::b", "--nodes file"),
    ],
)
def test_where_and_settings_are_kept(words: str, kept: str) -> None:
    assert again.kept(shlex.split(words)) == tuple(shlex.split(kept))


def test_command_names_this_interpreter(tmp_path: Path) -> None:
    line = again.command(Path.cwd() / "tests_920", ("-o", "server_args=--a b"), "--rebuild")
    assert line == f"{sys.executable} -m pytest tests_920 -o 'server_args=--a b' --rebuild"


def test_console_script_is_repeated_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/x/bin/phoenix-920"])
    words = again.kept(["-c", "/x/pytest.ini", "--rootdir=/x", "-o", "home=/x", "--node", "lab", "-o", "a=b"])
    rest = "--node lab -o a=b --verify"
    assert again.command(suites.TOP / "tests_920", words, "--verify") == f"/opt/x/bin/phoenix-920 {rest}"
    assert (
        again.command(Path.cwd() / "own/tests_930", words, "--verify") == f"/opt/x/bin/phoenix-920 own/tests_930 {rest}"
    )
    monkeypatch.setattr(sys, "argv", ["/src/phoenix_920/__main__.py"])
    module = f"{sys.executable} -m phoenix_920 own/tests_930 {rest}"
    assert again.command(Path.cwd() / "own/tests_930", words, "--verify") == module


# --- CHECKS ------------------------------------------------------------------------------------------------


def suite(folder: Path, checks: str) -> Path:
    (folder / "test_a.py").write_text("def test_one(): ...\nclass TestB:\n    def test_two(self): ...\n")
    (folder / "CHECKS").write_text(checks)
    return folder / "CHECKS"


@pytest.mark.parametrize(
    ("checks", "said"),
    [
        ("stage\n  test_a.py::test_one\n  test_a.py::TestB::test_two[gpu]\n", ""),
        (
            "stage\n  test_a.py::test_oen\n  test_a.py::TestB::test_two\n",
            "CHECKS:2: there is no check test_a.py::test_oen; did you mean test_a.py::test_one?",
        ),
        ("stage\n  test_a.py::test_one\n", "test_a.py:3: test_a.py::TestB::test_two is not listed in "),
    ],
)
def test_mistake_in_checks_is_named_with_its_line(checks: str, said: str, tmp_path: Path) -> None:
    found = suites.mistake(suite(tmp_path, checks))
    assert said in found
    assert bool(said) is bool(found)


def test_checks_of_another_suite_are_known() -> None:
    """docs/example/tests_930 takes most of its checks from 920's suite; what CHECKS does not list is left out."""
    assert suites.mistake(suites.TOP / "docs/example/tests_930/CHECKS") == ""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("*", ""),
        ("test_one  # one", "test_b.py:1: test_b.py::test_one is not listed in"),
        ("(\n    a,\n    b as test_one,\n)", "test_b.py:1: test_b.py::test_one is not listed in"),
    ],
)
def test_only_a_whole_stage_of_another_suite_may_be_listed_in_part(
    line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suites, "TOP", tmp_path)
    checks = suite(tmp_path, "stage\n  test_a.py::test_one\n  test_a.py::TestB::test_two\n")
    (tmp_path / "test_b.py").write_text(f"from test_a import {line}\n")
    assert said in (found := suites.mistake(checks))
    assert bool(said) is bool(found)
