"""The template: differences that are named, and snapshots that count."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.base.declaration import load
from fixtures.base.errors import BuildError
from fixtures.proxmox import conf
from fixtures.proxmox.conf import Snapshot, net_option
from fixtures.proxmox.node import NodeError
from fixtures.template import manifest
from fixtures.template.clone import MARK, Clone
from fixtures.template.differences import attached, bind_mounts, config_differences, disk_gib
from fixtures.template.template import Situation, Template
from tests.small_node import SETTINGS, SmallNode, conf_of
from tests.test_directions import meant, said

DECLARATION = load(Path(__file__).parent.parent / "phoenix_lxc_configs.json")
CONFIG: dict[str, Any] = {
    "hostname": "BaseTemplateVLLM",
    "memory": 4096,
    "cores": 4,
    "features": "nesting=1",
    "net0": "name=eth0,bridge=vmbr0,gw=10.0.0.1,hwaddr=52:54:00:AA:BB:D1,ip=10.0.0.220/24,type=veth",
    "rootfs": "lxc-disks:subvol-920-disk-0,size=64G",
}


def test_declared_configuration_has_no_difference() -> None:
    assert config_differences(DECLARATION[920], CONFIG) == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("hostname", "Other", "hostname Other → BaseTemplateVLLM"),
        ("memory", 2048, "memory 2048 → 4096"),
        ("cores", "2", "cores 2 → 4"),
        ("features", "", "features [] → ['nesting=1']"),
        ("unprivileged", 1, "unprivileged True → False"),
        ("net0", CONFIG["net0"].replace(".220", ".221"), "net0 ip 10.0.0.221/24 → "),
        ("net0", CONFIG["net0"].replace("D1", "D2"), "net0 hwaddr 52:54:00:AA:BB:D2 → "),
        ("rootfs", "lxc-disks:subvol-920-disk-0,size=32G", "rootfs size 32 → 64 GB"),
        ("rootfs", "local:subvol-920-disk-0,size=64G", "rootfs storage local → "),
    ],
)
def test_difference_is_named(key: str, value: object, said: str) -> None:
    (difference,) = config_differences(DECLARATION[920], {**CONFIG, key: value})
    assert difference.startswith(said)


def test_start_with_the_node_is_compared_only_if_it_is_declared() -> None:
    assert config_differences(DECLARATION[920], {**CONFIG, "onboot": 1, "startup": "order=9"}) == []
    declared = replace(DECLARATION[920], onboot=True, startup="order=2,up=30")
    assert config_differences(declared, CONFIG) == ["onboot 0 → 1", "startup none → 2,up=30"]
    assert config_differences(declared, {**CONFIG, "onboot": 1, "startup": "up=30,2"}) == []
    assert config_differences(replace(declared, onboot=False, startup=None), CONFIG) == []
    assert config_differences(replace(declared, onboot=None, startup="order=0"), CONFIG) == ["startup none → 0"]


def test_larger_disk_and_order_of_options_do_no_harm() -> None:
    config = {**CONFIG, "rootfs": "lxc-disks:subvol-920-disk-0,size=1T", "features": "keyctl=0,nesting=1"}
    assert config_differences(DECLARATION[920], config) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mp0", "/srv,mp=/srv"),
        ("mp1", "lxc-disks:subvol-920-disk-1,mp=/data"),
        ("net1", "name=eth1,bridge=vmbr1"),
        ("hookscript", "local:snippets/x.sh"),
        ("dev0", "/dev/kvm"),
        ("dev1", "path=/dev/sda"),
        ("dev2", "/dev/nvidia0/../sda"),
        ("unused0", "lxc-disks:subvol-920-disk-7"),
        ("entrypoint", "/bin/sh"),
        ("env", "LD_PRELOAD=/x.so"),
        ("rootfs", CONFIG["rootfs"] + ",mountoptions=discard"),
        ("rootfs", CONFIG["rootfs"] + ",ro=1"),
        ("net0", CONFIG["net0"] + ",tag=7"),
        ("net0", CONFIG["net0"] + ",trunks=1;2"),
        ("net0", CONFIG["net0"] + ",ip6=auto"),
        *(
            ("lxc", [[f"lxc.{key}", value]])
            for key, value in (
                ("mount.entry", "/root root none bind"),
                ("mount.entry", "/dev/sda dev/sda none bind"),
                ("mount.entry", "/dev/nvidia0/../../root root none bind"),
                ("mount.auto", "proc:rw sys:rw"),
                ("mount.fstab", "/x"),
                ("hook.pre-start", "/x"),
                ("hook.autodev", "/x"),
                ("include", "/x.conf"),
                ("cap.drop", ""),
                ("cap.keep", "sys_admin"),
                ("apparmor.profile", "unconfined"),
                ("apparmor.raw", "mount,"),
                ("seccomp.profile", "/x"),
                ("idmap", "u 0 0 65536"),
                ("init.cmd", "/x"),
                ("environment", "A=b"),
                ("net.1.link", "vmbr1"),
                ("rootfs.path", "/x"),
                ("cgroup2.devices.allow", "a"),
                ("cgroup2.devices.allow", "c 1:1 rwm"),
                ("cgroup2.devices.allow", "b 8:* rwm"),
                ("namespace.share.net", "1"),
            )
        ),
    ],
)
def test_what_a_container_attaches_of_the_host_is_a_difference(key: str, value: Any) -> None:
    (line,) = attached({**CONFIG, key: value})
    assert line.startswith("lxc." if key == "lxc" else f"{key}: ")


def test_ordinary_settings_are_no_difference() -> None:
    """All that pct.conf(5) lists and that gives a container nothing of the host."""
    words = {"arch": "amd64", "ostype": "ubuntu", "swap": 512, "onboot": 1, "startup": "order=2", "tags": "gpu"}
    words |= {"nameserver": "10.0.0.1", "searchdomain": "a.b", "cpuunits": 100, "cpulimit": 4, "tty": 2, "cmode": "tty"}
    words |= {"description": "mp0: /srv", "protection": 1, "timezone": "host", "digest": "0f", "lock": "backup"}
    assert attached({**CONFIG, **words, "net0": CONFIG["net0"] + ",firewall=1,mtu=9000"}) == []


def test_attached_folder_is_adopted_only_from_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    node = SmallNode(monkeypatch)
    template = Template(node, DECLARATION, 920, SETTINGS)
    volume = "lxc-disks:subvol-{}-disk-1,mp=/data"
    node.files[903] = conf_of(template.parent, "", mp0=volume.format(903))
    node.snapshot(903, template.parent_snapshot, "")
    node.files[920] = conf_of(template.declared, "", mp0=volume.format(920))
    assert template.differences() == []
    node.files[920] = conf_of(template.declared, "", mp0=volume.format(920), mp1="/srv,mp=/srv")
    bind = "mp1: /srv,mp=/srv: is not declared, and with a bind mount there is no snapshot or clone"
    assert template.differences() == [bind]
    monkeypatch.setattr(Template, "exists", True)
    with pytest.raises(BuildError, match=r"with a bind mount .* change the container: pct set 920 --delete mp1$"):
        template.ensure_cloned()
    disk = "lxc-disks:subvol-920-disk-9"
    node.files[920] = conf_of(template.declared, "", mp0=volume.format(920), mp9=f"{disk},mp=/d", unused0=disk)
    assert template.advice(template.differences()).endswith("pct set 920 --delete mp9,unused0")
    node.files[920] = conf_of(template.declared, "", mp0=volume.format(920)) + "\n[pve:pending]\nmp1: /srv,mp=/srv\n"
    assert template.differences() == ["mp1: /srv,mp=/srv: waits for the next start (pct reboot 920)"]


@pytest.mark.parametrize(
    ("pending", "memory", "command"),
    [
        ("delete: mp0\n", None, "pct pending 920; pct reboot 920"),
        ("nameserver: 1.1.1.1\n", None, "pct pending 920; pct reboot 920"),
        ("mp1: /srv/models,mp=/models\n", None, "pct pending 920; pct set 920 --revert mp1"),
        ("delete: features\n", None, "pct pending 920; pct set 920 --revert features"),
        ("delete: features,!onboot\nswap: 0\n", None, "pct pending 920; pct set 920 --revert features,onboot,swap"),
        ("memory: 4096\n", 2048, "pct pending 920; pct reboot 920; pct set 920 --memory 4096"),
    ],
)
def test_change_that_waits_is_told_with_what_takes_it_back(
    monkeypatch: pytest.MonkeyPatch, pending: str, memory: int | None, command: str
) -> None:
    node = SmallNode(monkeypatch)
    template = Template(node, DECLARATION, 920, SETTINGS)
    node.files[903] = conf_of(template.parent, "")
    node.snapshot(903, template.parent_snapshot, "")
    own = conf_of(template.declared, "by hand", **({"memory": str(memory)} if memory else {}))
    node.files[920] = f"{own}\n[pve:pending]\n{pending}"
    assert "; ".join(template.advised()) == command
    message, modes = said("test_020_clone", "test_container_is_as_declared", node, template)
    assert message.endswith(f"; run: {command}")
    assert modes == ["A95"]
    key = re.findall(r"^(?:delete: )?(\w+)", pending, re.MULTILINE)[-1]
    assert f"pct set CTID --revert {key} undoes it" in meant("test_container_is_as_declared", message)[1]


def test_mac_address_counts_only_where_this_suite_has_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`pct clone` makes a new one, so each container that was cloned by hand differed."""
    node = SmallNode(monkeypatch)
    template = Template(node, DECLARATION, 920, SETTINGS)
    node.files[903] = conf_of(template.parent, "")
    for mark, different in (("by hand", []), (template.origin, ["net0 hwaddr BC:24:11:17:DC:40 → 52:54:00:AA:BB:D1"])):
        own = conf_of(template.declared, mark)
        node.files[920] = own.replace("52:54:00:AA:BB:D1", "BC:24:11:17:DC:40")
        assert template.differences() == different


