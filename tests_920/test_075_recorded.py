"""Recorded: the template matches its record, and the record is stored where it can be found.

These checks are read-only, except that a run that resumes a killed one first stores its record. They end a build, are
all that a run on an existing template does, and are what `--verify` runs to report drift.
"""

import pytest

from fixtures.base.errors import unexpected
from fixtures.base.warning import warn
from fixtures.run.build import Build
from fixtures.template.comparison import Comparison
from fixtures.template.template import Situation, Template

pytestmark = [
    pytest.mark.stage("recorded"),
    pytest.mark.order(75),
    pytest.mark.on_existing,
    pytest.mark.needs_answer("test_record_is_kept"),
]


def drifted(build: Build, drift: str, cause: str = "changed since: undo it, or prove it again", run: str = "") -> str:
    """What has drifted, line by line."""
    first, *more = drift.splitlines()
    message = unexpected(first, "what the record says", cause=cause, run=run or build.again("--rebuild"))
    return "\n".join([message, *more])


def test_record_is_kept(comparison: Comparison, build: Build) -> None:
    """The node stores the record, unchanged, under the digest in the snapshot's description."""
    assert not (drift := comparison.lines("record")), drifted(build, drift)


def test_snapshot_is_the_recorded_one(comparison: Comparison, build: Build) -> None:
    """The snapshot is the sealed one, with its configuration, and is accepted."""
    assert not (drift := comparison.lines("snapshot")), drifted(build, drift)
    half_done = build.situation is Situation.SEALED and not build.resumes
    assert not half_done, unexpected(
        "it was sealed, but never accepted",
        "an accepted snapshot",
        cause="its run was interrupted; resume it",
        run=build.again(),
    )


def test_configuration_is_as_recorded(comparison: Comparison, build: Build) -> None:
    """The container's configuration is the one that was sealed."""
    assert not (drift := comparison.lines("configuration")), drifted(build, drift)


def test_container_carries_the_record(inner_comparison: Comparison, template: Template, build: Build) -> None:
    """The container, and so each clone, carries the sealed record."""
    assert not (drift := inner_comparison.lines("carried")), drifted(
        build,
        drift,
        "a rebuild that was interrupted while it sealed leaves its own there; to go back to what was sealed",
        f"pct rollback {template.ctid} {template.snapshot_name} --start 1",
    )


def test_image_is_as_recorded(inner_comparison: Comparison, build: Build) -> None:
    """The image is the one that was proved."""
    assert not (drift := inner_comparison.lines("image")), drifted(build, drift)


def test_model_is_as_recorded(inner_comparison: Comparison, build: Build) -> None:
    """The model's files are the ones that were served."""
    assert not (drift := inner_comparison.lines("model")), drifted(build, drift)


def test_packages_are_as_recorded(inner_comparison: Comparison, build: Build) -> None:
    """The installed packages are the ones that were sealed."""
    assert not (drift := inner_comparison.lines("packages")), drifted(build, drift)


def test_stack_is_as_recorded(inner_comparison: Comparison, build: Build) -> None:
    """Docker, its configuration, NVIDIA's toolkit and libraries are the ones that were sealed."""
    assert not (drift := inner_comparison.lines("files", "software")), drifted(build, drift)


def test_surroundings_are_compared(inner_comparison: Comparison) -> None:
    """Kernel, driver, Proxmox VE and GPUs are compared with the record; a difference is a warning."""
    for drift in inner_comparison.around:
        warn(f"not re-proved here: {drift}")
