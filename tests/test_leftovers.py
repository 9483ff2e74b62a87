"""What is looked through for leftovers and secrets may change meanwhile: that ends nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fixtures.base.settings import Settings, _environment
from fixtures.proxmox.container import Container
from fixtures.remote import docker_usage, leftovers, machine, secret_files
from fixtures.remote.machine import CONTAINERD
from fixtures.serving import caches
from fixtures.template.tidy import find_leftovers


@pytest.fixture
def vanishing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of files, one of which and one folder go as soon as they were listed."""
    for name in ("a", "b", "gone"):
        (tmp_path / name).write_bytes(b"123")
    (tmp_path / "folder/inner").mkdir(parents=True)
    (tmp_path / "folder/c").write_bytes(b"1234")
    scandir = os.scandir

    def once(path: str) -> Iterator[os.DirEntry[str]]:
        entries = list(scandir(path))
        (tmp_path / "gone").unlink(missing_ok=True)
        if (tmp_path / "folder/inner").exists():
            (tmp_path / "folder/inner").rmdir()
        return iter(entries)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", once)
        yield tmp_path


def test_file_that_goes_meanwhile_is_not_counted(vanishing: Path) -> None:
    assert leftovers.size(str(vanishing)) == 10


def test_history_and_secret_that_go_meanwhile_have_no_size(tmp_path: Path) -> None:
    assert secret_files.size(tmp_path / "gone") == 0


def test_only_what_was_pulled_by_us_and_has_lost_its_tag_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {
        "now": (["v@sha256:2"], ["v:latest"]),
        "before": (["v@sha256:1"], ["<none>:<none>"]),
        "with a tag": (["v@sha256:4"], ["v:mine"]),
        "pulled by hand": (["v@sha256:3"], []),
        "imported": ([], []),
        "of the parent": (["v@sha256:0"], []),
    }
    rows = [{"Id": name, "RepoDigests": digests, "RepoTags": tags} for name, (digests, tags) in images.items()]
    monkeypatch.setattr(leftovers, "docker_usage", lambda: {"Images": rows})
    noted, note = tmp_path / "pulled", {"images": ["of the parent"]}
    assert leftovers._replaced("v@sha256:2", note, noted) == []
    noted.write_text("v@sha256:0\nv@sha256:1\nv@sha256:2\nv@sha256:4\nv:mine\n")  # a note may say anything
    assert leftovers._replaced("v@sha256:2", note, noted) == ["before"]


