"""Seal: if no check stands in the way, the suite shuts the template down, takes two snapshots and starts it again.

That happens in the teardown of the fixture `seal`, after the check below; its steps are rows of the report.
"""

import pytest

from fixtures.base.message import unexpected
from fixtures.run.build import Build

pytestmark = [pytest.mark.stage("seal"), pytest.mark.order(60)]


@pytest.mark.usefixtures("seal")
def test_everything_passed(build: Build) -> None:
    """Every check before sealing ran, and none failed; the template may be sealed."""
    unproved = build.ledger.unproved(before="seal")
    sentences = build.ledger.in_words(unproved)
    assert not unproved, unexpected(
        f"not sealed: {len(unproved)} checks did not run or did not pass: {sentences}",
        "that every check has passed",
        cause="a part of the suite was left out, or a failure is waived without `seals = true`",
        run=build.again(),
    )
