"""What is looked through for leftovers and secrets may change meanwhile: that ends nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.remote import leftovers, secret_files


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
    assert secret_files.entry(tmp_path / "gone", "a secret")["bytes"] == 0
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
    noted.write_text("v@sha256:0\nv@sha256:1\nv@sha256:2\nv@sha256:4\n")
    assert leftovers._replaced("v@sha256:2", note, noted) == ["before"]