def test_root_disk_of_another_container_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    node = SmallNode(monkeypatch)
    template = Template(node, DECLARATION, 920, SETTINGS)
    node.files[903] = conf_of(template.parent, "")
    borrowed = "lxc-disks:subvol-903-disk-0,size=64G"
    node.files[920] = conf_of(template.declared, "", rootfs=borrowed)
    assert template.differences() == ["rootfs is lxc-disks:subvol-903-disk-0, the disk of container 903"]


def test_gpus_and_what_the_parent_has_are_no_difference() -> None:
    devices = [["lxc.mount.entry", "/dev/nvidia0 dev/nvidia0 none bind"], ["lxc.cgroup2.devices.allow", "c 195:* rwm"]]
    assert attached({**CONFIG, "dev0": "/dev/nvidia0", "dev1": "path=/dev/nvidiactl", "lxc": devices}) == []
    mounts = [attached({"mp0": f"p:subvol-{ctid}-disk-1,mp=/x"}) for ctid in (903, 920)]
    assert mounts[0] == mounts[1]


@pytest.mark.parametrize(
    ("size", "gib"), [("64G", 64), ("1T", 1024), ("512M", 0.5), ("1073741824", 1), ("x", 0), ("", 0)]
)
def test_disk_size_is_read(size: str, gib: float) -> None:
    assert disk_gib({"rootfs": f"pool:volume,size={size}" if size else "pool:volume"}) == gib


