"""A container that was there before a run accepts it is its owner's: it is looked at, and no verb is used on it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.base.errors import BuildError, Inconclusive
from fixtures.proxmox import docker
from fixtures.run.clone_acceptance import CloneAcceptance


class Clone:
    """A declared container; whatever would change it fails the test."""

    ctid = 951
    declared = SimpleNamespace(name="mine", network=SimpleNamespace(address="10.0.0.151"), storage_pool="pool")

    def __init__(self, *there: bool) -> None:
        self._there = list(there)
        self.container = SimpleNamespace(wait_until_booted=lambda _: "running")

    @property
    def exists(self) -> bool:
        return self._there.pop(0) if len(self._there) > 1 else self._there[0]

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was used on a container that was there before")


def trial_of(clone: Clone, *, on: bool, keep: bool = False) -> CloneAcceptance:
    node = SimpleNamespace(running=lambda _: on)
    build: Any = SimpleNamespace(accept=951, keep=keep, node=node, settings=SimpleNamespace(boot_deadline=1), clone={})
    trial = CloneAcceptance(build)
    trial.__dict__["clone"] = clone
    return trial


@pytest.mark.parametrize("keep", [False, True])
def test_container_that_runs_is_only_asked(monkeypatch: pytest.MonkeyPatch, keep: bool) -> None:
    cleaned: list[object] = []
    monkeypatch.setattr(docker, "remove_own", cleaned.append)
    clone = Clone(True)
    trial = trial_of(clone, on=True, keep=keep)
    trial.make()
    assert trial.start() == "running"
    trial.end()
    assert cleaned == [clone.container]
    assert trial.build.clone["was_there_before"]
    assert trial.build.clone["kept"]


def test_container_that_is_off_is_not_started() -> None:
    trial = trial_of(Clone(True), on=False)
    trial.make()
    with pytest.raises(
        Inconclusive, match="container 951 is off, and not started because it existed before: pct start 951"
    ):
        trial.start()
    trial.end()


def test_container_that_came_meanwhile_is_not_taken_for_ours() -> None:
    trial = trial_of(Clone(False, True), on=True)
    assert not trial.was_there
    with pytest.raises(BuildError, match="appeared in the meantime"):
        trial.make()
    trial.end()
