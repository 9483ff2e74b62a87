"""Throw-away clones: a place that nobody has, and a label by which only our own are removed."""

import contextlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.declaration import load
from fixtures.machines.node import Snapshot
from fixtures.templates import identity, throw_away
from fixtures.templates.clone import CloneError

TEMPLATE = load(Path(__file__).parent.parent / "phoenix_lxc_configs.json")[920]
LABEL = "phoenix-920: throw-away container {} cloned from 920@vllm-base-snapshot"


class Node:
    """A node with some containers; it notes what is done to them."""

    def __init__(self, containers: dict[int, dict[str, Any]], answering: tuple[str, ...] = ()) -> None:
        self.rows, self.answering = containers, answering
        self.done: list[tuple[str, ...]] = []

    def containers(self) -> dict[int, dict[str, Any]]:
        return self.rows

    guests = containers

    def config(self, ctid: int) -> dict[str, Any]:
        return self.rows[ctid]

    def snapshots(self, ctid: int) -> dict[str, Snapshot]:
        texts = self.rows[ctid].get("snapshots", {})
        return {name: Snapshot(name, text, 0, "") for name, text in texts.items()}

    def running(self, ctid: int) -> bool:
        return bool(self.rows[ctid].get("running"))

    def run(self, *argv: str) -> SimpleNamespace:
        return SimpleNamespace(succeeded=argv[-1] in self.answering)

    def pct(self, *argv: str, deadline: float = 0) -> None:
        self.done.append(argv)


def settings(**values: Any) -> Any:
    defaults = {"clone_ctids": (990, 991), "clone_addresses": ("10.0.0.240", "10.0.0.241"), "server_memory_mb": 0}
    return SimpleNamespace(**{**defaults, "shutdown_deadline": 1, "clone_deadline": 1, **values})


def choose(node: Node, **values: Any) -> throw_away.ThrowAway:
    return throw_away.choose(node, TEMPLATE, settings(**values))  # type: ignore[arg-type]


def test_place_is_free() -> None:
    clone = choose(Node({990: {"net0": "ip=10.0.0.9/24"}}, answering=("10.0.0.240",)), server_memory_mb=8192)
    assert (clone.ctid, clone.declared.network.ip) == (991, "10.0.0.241/24")
    assert "hwaddr" not in clone.declared.net0
    assert clone.declared.memory_mb == 8192
    assert clone.declared.name != TEMPLATE.name
    assert clone.declared.storage_size_gb == TEMPLATE.storage_size_gb


@pytest.mark.parametrize(
    ("node", "values", "said"),
    [
        (Node({990: {}, 991: {}}), {}, "990 to 991; set clone_ctids"),
        (Node({1: {"net0": "ip=10.0.0.240/24"}}, ("10.0.0.241",)), {}, "are taken: 10.0.0.240 to"),
        (Node({}), {"clone_addresses": ("10.1.0.1",)}, "no address of 10.1.0.1 to 10.1.0.1 is in 10.0.0.0/24"),
    ],
)
def test_no_place_is_said(node: Node, values: dict[str, Any], said: str) -> None:
    with pytest.raises(CloneError, match=said):
        choose(node, **values)


def test_only_what_is_ours_is_removed() -> None:
    """Neither a container of another, nor a clone of ours that somebody made, nor one outside the range."""
    node = Node(
        {
            900: {"description": LABEL.format(900)},
            990: {"description": LABEL.format(990) + "%0A", "running": True},
            991: {"description": LABEL.format(990)},
        }
    )
    assert throw_away.remove_left(node, settings()) == [990]  # type: ignore[arg-type]
    assert node.done == [("stop", "990"), ("destroy", "990")]


def test_locked_one_is_left_and_said() -> None:
    node = Node({990: {"description": LABEL.format(990), "lock": "create"}})
    with pytest.raises(CloneError, match=r"locked \(create\).*pct unlock 990"):
        throw_away.remove_left(node, settings())  # type: ignore[arg-type]
    assert node.done == []


# --- identity -----------------------------------------------------------------------------------------


def test_what_is_shared_is_named() -> None:
    one = {"machine id": "a", "host name": "x", "MAC": "1"}
    assert identity.shared(one, {"machine id": "a", "host name": "y"}) == ["machine id: a"]
    assert identity.shared({}, one) == []


def test_what_is_missing_is_named() -> None:
    whole = {"machine id": "a", "Docker's engine id": "b", "/etc/ssh/ssh_host_rsa_key.pub": "c"}
    assert identity.missing(whole, ssh=True) == []
    assert identity.missing({"machine id": "a"}, ssh=True) == ["Docker's engine id", "ssh host keys"]
    assert identity.missing({"machine id": "a", "Docker's engine id": "b"}, ssh=False) == []


@pytest.mark.parametrize(("text", "destroyed"), [("phoenix-920: sealed x", True), ("mine, by hand", False)])
def test_container_with_a_snapshot_of_somebody_else_is_not_destroyed(text: str, destroyed: bool) -> None:
    node = Node({990: {"description": LABEL.format(990), "snapshots": {"one": text}}})
    clone = throw_away.ThrowAway(node, replace(TEMPLATE, ctid=990), TEMPLATE, settings())  # type: ignore[arg-type]
    with contextlib.nullcontext() if destroyed else pytest.raises(CloneError, match=r"not made.*: one; if they can go"):
        clone.remove()
    assert bool(node.done) is destroyed
