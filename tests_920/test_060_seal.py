"""Seal: if no check prevents it, the suite shuts the template down, takes two snapshots and starts it again.

That happens in the teardown of the fixture `seal`, after the check below; each step is a row of the report.
"""

from collections.abc import Iterator

import pytest

from fixtures.base.errors import unexpected
from fixtures.run.build import Build
from fixtures.run.seal import Seal
from fixtures.run.stages import check_name

pytestmark = [pytest.mark.stage("seal"), pytest.mark.order(60)]


@pytest.fixture
def seal(build: Build, request: pytest.FixtureRequest) -> Iterator[None]:
    """Seals the template in its teardown, if every check before has passed, and the one below too."""
    yield
    own = build.ledger.outcomes.get(check_name(request.node.nodeid))
    if own != "passed" or build.ledger.unproved(before="seal"):
        return
    with Seal(build) as template:
        template.install_identity()
        template.write_record()
        template.shut_down()
        template.take_generation()
        template.take_snapshot()
        template.start()


@pytest.mark.usefixtures("seal")
def test_everything_passed(build: Build) -> None:
    """Every check before sealing ran, and none failed; the template may be sealed."""
    unproved = build.ledger.unproved(before="seal")
    assert not unproved, unexpected(
        f"not sealed, because of earlier checks: {build.ledger.in_words(unproved)}",
        "that every check passed",
        cause="only part of the suite ran, or a failure is waived without `seals = true`",
        run=build.again(),
    )
