"""Accepted: what was sealed has been checked again; from now on the snapshot counts as done."""

import pytest

from fixtures.build import Build
from fixtures.recording import caveats
from fixtures.templates.template import Template
from fixtures.warning import warn

pytestmark = [pytest.mark.stage("accepted"), pytest.mark.order(90)]


def test_snapshot_is_accepted(build: Build, template: Template) -> None:
    """Every check passed; the snapshot is marked as accepted."""
    unproved = build.ledger.unproved(before="accepted", since=build.first_stage)
    assert not unproved, f"not accepted: {', '.join(unproved)} did not run or did not pass"
    if build.no_clone:
        warn("no clone was tried: nobody knows whether a clone of this template serves")
    assert build.generation, "not accepted: this run has neither sealed it nor read who did"
    template.accept(build.generation, caveats.for_description(build, said=build.generation.description))
    assert template.is_accepted(build.generation), (
        f"{template.ctid}@{template.snapshot_name} is not the accepted one: another one was put there meanwhile"
    )
