"""Accepted: the sealed snapshot was checked again and now counts as done."""

import pytest

from fixtures.base.errors import unexpected
from fixtures.base.warning import warn
from fixtures.run import caveats
from fixtures.run.build import Build
from fixtures.template.template import Template

pytestmark = [pytest.mark.stage("accepted"), pytest.mark.order(90)]


def test_snapshot_is_accepted(build: Build, template: Template) -> None:
    """Every check passed; the snapshot is marked as accepted."""
    unproved = build.ledger.unproved(before="accepted", since=build.first_stage)
    show = f"pct listsnapshot {template.ctid}"
    assert not unproved, unexpected(
        f"not accepted, because of earlier checks: {build.ledger.in_words(unproved)}",
        "that every check passed",
        cause="only part of the suite ran",
        run=build.again(),
    )
    if build.no_clone:
        warn("no clone was tried, so it is unknown whether a clone of this template can serve")
    assert build.generation, unexpected(
        "not accepted: this run neither sealed it nor read which run did", "the generation that was sealed", run=show
    )
    said = build.generation.description if build.generation.invocation == build.invocation else ""  # of this run
    template.accept(build.generation, caveats.for_description(build, said=said))
    assert template.is_accepted(build.generation), unexpected(
        f"{template.ctid}@{template.snapshot_name} is not the accepted one",
        "the one that was sealed",
        cause="it was replaced in the meantime",
        run=show,
    )
