"""Accepted: what was sealed has been checked again; from now on the snapshot counts as done."""

import pytest

from fixtures.build import Build
from fixtures.template import Situation, Template

pytestmark = [pytest.mark.stage("accepted"), pytest.mark.order(90)]


def test_snapshot_is_accepted(build: Build, template: Template) -> None:
    """Every check has passed; the snapshot is marked as accepted."""
    unproved = build.ledger.unproved(before="accepted", since=build.first_stage)
    assert not unproved, f"not accepted: {', '.join(unproved)} did not run or did not pass"
    template.accept()
    assert template.situation() is Situation.ACCEPTED