def test_bind_mounts_are_found() -> None:
    config = {"mp0": "/srv,mp=/srv", "mp1": "lxc-disks:subvol-920-disk-1,mp=/data", "mpx": "/no"}
    assert bind_mounts(config) == ["mp0: /srv,mp=/srv"]


def test_net_option() -> None:
    assert net_option("name=eth0,ip=10.0.0.5/24", "ip") == "10.0.0.5/24"
    assert net_option("", "ip") == ""


@pytest.mark.parametrize(
    ("snapshots", "situation"),
    [
        ({}, Situation.TO_BUILD),
        ({"vllm-base-snapshot-old": f"{MARK} accepted "}, Situation.TO_BUILD),
        ({"vllm-base-snapshot": "by hand"}, Situation.UNMANAGED),
        ({"vllm-base-snapshot": f"{MARK} sealed x"}, Situation.SEALED),
        ({"vllm-base-snapshot": f"{MARK} sealed x accepted y"}, Situation.ACCEPTED),
        ({"vllm-base-snapshot": ("prepare", f"{MARK} sealed x accepted y")}, Situation.TO_BUILD),
    ],
)
def test_situation(monkeypatch: pytest.MonkeyPatch, snapshots: dict[str, Any], situation: Situation) -> None:
    class Node:
        def containers(self) -> dict[int, object]:
            return {920: {}}

        def configuration(self, ctid: int) -> SimpleNamespace:
            pairs = {name: text if isinstance(text, tuple) else ("", text) for name, text in snapshots.items()}
            found = {name: Snapshot(name, text, 0, state) for name, (state, text) in pairs.items()}
            return SimpleNamespace(snapshots=found)

    monkeypatch.setattr(Template, "unfinished", lambda _: None)
    template = Template(Node(), DECLARATION, 920, None)  # type: ignore[arg-type]
    assert template.situation() is situation


