"""Which checks of preflight run on a template that was sealed, but not accepted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.run import mode
from fixtures.run.ledger import Ledger
from fixtures.run.stages import Check
from fixtures.session import gating
from fixtures.template.template import Situation

STAGES = [Check(stage, f"test_{stage}") for stage in ("preflight", "seal", "sealed")]


@pytest.mark.parametrize(
    ("stage", "marked", "needless"),
    [("preflight", False, True), ("preflight", True, False), ("seal", False, True), ("sealed", False, False)],
)
def test_what_a_dead_run_has_left_is_looked_for_before_a_seal_is_resumed(
    stage: str, marked: bool, needless: bool
) -> None:
    """Its lock on 920 was found only when 920 did not start, as one failure among five."""
    build: Any = SimpleNamespace(
        mode=mode.BUILD,
        situation=Situation.SEALED,
        template=SimpleNamespace(ctid=920, snapshot_name="x"),
        ledger=Ledger(STAGES),
    )
    item: Any = SimpleNamespace(get_closest_marker=lambda name: object() if marked and name == "on_existing" else None)
    assert bool(gating._needless(build, item, stage)) is needless
