"""A snapshot whose run died before it was accepted: the record that belongs to it is taken up."""

import json
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fixtures.recording import records
from fixtures.recording.record import SnapshotFacts
from fixtures.templates import inside, manifest, sealing

CONTENT: dict[str, Any] = {
    "schema": manifest.SCHEMA,
    "template": {"config": {}, "packages": {"sha256": inside.digest({})}},
    "around": {},
    "packages": {},
    "caches": [],
}
DIGEST = manifest.digest(cast(Any, CONTENT))
NOW = SnapshotFacts("vllm-base-snapshot", 200, "phoenix-920: sealed", {"type": "btrfs", "uuid": "new"})
BEFORE = SnapshotFacts("vllm-base-snapshot", 100, "phoenix-920: sealed", {"type": "btrfs", "uuid": "old"})
MARKED = SnapshotFacts("vllm-base-snapshot", 200, "phoenix-920: sealed, accepted", {"type": "btrfs", "uuid": "new"})


@pytest.mark.parametrize(("kept", "anew"), [(None, True), (BEFORE, True), (NOW, False), (MARKED, False)])
def test_record_of_another_snapshot_is_replaced(
    monkeypatch: pytest.MonkeyPatch, kept: SnapshotFacts | None, anew: bool
) -> None:
    """An earlier snapshot of the same contents has the same manifest, and so its record the same place."""
    written: list[dict[str, str]] = []
    carried = {"manifest.json": manifest.to_json(cast(Any, CONTENT)), "record.json": "{}"}
    files = {"snapshot.json": json.dumps(asdict(kept))} if kept else {}
    monkeypatch.setattr(records, "read_inside", lambda _, name: carried[name])
    monkeypatch.setattr(records, "read", lambda *_: files)
    monkeypatch.setattr(records, "keep", lambda _, digest, files: written.append(files))
    monkeypatch.setattr(sealing, "snapshot_facts", lambda _: NOW)
    build = SimpleNamespace(template=SimpleNamespace(container=None), node=None, record_text=lambda: "{}")
    sealing.resume(cast(Any, build), DIGEST)
    assert bool(written) is anew
    assert cast(Any, build).snapshot_facts == NOW
