"""Family: each container that descends from a template of this node. Not part of a build; changes nothing."""

import pytest

from fixtures.base.errors import Inconclusive, unexpected
from fixtures.base.warning import warn
from fixtures.run.build import Build
from fixtures.template.descendant import Descendant
from fixtures.template.family import Family

pytestmark = [pytest.mark.stage("family"), pytest.mark.order(95)]


def test_family_is_known(family: Family, build: Build) -> None:
    """The node says which containers descend from its templates."""
    for note in family.notes:
        warn(note)
    assert not family.unknown, unexpected(
        "; ".join(family.unknown),
        "the configuration of every container and the journal of generations",
        cause="the node does not answer, or a file in /var/lib/phoenix-920 was changed",
        run=build.again("--family"),
    )


def test_descendant_is_sound(descendant: Descendant) -> None:
    """It fits the node's driver, has its GPUs, and is what was sealed."""
    for note in descendant.notes:
        warn(f"{descendant}: {note}")
    if descendant.problems:
        first, *more = sorted(descendant.problems, key=lambda each: each.rank)
        seen = "; ".join(each.seen for each in (first, *more))
        raise AssertionError(unexpected(seen, first.expected, cause=first.fix, run=first.run))
    if descendant.unknown:
        raise Inconclusive("; ".join(descendant.unknown))
