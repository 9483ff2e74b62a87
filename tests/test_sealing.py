"""A snapshot whose run died before it was accepted: the record that belongs to it is taken up."""

import json
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fixtures.remote import container_probe
from fixtures.session import verification
from fixtures.template import manifest, record_store
from fixtures.template.comparison import SnapshotFacts

CONTENT: dict[str, Any] = {
    "schema": manifest.SCHEMA,
    "template": {"config": {}, "packages": {"sha256": container_probe.digest({})}},
    "around": {},
    "packages": {},
    "caches": [],
}
DIGEST = manifest.digest(cast(Any, CONTENT))
NOW = SnapshotFacts("vllm-base-snapshot", 200, "phoenix-920: sealed", {"type": "btrfs", "uuid": "new"})
BEFORE = SnapshotFacts("vllm-base-snapshot", 100, "phoenix-920: sealed", {"type": "btrfs", "uuid": "old"})
MARKED = SnapshotFacts("vllm-base-snapshot", 200, "phoenix-920: sealed, accepted", {"type": "btrfs", "uuid": "new"})


def text(facts: SnapshotFacts) -> str:
    return json.dumps(asdict(facts))


@pytest.mark.parametrize(
    ("kept", "anew"),
    [("", True), (text(BEFORE), True), (text(NOW), False), (text(MARKED), False), ("half", True), ("[]", True)],
)
def test_record_of_another_snapshot_is_replaced(monkeypatch: pytest.MonkeyPatch, kept: str, anew: bool) -> None:
    """An earlier snapshot of the same contents has the same manifest, and so its record the same place."""
    written: list[dict[str, str]] = []
    carried = {"manifest.json": manifest.to_json(cast(Any, CONTENT)), "record.json": "{}"}
    files = {"snapshot.json": kept} if kept else {}
    monkeypatch.setattr(record_store, "read_inside", lambda _, name: carried[name])
    monkeypatch.setattr(record_store, "read", lambda *_: files)
    monkeypatch.setattr(record_store, "keep", lambda _, digest, files: written.append(files))
    monkeypatch.setattr(verification, "snapshot_facts", lambda _: NOW)
    build = SimpleNamespace(
        template=SimpleNamespace(container=None, sealed_generation=lambda: None),
        node=None,
        record_text=lambda **_: "{}",
    )
    verification.resume(cast(Any, build), DIGEST)
    assert bool(written) is anew
    assert cast(Any, build).snapshot_facts == NOW


@pytest.mark.parametrize("content", ["", "half", "{}", "[]", manifest.to_json(cast(Any, CONTENT))])
def test_manifest_that_is_not_the_snapshots_is_left_to_the_comparison(
    monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setattr(record_store, "read_inside", lambda *_: content)
    build = SimpleNamespace(template=SimpleNamespace(container=None, sealed_generation=lambda: None), node=None)
    verification.resume(cast(Any, build), "another")
    assert not cast(Any, build).manifest
