"""Throw-away clones: a place that nobody has, and an identity of their own."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fixtures.base.declaration import load
from fixtures.base.errors import BuildError
from fixtures.template import ephemeral_clone, identity

TEMPLATE = load(Path(__file__).parent.parent / "phoenix_lxc_configs.json")[920]


class Node:
    """A node with some containers."""

    def __init__(self, containers: dict[int, dict[str, Any]], answering: tuple[str, ...] = ()) -> None:
        self.rows, self.answering = containers, answering

    def containers(self) -> dict[int, dict[str, Any]]:
        return self.rows

    guests = containers

    def config(self, ctid: int) -> dict[str, Any]:
        return self.rows[ctid]

    def ask(self, *argv: str) -> str:
        return str(self.run(*argv).out)

    def run(self, *argv: str, only_reads: bool = False) -> SimpleNamespace:
        done = argv[0] == "zfs" or argv[-1] in self.answering
        return SimpleNamespace(succeeded=done, exit_status=int(not done), out="rpool/data")

    def storage(self, name: str) -> dict[str, str]:
        return {"type": "zfspool", "pool": "rpool/data"}


def settings(**values: Any) -> Any:
    defaults = {"clone_ctids": (990, 991), "clone_addresses": ("10.0.0.240", "10.0.0.241"), "server_memory_mb": 0}
    return SimpleNamespace(**{**defaults, "shutdown_deadline": 1, "clone_deadline": 1, **values})


def choose(node: Node, **values: Any) -> ephemeral_clone.EphemeralClone:
    return ephemeral_clone.choose(node, TEMPLATE, settings(**values))  # type: ignore[arg-type]


def test_place_is_free() -> None:
    clone = choose(Node({990: {"net0": "name=eth0,ip=10.0.0.9/24"}}, answering=("10.0.0.240",)), server_memory_mb=8192)
    assert (clone.ctid, clone.declared.network.ip) == (991, "10.0.0.241/24")
    assert "hwaddr" not in clone.declared.net0
    assert clone.declared.memory_mb == 8192
    assert clone.declared.name != TEMPLATE.name
    assert clone.declared.storage_size_gb == TEMPLATE.storage_size_gb
    assert clone.declared.boot == {}


def test_clone_stays_in_its_parents_vlan(monkeypatch: pytest.MonkeyPatch) -> None:
    """`pct set --net0` replaces the whole line; MAC and addresses are the parent's own."""
    nodes = Node({})
    clone = choose(nodes)
    has = "name=eth0,bridge=vmbr0,firewall=1,gw=10.0.0.1,hwaddr=BC:24:11:00:00:01,ip=10.0.0.203/24,ip6=fd00::3/64"
    nodes.rows[clone.ctid] = {"net0": f"{has},link_down=1,mtu=9000,tag=30,type=veth", "rootfs": "a:b,size=128G"}
    said: list[str] = []
    clone.changes = cast(Any, SimpleNamespace(configure=lambda _ctid, _claim, *words: said.extend(words)))
    monkeypatch.setattr(Node, "running", lambda *_: False, raising=False)
    clone._configure()
    assert said[said.index("--net0") + 1] == f"{clone.declared.net0},firewall=1,mtu=9000,tag=30"


def test_clone_of_a_template_that_starts_with_its_node_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.TEMPLATE", replace(TEMPLATE, onboot=True, startup="order=2"))
    assert choose(Node({})).declared.boot == {"onboot": "0"}


@pytest.mark.parametrize(
    ("node", "values", "said"),
    [
        (Node({990: {}, 991: {}}), {}, "990 to 991; set clone_ctids"),
        (Node({1: {"net0": "name=eth0,ip=10.0.0.240/24"}}, ("10.0.0.241",)), {}, "are taken: 10.0.0.240 to"),
        (Node({}), {"clone_addresses": ("10.1.0.1",)}, "no address of 10.1.0.1 to 10.1.0.1 is in 10.0.0.0/24"),
    ],
)
def test_no_place_is_said(node: Node, values: dict[str, Any], said: str) -> None:
    with pytest.raises(BuildError, match=said):
        choose(node, **values)


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


@pytest.mark.parametrize(
    ("asked", "arping", "taken", "warned"),
    [(0, 9, True, False), (1, 9, False, False), (2, 1, True, False), (2, 0, False, False), (2, 9, False, True)],
)
def test_bridge_without_an_address_in_the_network_does_not_mean_that_nobody_answers(
    monkeypatch: pytest.MonkeyPatch, asked: int, arping: int, taken: bool, warned: bool
) -> None:
    """The node has no neighbours to ask for there: arping asks, and without one it is not known."""
    said: list[str] = []
    monkeypatch.setattr(ephemeral_clone, "warn", said.append)

    def run(*argv: str) -> SimpleNamespace:
        if argv[2] == ephemeral_clone.KNOCK:
            return SimpleNamespace(exit_status=asked, out="")
        return SimpleNamespace(
            exit_status=arping,
            out="Unicast reply from 10.0.0.9 [AA:BB:CC:00:11:22]\n" * taken + f"Received {int(taken)} response(s)",
        )

    node: Any = SimpleNamespace(run=run, name="pve")
    assert ephemeral_clone.answers(node, "vmbr1", "10.0.0.9") is taken
    assert bool(said) is warned
    assert all("unknown whether another machine uses 10.0.0.9" in each for each in said)