def test_what_is_mounted_or_linked_in_a_folder_of_ours_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, read = ("old-card", "linked-card", "mounted-card", "kept-card"), machine.text_of
    for name in names:
        (tmp_path / name / "share").mkdir(parents=True)
        (tmp_path / name / "mark").touch()
    (tmp_path / "linked-card").rename(tmp_path / "owner")
    (tmp_path / "linked-card").symlink_to(tmp_path / "owner")
    (tmp_path / "xet").symlink_to(tmp_path / "owner")
    mounts = f"proc /proc proc rw 0 0\nnas:/x {tmp_path}/mounted-card/share nfs rw 0 0\n"
    monkeypatch.setattr(leftovers, "text_of", lambda path: mounts if "/proc" in str(path) else read(path))
    for name in ("note", "_replaced", "_forget_environments", "_forget_logs"):
        monkeypatch.setattr(leftovers, name, lambda *_: {})
    words = {"image": "", "pulled": "", "keep": "kept-card", "mark": "mark", "known": []}
    found = leftovers.clean(caches=str(tmp_path), model=str(tmp_path), **words)  # type: ignore[arg-type]
    assert found["freed"] == {str(tmp_path / "old-card"): 0}
    left = ["kept-card", "linked-card", "mounted-card", "owner", "xet"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    assert (tmp_path / "owner/share").is_dir()


@pytest.mark.parametrize("search", ["", "return 2"])
def test_caches_that_could_not_be_searched_are_not_kept_as_clean(tmp_path: Path, search: str) -> None:
    (tmp_path / "vllm").mkdir()
    words = ["sh", "-c", f"{'grep() { ' + search + '; }; ' if search else ''}{caches.KEEP}", "sh", str(tmp_path)]
    done = subprocess.run(words, input=b"secret\n", capture_output=True, check=False, timeout=60)
    assert (done.returncode, (tmp_path / caches.COMPLETE).exists()) == ((1, False) if search else (0, True))
    assert (tmp_path / "vllm").exists()


@pytest.mark.parametrize("secrets", [b"secret\nother\n", b""])
def test_only_caches_with_a_secret_go(tmp_path: Path, secrets: bytes) -> None:
    for name, text in (("vllm", "key: a-secret-of-it"), ("bytecode", "compiled")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(text)
    words = ["sh", "-c", caches.KEEP, "sh", str(tmp_path)]
    done = subprocess.run(words, input=secrets, capture_output=True, check=True, timeout=60)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert (done.stdout, left) == (
        (b"vllm\n", ["bytecode", "complete"]) if secrets else (b"", ["bytecode", "complete", "vllm"])
    )


@pytest.mark.parametrize(
    ("most", "containers", "state", "left"),
    [
        (1000, [], "inactive", b"a \0\0\0\0\0\0\0 b \0\0\0\0\0\0\0"),
        (1000, [], "active", b"a KEY=abc b KEY=abc"),
        (1000, ["one"], "inactive", b"a KEY=abc b KEY=abc"),
        (10, [], "inactive", b"a KEY=abc b KEY=abc"),
    ],
    ids=["idle", "containerd runs", "a container is there", "too large"],
)
def test_environment_is_overwritten_only_where_that_is_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, most: int, containers: list[str], state: str, left: bytes
) -> None:
    database = tmp_path / "meta.db"
    database.write_bytes(b"a KEY=abc b KEY=abc")
    monkeypatch.setattr(leftovers, "CONTAINERD", database)
    monkeypatch.setattr(leftovers, "MOST_OF_CONTAINERD", most)
    monkeypatch.setattr(leftovers, "docker_usage", lambda: {"Containers": containers})
    monkeypatch.setattr(leftovers, "run", lambda *argv: f"{state}\n" if "show" in argv else "")
    leftovers._forget_environments([b"KEY=abc"])
    assert database.read_bytes() == left


def test_random_key_of_an_earlier_run_is_overwritten_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was interrupted leaves it; the next one has another, and could not seal."""
    (key,) = (each for each in _environment("") if each.startswith("VLLM_API_KEY="))
    database = tmp_path / "meta.db"
    database.write_bytes(f"a {key} VLLM_API_KEY=sk-of-somebody b".encode())
    monkeypatch.setattr(leftovers, "CONTAINERD", database)
    monkeypatch.setattr(leftovers, "docker_usage", lambda: {"Containers": []})
    monkeypatch.setattr(leftovers, "run", lambda *argv: "inactive\n" if "show" in argv else "")
    leftovers._forget_environments([])
    assert database.read_bytes() == b"a " + bytes(len(key)) + b" VLLM_API_KEY=sk-of-somebody b"


# As Docker 29.1.3 of Ubuntu 24.04 answered /v1.44/system/df, before and after the first pull.
@pytest.mark.parametrize(
    ("said", "layers"),
    [
        ({"Images": [], "Containers": [], "Volumes": [], "BuildCache": []}, 0),
        ({"Images": None}, 0),
        ({"LayersSize": 7, "Images": [{"Id": "sha256:1", "Size": 7}]}, 7),
        ({"Images": [{"Id": "sha256:1", "Size": 7}]}, None),  # not known, so not nothing
    ],
)
def test_docker_without_images_leaves_their_size_out(
    said: dict[str, Any], layers: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"/version": {"ApiVersion": "1.52"}, "/v1.44/system/df": said}
    monkeypatch.setattr(docker_usage, "ask_docker", answers.__getitem__)
    assert docker_usage.docker_usage().get("LayersSize") == layers


class Holding:
    """A container whose Docker has a container, in which secrets lie: containerd's record, a volume, a file."""

    ctid = 920

    def __init__(self, *containers: str) -> None:
        self.containers = list(containers)

    def ask_json(self, form: dict[str, Any], *argv: str, **more: object) -> dict[str, Any]:
        paths = (str(CONTAINERD), "/var/lib/docker/volumes/a/token", "/root/token")
        found = {"secrets": [{"path": path, "what": "the value of KEY", "bytes": 9} for path in paths]}
        looked = {"files": 9, "bytes": 9, "unread": []}
        empty: dict[str, Any] = {name: [] for name in ("docker", "logs", "rest", "added", "histories")}
        sizes: dict[str, Any] = {"sizes": {}, "caches": {}, "grown": 0, "layers": 0, "unknown": 0}
        return {**empty, **sizes, **found, "looked": looked, "containers": self.containers}


@pytest.mark.parametrize("containers", [(), ("left (image, created)",)], ids=["none", "one"])
def test_no_command_removes_a_file_of_dockers(containers: tuple[str, ...]) -> None:
    cleaned = {"at": 0.0, "freed": {}}
    settings = cast(Settings, SimpleNamespace(warm_caches="", keep_model="", test_model="org/model"))
    found = find_leftovers(cast(Container, Holding(*containers)), "image", settings, {}, cleaned)
    fixes = {each.partition(":")[0]: each.partition("remove it: ")[2] for each in found.secrets}
    look = "pct exec 920 -- docker system df --verbose"
    wanted = {"/var/lib/docker/volumes/a/token": look, "/root/token": "pct exec 920 -- rm /root/token"}
    assert fixes == wanted | ({} if containers else {str(CONTAINERD): look})
    assert found.unsearched.startswith(str(CONTAINERD)) == bool(containers)
