"""Servers that start at the same time: only where memory is known to suffice, and none takes another with it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fixtures.base.interrupts import INTERRUPTS
from fixtures.proxmox.container import ContainerError
from fixtures.run import answers
from fixtures.serving.caches import CacheMounts
from fixtures.serving.client import ServerError
from fixtures.serving.served_model import ServedModel
from fixtures.serving.server import Server
from fixtures.serving.server_group import ServerGroup

IMAGE: Any = SimpleNamespace()
COMMAND = ["docker", "run", "vllm@sha256:0", "/m"]


@dataclass
class Some:
    """Some of the settings."""

    server_port: int
    warm_caches: str


class Node:
    """What the servers of a test do, in the order in which they do it."""

    def __init__(self, available: str = "8388608", held: tuple[int, ...] = ()) -> None:
        self.done: list[str] = []
        self.available, self.held = available, held

    def ask(self, *_: str, **__: object) -> str:
        if not self.available:
            raise ContainerError("no answer")
        return self.available

    def execute(self, *argv: str) -> None:
        self.done.append(" ".join(argv))


class FakeServer:
    """A server that gets ready, or fails as a test says."""

    def __init__(self, node: Node, name: str, fails: str = "", barrier: threading.Barrier | None = None) -> None:
        self.container, self.name, self.fails, self.barrier = node, name, fails, barrier
        self.record, self.warm, self.place = ServedModel("all", COMMAND, None, None, None), False, 0
        self.options: tuple[str, ...] = ()

    def join(self, first: FakeServer, place: int, *options: str) -> None:
        self.place, self.warm, self.options = place, first.warm, options

    def start(self, _image: object, ways: int) -> None:
        warm = " warm" * bool(self.place and self.warm)
        self.container.done.append(f"start {self.name} at {self.place}{warm}")
        if self.fails == "start":
            raise ServerError(f"{self.name} did not start")

    begin: Any = Server.begin

    def wait_until_ready(self) -> float:
        if self.barrier:
            self.barrier.wait(10)  # broken if the others are not waited for at the same time
        if self.fails == "ready":
            raise ServerError(f"{self.name} died")
        if self.fails == "late":
            time.sleep(0.3)
        self.container.done.append(f"{self.name} is ready")
        return 3.0

    def port_holder(self, place: int) -> str:
        return "port 8001 can't be used: sshd" if place in self.container.held else ""

    def leave(self) -> None:
        self.container.done.append(f"leave {self.name}")

    def stop(self, *others: FakeServer) -> None:
        self.container.done.append(f"stop {' '.join(each.name for each in (self, *others))}")


def group(*servers: FakeServer, took: float | None = 2000.0, memory_mb: int = 8192) -> ServerGroup:
    served = [ServedModel("all", COMMAND, 1.0, 2.0, 3.0, memory_mib=took)]
    fakes: Any = servers
    return ServerGroup(fakes, lambda: served, memory_mb)


def prove(one: ServerGroup, ways: int = 1) -> list[str]:
    """What a run does with each server in turn; why each was not ready."""
    failures = []
    for each in one.servers:
        try:
            one.get_ready(each, IMAGE, ways)
            failures.append("")
        except ServerError as error:
            failures.append(str(error))
        each.container.done.append(f"ask {each.name}")
        one.leave(each)
    one.stop()
    return failures


def test_servers_start_at_the_same_time_and_are_asked_when_all_are_ready() -> None:
    node, barrier = Node(), threading.Barrier(3)
    servers = [FakeServer(node, name, barrier=barrier) for name in "abc"]
    assert prove(group(*servers)) == ["", "", ""]
    assert node.done[:4] == ["start a at 0", "docker update --memory=2730m a", "start b at 1", "start c at 2"]
    assert [each.options for each in servers] == [(), ("--memory=2730m",), ("--memory=2730m",)]
    assert {*node.done[4:7]} == {"a is ready", "b is ready", "c is ready"}
    assert node.done[7:] == ["ask a", "leave a", "ask b", "leave b", "ask c", "leave c", "stop a b c"]
    assert [each.record.together for each in servers] == [3, 3, 3]
    assert [each.record.short_of for each in servers] == [""] * 3


ALONE = ["start a at 0", "a is ready", "ask a", "leave a", "stop a"]


@pytest.mark.parametrize(
    ("node", "more", "ways", "why"),
    [
        (Node(), {"took": None}, 1, "no server like it has run"),
        (
            Node(),
            {"memory_mb": 4096},
            1,
            "2200 MB of memory, and the container has 4096 MB free; -o server_memory_mb=4401",
        ),
        (Node("4194304"), {}, 1, "2200 MB of memory, and the container has 4096 MB free; -o server_memory_mb=8497"),
        (Node(""), {}, 1, "how much memory the container has free is not known"),
        (Node("much"), {}, 1, "how much memory the container has free is not known"),
        (Node(held=(1,)), {}, 1, "port 8001 can't be used: sshd"),
        (Node(), {}, 2, ""),
    ],
)
def test_where_memory_is_not_known_to_suffice_they_start_one_after_the_other(
    node: Node, more: dict[str, Any], ways: int, why: str
) -> None:
    node.done.clear()
    servers = [FakeServer(node, name) for name in "ab"]
    assert prove(group(*servers, **more), ways) == ["", ""]
    assert node.done == [
        *ALONE,
        *(each.replace("a a", "b a").replace("a is", "b is") for each in ["start b at 0"]),
        *(
            "b is ready",
            "ask b",
            "leave b",
            "stop b",
        ),
    ]
    assert bool(servers[0].record.short_of) == bool(why)
    assert why in servers[0].record.short_of
    assert not servers[1].record.short_of, "with the last one nothing is left to start"


def test_as_many_start_at_once_as_fit() -> None:
    node = Node()
    servers = [FakeServer(node, name) for name in "abcde"]
    assert prove(group(*servers, took=3000.0)) == [""] * 5
    assert [each for each in node.done if each.startswith("st")] == [
        *("start a at 0", "start b at 1", "stop a b"),
        *("start c at 0", "start d at 1", "stop c d"),
        *("start e at 0", "stop e"),
    ]
    assert [(each.record.together, "server_memory_mb=16501" in each.record.short_of) for each in servers[::2]] == [
        (2, True),
        (2, False),
        (1, False),
    ]


def test_memory_of_a_server_that_was_started_otherwise_says_nothing() -> None:
    node = Node()
    served = [ServedModel("all", ["docker", "run", "vllm@sha256:1", "/m"], 1.0, 2.0, 3.0, memory_mib=10.0)]
    servers: Any = [FakeServer(node, name) for name in "ab"]
    prove(ServerGroup(servers, lambda: served, 8192))
    assert "start b at 0" in node.done
    assert servers[0].record.short_of.startswith("no server like it has run")


@pytest.mark.parametrize("fails", ["start", "ready"])
@pytest.mark.parametrize("which", [0, 1])
def test_failure_of_one_is_told_by_its_own_check_alone(fails: str, which: int) -> None:
    node = Node()
    servers = [FakeServer(node, name, fails if place == which else "late") for place, name in enumerate("ab")]
    failures = prove(group(*servers))
    assert [bool(each) for each in failures] == [which == 0, which == 1]
    assert "ab"[which] in failures[which]
    asked = node.done.index("ask a")
    if (fails, which) != ("start", 0):  # then the other one starts in its own check
        assert "start b at 1" in node.done[:asked]
        assert ("b is ready" in node.done[:asked]) == (which == 0), "something is asked while another one loads"
    assert " ".join(each for each in node.done if each.startswith("stop")) in ("stop a b", "stop a stop b")


def test_caches_are_filled_by_one_server_alone() -> None:
    node = Node()
    servers = [FakeServer(node, name) for name in "ab"]
    prove(group(*servers))
    assert "start b at 1" in node.done
    node.done.clear()
    servers[0].warm = True
    prove(group(*servers))
    assert "start b at 1 warm" in node.done


@pytest.mark.parametrize("filled", [True, False])
def test_server_beside_another_shares_its_bytecode(filled: bool) -> None:
    """Of caches that are not filled yet only that, as two servers that write the others would spoil them."""
    first, second = Server.__new__(Server), Server.__new__(Server)
    words = ("--env", "PYTHONPYCACHEPREFIX=/b", "--volume", "/c/bytecode:/b")
    first._caches, first._sampler = CacheMounts("/c", [*words], words, complete=filled), cast(Any, None)
    second.name, second.options, second._settings = "server", (), cast(Any, Some(8000, "/c"))
    second.join(first, 1, "--memory=1m")
    assert (second.name, second.options) == ("server-1", ("--memory=1m", *(() if filled else words)))
    assert second._settings.warm_caches == ("/c" if filled else "")


def test_interrupt_while_they_start_stops_all(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node()
    one = group(*(FakeServer(node, name, "late") for name in "ab"))
    monkeypatch.setattr(INTERRUPTS, "_count", 1)
    with pytest.raises(KeyboardInterrupt):
        one.get_ready(one.servers[0], IMAGE, 1)
    one.stop()
    assert node.done[-1] == "stop a b"
    time.sleep(0.4)  # the threads end by themselves


@pytest.mark.parametrize(
    ("now", "known"), [(["H200"] * 2, True), (["H200"], True), (["H100"] * 2, False), (["H200", "H100"], False)]
)
def test_memory_is_known_from_a_snapshot_with_cards_of_the_same_model(
    monkeypatch: pytest.MonkeyPatch, now: list[str], known: bool
) -> None:
    """However many there were: one server ran on one of them."""
    served = {"gpus": "all", "command": [], "healthy": 1.0, "listed": 1.0, "answered": 1.0, "memory_mib": 2000.0}
    document = {"gpus": [{"name": "H200"}], "served": [served]}
    monkeypatch.setattr(answers, "sealed_record", lambda _: document)
    build: Any = SimpleNamespace(served=[], gpus=[SimpleNamespace(name=name) for name in now])
    assert [one.memory_mib for one in answers.earlier(build)] == [2000.0] * known
