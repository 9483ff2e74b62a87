"""A guest: a test server runs beside what the owner of a container runs only where room for it is known to be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fixtures.base.declaration import load
from fixtures.gpu import gpus
from fixtures.gpu.gpu import Gpu
from fixtures.proxmox import docker
from fixtures.proxmox.container import ContainerError
from fixtures.template import guest
from fixtures.template.clone import Clone

DECLARED = load(Path(__file__).parent.parent / "phoenix_lxc_configs.json")[950]
NET = f"name=eth0,bridge=vmbr0,ip={DECLARED.network.ip},gw={DECLARED.network.gw},tag=30,firewall=1"


def memory(free: int, total: int) -> Gpu:
    return Gpu(0, "GPU-0", "a card", "580", total, "9.0", values={"memory.free": str(free)})


EMPTY = memory(80_000, 81_920)
OWN = {"Names": "mine", "State": "running", "Ports": "0.0.0.0:8000->8000/tcp, [::]:8000->8000/tcp"}


class Container:
    """Answers as Docker and ss in a container do."""

    def __init__(
        self, bound: str = '{"8000/tcp":[{"HostIp":"","HostPort":"8000"}]}', taken: tuple[int, ...] = ()
    ) -> None:
        self.bound, self.taken = bound, taken

    def ask(self, *argv: str, **_: object) -> str:
        if argv[2] == guest.BOUND:
            return self.bound
        return "yes" if "models--here" in argv else ""

    def listeners(self, port: int) -> str:
        return "LISTEN" if port in self.taken else ""


def look(monkeypatch: pytest.MonkeyPatch, room: Any = EMPTY, **facts: Any) -> guest.Host:
    def asked(*_: object) -> Gpu:
        if isinstance(room, Exception):
            raise room
        return room  # type: ignore[no-any-return]

    monkeypatch.setattr(gpus, "state", asked)
    monkeypatch.setattr(docker, "others", lambda _: facts.get("rows", []))
    monkeypatch.setattr(guest, "_answering", lambda *_: iter(["http://10.0.0.150:8000 (mine)"]))
    config = {"net0": facts.get("net0", NET)}
    clone: Any = SimpleNamespace(
        ctid=950,
        declared=DECLARED,
        container=facts.get("container", Container()),
        node=SimpleNamespace(config=lambda _: config),
    )
    settings: Any = SimpleNamespace(
        **{"server_port": 8000, "gpu_share": 0.9, "command_deadline": 1, "keep_model": "/hub", "warm_caches": "/c"},
        **{"server_env": (), "test_model": facts.get("model", "here")},
    )
    monkeypatch.setattr(guest, "replace", lambda one, **more: SimpleNamespace(**{**vars(one), **more}))
    return guest.look(clone, settings)


def test_guest_has_a_port_and_caches_of_its_own_and_downloads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    place = look(monkeypatch, rows=[OWN])
    assert place.obstacles == []
    assert (place.settings.server_port, place.settings.warm_caches) == (8001, "")
    assert "HF_HUB_OFFLINE=1" in place.settings.server_env


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (
            {"room": memory(3 * 1024, 80 * 1024)},
            "GPU-0) has 3.0 of 80.0 GiB of memory free, but 72.0",
        ),
        ({"room": ValueError("[N/A]")}, "the free memory of GPU 0 of the container is unknown"),
        ({"room": ContainerError("no nvidia-smi")}, "the free memory of GPU 1 of the container is unknown"),
        ({"rows": [{**OWN, "State": "restarting"}]}, "its container mine is restarting"),
        ({"container": Container(taken=tuple(range(8001, 8020)))}, "no port from 8000 upwards is known to be free"),
        ({"container": Container(bound="not JSON")}, "no port from 8000 upwards is known to be free"),
        ({"net0": "name=eth0,ip=dhcp"}, "its address is dhcp, not the declared one"),
        ({"model": "a/b"}, "a/b is not in /hub, and nothing is downloaded"),
    ],
)
def test_what_is_taken_or_not_known_is_not_free(
    monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], said: str
) -> None:
    place = look(monkeypatch, **facts)
    assert said in place.reason
    assert ("its own server answers at http://10.0.0.150:8000 (mine)" in place.reason) is ("net0" not in facts)


@pytest.mark.parametrize(
    ("ports", "found"),
    [
        (OWN["Ports"], {"8000"}),
        (":::8080->8000/tcp", {"8080"}),
        ("0.0.0.0:8000-8002->8000-8002/tcp", {"8000"}),
        ("10.0.0.203:8000->8000/tcp", {"8000"}),
        ("127.0.0.1:8000->8000/tcp", set()),
        ("[::1]:8000->8000/tcp", set()),
        ("8000/tcp", set()),
        ("0.0.0.0:53->53/udp", set()),
        ("", set()),
    ],
)
def test_published_ports_are_read(ports: str, found: set[str]) -> None:
    assert set(guest.PUBLISHED.findall(ports)) == found


def test_owner_is_told_commands_that_keep_what_is_not_declared() -> None:
    config = {"hostname": DECLARED.name, "memory": 1024, "cores": DECLARED.cores, "features": DECLARED.features}
    config |= {"net0": NET.replace("bridge=vmbr0", "bridge=vmbr9"), "rootfs": "x:y,size=1G"}
    node: Any = SimpleNamespace(config=lambda _: config)
    clone = Clone(node, replace(DECLARED, startup="order=2,up=30"), DECLARED, cast(Any, None))
    assert "--startup order=2,up=30" in clone.advice(["startup none → 2,up=30"])
    clone.declared = DECLARED
    said = clone.advice(["memory 1024 → 40960"])
    assert "--startup" not in said
    assert "memory 1024 → 40960. It was not changed." in said
    assert (
        "pct set 950 --memory 40960 --net0 name=eth0,bridge=vmbr0,ip=10.0.0.150/24,gw=10.0.0.1,tag=30,firewall=1,"
        in said
    )
    assert "pct resize 950 rootfs 100G; or, if a killed run left it behind" in said