def test_what_waits_for_the_next_start_is_not_the_configuration() -> None:
    """A snapshot is taken of what a container has now (pve-container, `[pve:pending]`)."""
    found = conf.parse(b"memory: 1\n\n[pve:pending]\nmemory: 2\n\n[one]\nmemory: 3\n")
    assert (found.head.config, found.sections["one"].config) == ({"memory": "1"}, {"memory": "3"})
    assert list(found.snapshots) == ["one"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("dev0: /dev/nvidia0,mode=0666\ndev1: /dev/nvidia1\ndev2: /dev/nvidiactl", []),
        ("dev0: /dev/nvidia0", ["GPUs [0] → [0, 1]"]),
        ("lxc.mount.entry: /dev/nvidia2 dev/nvidia2 none bind", ["GPUs [2] → [0, 1]"]),
        ("dev0: /dev/nvidiactl", []),  # passed in a way that names none
    ],
)
def test_other_gpus_are_named(lines: str, said: list[str]) -> None:
    found = conf.parse(f"hostname: a\n\n[one]\n{lines}\n".encode())
    files = SimpleNamespace(containers={920: found})
    node = SimpleNamespace(cluster_files=files, config=lambda _, snapshot: found.sections[snapshot].config)
    clone = Clone(node, DECLARATION[920], DECLARATION[903], None)  # type: ignore[arg-type]
    assert [each for each in clone.differences("one") if each.startswith("GPUs ")] == said


def test_models_files_are_read_once_and_as_long_as_a_server_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of some 30 GB took longer than a command may, so no template with one could be sealed."""
    template = Template(SmallNode(monkeypatch), DECLARATION, 920, SETTINGS)
    asked: list[tuple[float, dict[str, str] | None]] = []

    def look(container: Any, want: Any, deadline: float, read: dict[str, str] | None = None) -> dict[str, Any]:
        asked.append((deadline, read))
        return {"read": {"f": str(len(asked))}}

    monkeypatch.setattr(manifest, "look_inside", look)
    template.inside.look_ahead({})
    assert template.inside.look({}) == {"read": {"f": "2"}}
    assert template.inside.look({}) == {"read": {"f": "3"}}
    limit = SETTINGS.ready_deadline
    assert asked == [(limit, None), (limit, {"f": "1"}), (limit, {"f": "2"})]


def test_look_that_failed_ahead_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    template = Template(SmallNode(monkeypatch), DECLARATION, 920, SETTINGS)
    asked: list[object] = []

    def look(*words: object) -> dict[str, Any]:
        asked.append(words)
        if len(asked) == 1:
            raise NodeError("lost")
        return {"read": {}}

    monkeypatch.setattr(manifest, "look_inside", look)
    template.inside.look_ahead({})
    assert template.inside.look({}) == {"read": {}}
