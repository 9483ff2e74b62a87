"""The node: what its files say is kept until something was changed, and what they do not say is not known."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.proxmox import pmxcfs
from fixtures.proxmox.channel import Channel
from fixtures.proxmox.command import ChannelError, Command
from fixtures.proxmox.conf import Snapshot
from fixtures.proxmox.node import Node, NodeError
from fixtures.proxmox.pmxcfs import Guest
from fixtures.proxmox.volume import Volume, listed
from tests import pve_files
from tests.small_node import zfs_list

CONF = """#by hand%3A one
arch: amd64
hostname: BaseTemplateVLLM
lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind
memory: 4096
rootfs: lxc-disks:subvol-920-disk-0,size=64G

[pve:pending]
memory: 8192

[base]
#sealed
memory: 2048
rootfs: lxc-disks:subvol-920-disk-0,size=64G
snaptime: 7
"""
BTRFS = "btrfs: lxc-disks\n\tpath /disks\n\tcontent rootdir\n"
CUT = f"lxc/920.conf {b64encode(CONF.encode()).decode()[:10]}"


class FakeNode(Node):
    """Answers by the first words of a command, in order, the last for ever; and counts."""

    def __init__(self, **answers: list[str] | str) -> None:
        super().__init__(Channel("n"))
        self.answers: dict[str, Iterator[str]] = {}
        self.asked: list[str] = []
        self.said = {"hostname": "pve", **answers}

    def run(self, *argv: str, **_: object) -> Command:
        scripts = {pmxcfs.READ: "files", pmxcfs.SOCKETS: "sockets"}
        name = scripts.get(argv[-1], argv[0])
        self.asked.append(name)
        said = self.said.get(name)
        if isinstance(said, list):
            said = said.pop(0) if len(said) > 1 else said[0]
        return Command("n", argv, 0.0, 0.0, 0 if said is not None else 1, (said or "").encode(), b"")

    @property
    def name(self) -> str:
        return "pve"


def files(conf: str = CONF, **more: Any) -> str:
    return pve_files.files({920: conf}, **more)


# --- files ----------------------------------------------------------------------------------------------


def test_files_are_read_once_until_something_is_changed() -> None:
    node = FakeNode(files=[files(), files(CONF.replace("4096", "1"))])
    assert [node.config(920)["memory"] for _ in range(2)] == ["4096"] * 2
    assert (node.asked, [*node.containers()], node.cluster_files.memory) == (["files"], [920], 256 << 30)
    node.forget()
    assert node.config(920)["memory"] == "1"
    assert node.asked == ["files"] * 2


def test_configuration_is_what_the_container_has_now() -> None:
    """As `pvesh get .../config --current 1` has it, but for numbers, which are text, and the digest."""
    node = FakeNode(files=files())
    assert node.config(920) == {
        "arch": "amd64",
        "description": "by hand: one",
        "hostname": "BaseTemplateVLLM",
        "lxc": [["lxc.mount.entry", "/dev/nvidia0 dev/nvidia0 none bind"]],
        "memory": "4096",
        "rootfs": "lxc-disks:subvol-920-disk-0,size=64G",
    }
    assert node.config(920, "base")["memory"] == "2048"
    assert node.configuration(920).snapshots == {"base": Snapshot("base", "sealed", 7, "")}
    for ctid, snapshot in ((920, "other"), (903, None)):
        with pytest.raises(NodeError, match=r"the node.* has no "):
            node.config(ctid, snapshot)


def test_machines_of_the_cluster_are_known_by_their_numbers() -> None:
    """Containers and virtual machines of all nodes share them."""
    others = {"100": {"node": "pve", "type": "qemu", "version": 3}, "101": {"node": "b", "type": "lxc", "version": 4}}
    node = FakeNode(files=files(others=others, cluster={"name": "c", "nodes": 2, "quorate": 1}))
    own = Guest("lxc", "pve", "BaseTemplateVLLM")
    assert node.containers() == {920: own}
    assert node.guests() == {100: Guest("qemu", "pve"), 101: Guest("lxc", "b"), 920: own}


@pytest.mark.parametrize(
    ("ha", "state"),
    [
        ("", "ignored"),
        ("ct: 920\n\tgroup all\n\tstate stopped\n", "stopped"),
        ("ct: 920\n", "started"),
        ("vm: 920\n\tstate started\n\nct: 921\n", "ignored"),
        ("ct: 920\n\tcomment x\n\tstate ignored\n", "ignored"),
    ],
)
def test_state_in_which_ha_holds_a_container_is_known(ha: str, state: str) -> None:
    """As in pve-ha-manager, PVE/HA/Resources.pm: what is in the file is managed, started unless it says otherwise."""
    assert FakeNode(files=files(ha=ha)).cluster_files.managed.get(920, "ignored") == state


def test_numbers_are_not_known_without_a_quorum() -> None:
    """Others may have made machines meanwhile; what the node has itself is in its own files."""
    node = FakeNode(files=files(cluster={"name": "c", "nodes": 3, "quorate": 0}))
    assert [*node.containers()] == [920]
    with pytest.raises(NodeError, match=r"no quorum \(offline: unknown\): .*: pvecm status"):
        node.guests()


HERE = {"node": "pve", "type": "lxc", "version": 1}


@pytest.mark.parametrize(
    ("confs", "listed"),
    [({}, HERE), ({920: CONF}, HERE | {"node": "b"}), ({920: CONF}, HERE | {"type": "qemu"}), ({920: CONF}, None)],
)
def test_container_is_not_known_where_list_and_folder_do_not_agree(confs: dict[int, str], listed: Any) -> None:
    """Its number is taken all the same; one whose file is there and not listed yet has just been made."""
    text = pve_files.files(confs, others={"920": listed})
    node = FakeNode(
        files=text if listed else text.replace(shown(".vmlist", text), pve_files.line(".vmlist", '{"version": 1}'))
    )
    assert [*node.containers()] == [*node.guests()] == [920]
    if listed:
        with pytest.raises(NodeError, match=r"configuration of container 920 says nothing: cat /etc/pve/lxc/920\.conf"):
            node.config(920)
    else:
        assert node.config(920)["memory"] == "4096"


def shown(name: str, text: str = "") -> str:
    """The line that shows a file."""
    return next(f"{line}\n" for line in (text or files()).splitlines() if line.startswith(name))


@pytest.mark.parametrize("conf", ["", "\n", "memory\n", "[base]\nmemory: 1\n", "#only words\n"])
def test_container_whose_file_says_nothing_is_there_and_not_known(conf: str) -> None:
    node = FakeNode(files=files(conf))
    assert node.containers() == {920: Guest("lxc", "pve")}
    for ask in (node.config, node.configuration):
        with pytest.raises(NodeError, match="says nothing"):
            ask(920)


IDS = ("[]", '{"x": {}}', *(f'{{"920": {each}}}' for each in ("{}", "null", '"lxc"', '{"type": "lxc"}')))
BROKEN = {
    "not to the end": files().removesuffix("end\n"),
    "nothing": "",
    "only the end": "end\n",
    "cut": files().replace(shown("lxc/920.conf"), f"{CUT}\n"),
    "no base64": files().replace(shown("lxc/920.conf"), "lxc/920.conf hostname: x\n"),
    "no members": files().replace(shown(".members"), ""),
    "no list": files().replace(shown(".vmlist"), ""),
    "no memory": files().replace(shown("/proc/meminfo"), ""),
    "other memory": files().replace(shown("/proc/meminfo"), pve_files.line("/proc/meminfo", "MemFree: 1 kB\n")),
    **{
        f"members {text}": files().replace(shown(".members"), pve_files.line(".members", text))
        for text in ("[]", "null", "x", '{"cluster": {}}', '{"cluster": 1}', '{"cluster": {"quorate": null}')
    },
    **{
        f"list {text}": files().replace(shown(".vmlist"), pve_files.line(".vmlist", text))
        for text in ("[]", "{}", "x", '{"ids": {}}', *(f'{{"version": 1, "ids": {each}}}' for each in IDS))
    },
}


@pytest.mark.parametrize("said", BROKEN.values(), ids=BROKEN)
def test_files_that_are_cut_or_of_another_form_say_nothing(said: str) -> None:
    """Not that there is no container, no other machine, no storage; and the next question reads them again."""
    node = FakeNode(files=[said, said, said, said, files()])
    for ask in (node.containers, node.guests, lambda: node.config(920), lambda: node.storage("lxc-disks")):
        with pytest.raises(NodeError, match="the node's files in /etc/pve cannot be used"):
            ask()
    assert [*node.containers()] == [920]


def test_files_that_cannot_be_read_say_nothing() -> None:
    with pytest.raises(NodeError, match=r"`cat /etc/pve/\.members .* ended with 1"):
        FakeNode().containers()


# --- running --------------------------------------------------------------------------------------------


def test_running_is_asked_each_time() -> None:
    node = FakeNode(files=files(), sockets=[pve_files.sockets(920), pve_files.sockets(1920)])
    assert [node.running(920), node.running(920)] == [True, False]
    assert node.asked.count("sockets") == 2


@pytest.mark.parametrize("said", [None, "", "garbled", pve_files.sockets(920).partition("\n")[2]])
def test_node_that_does_not_list_its_sockets_says_not_that_a_container_is_off(said: str | None) -> None:
    node = FakeNode(files=files(), **({} if said is None else {"sockets": said}))
    with pytest.raises(NodeError, match="unknown whether 920 runs"):
        node.running(920)


def test_container_that_is_not_there_is_neither_on_nor_off() -> None:
    with pytest.raises(NodeError, match="the node has no container 903"):
        FakeNode(files=files(), sockets=pve_files.sockets(920)).running(903)


# --- storages -------------------------------------------------------------------------------------------


def test_storage_is_what_its_definition_says() -> None:
    text = (
        "dir: local\n\tpath /var/lib/vz\n\tcontent iso\n\nzfspool: other\n\tpool tank\n\tnodes a,b\n\n"
        "zfspool: off\n\tpool tank\n\tdisable\n\nzfspool: mine\n\tpool tank/data\n\tnodes a,pve\n\t# pool x\n"
        "\tsparse 1\n\nrbd: by-blanks\n\tnodes a, pve;b\n\n"
        "truenas-NFS2: plugin\n\tpool not/mine\n\nno heading\n\tpool nobodys\n"
    )
    node = FakeNode(files=files(storages=text))
    found = {"type": "zfspool", "storage": "mine", "pool": "tank/data", "nodes": "a,pve", "sparse": "1"}
    assert node.storage("mine") == found
    assert node.storage("plugin")["type"] == "truenas-nfs2"
    assert node.storage("off")["type"] == "zfspool"  # that it is disabled is said by the check of it
    assert node.storage("by-blanks")["type"] == "rbd"  # as PVE::Tools::split_list takes it
    for name in ("other", "none", ""):
        with pytest.raises(NodeError, match="pve has no storage named"):
            node.storage(name)
    with pytest.raises(NodeError, match=r"named other: storage\.cfg limits it to nodes"):  # it was said not to exist
        node.storage("other")


def test_figures_of_storages_are_asked_once_until_something_is_changed() -> None:
    """No file holds them, and the program that tells them takes a second."""
    node = FakeNode(pvesh='[{"storage": "local-zfs", "avail": 5}]')
    assert (node.free("local-zfs"), node.figures("local-zfs")["avail"]) == (5, 5)
    assert node.asked == ["pvesh"]
    node.forget()
    assert (node.free("local-zfs"), node.asked) == (5, ["pvesh"] * 2)


@pytest.mark.parametrize("said", ["null", "[]", "{}", "[null]", "[{}]", '"x"', "7", "x", '[{"storage": "local-zfs"}]'])
def test_free_space_that_is_not_told_is_not_known(said: str) -> None:
    with pytest.raises(NodeError, match="free space of storage local-zfs is unknown"):
        FakeNode(pvesh=said).free("local-zfs")


ZFS = [f"rpool/data{each}" for each in ("", "/subvol-920-disk-0", "/subvol-1920-disk-0", "/vm-920-state-x", "/x")]
IMAGES = ["btrfs", "", "images", "images/920", "images/920/vm-920-disk-0", "images/920/vm-920-disk-0@s"]
SUBVOLUMES = ["btrfs", "", "images/920/subvol-920-disk-1.subvol", "images/921/subvol-920-disk-1"]
OF_THE_LAB = ["btrfs", "", "subvol-920-disk-0", "subvol-1920-disk-0", ".snapshots/subvol-920-disk-0@s"]
PVESM = ["Volid Format Type Size VMID", "lxc-disks:vm-920-disk-0 raw    rootdir  4 920", "lxc-disks:x raw rootdir 4 9"]


@pytest.mark.parametrize(
    ("defined", "command", "said", "found"),
    [
        (pve_files.ZFS, "zfs", ZFS, ["subvol-920-disk-0", "vm-920-state-x"]),
        (pve_files.ZFS, "zfs", ["rpool/data"], []),
        (BTRFS, "sh", IMAGES, ["920/vm-920-disk-0.raw"]),
        (BTRFS, "sh", SUBVOLUMES, ["920/subvol-920-disk-1.subvol"]),
        (BTRFS, "sh", OF_THE_LAB, ["subvol-920-disk-0"]),
        ("lvmthin: lxc-disks\n\tvgname pve\n", "pvesm", PVESM, ["vm-920-disk-0"]),
    ],
)
def test_volumes_of_a_number_are_listed(defined: str, command: str, said: list[str], found: list[str]) -> None:
    node = FakeNode(files=files(storages=defined), **{command: "\n".join(said)})
    assert listed(node, 920, "lxc-disks") == [f"lxc-disks:{name}" for name in found]


@pytest.mark.parametrize("said", [None, "", "x", "ext2/ext3\n", "rpool/other\n", "lxc-disks:vm-920-disk-0 raw 1 920"])
@pytest.mark.parametrize("defined", [pve_files.ZFS, BTRFS, "dir: lxc-disks\n\tpath /d\n"])
def test_storage_that_does_not_list_its_volumes_does_not_hold_none(defined: str, said: str | None) -> None:
    """A folder that is not mounted has no volumes either."""
    answers = {} if said is None else dict.fromkeys(("zfs", "sh", "pvesm"), said)
    with pytest.raises(NodeError):
        listed(FakeNode(files=files(storages=defined), **answers), 920, "lxc-disks")


@pytest.mark.parametrize(
    ("defined", "volume", "folder"),
    [
        (pve_files.ZFS, "subvol-920-disk-0", "/rpool/data/subvol-920-disk-0"),
        (pve_files.ZFS, "basevol-9-disk-0/subvol-920-disk-0", "/rpool/data/subvol-920-disk-0"),
        ("zfspool: lxc-disks\n\tpool t\n\tmountpoint /m\n", "subvol-920-disk-0", "/m/subvol-920-disk-0"),
        (BTRFS, "920/vm-920-disk-0.raw", "/disks/images/920/vm-920-disk-0"),
        (BTRFS, "920/subvol-920-disk-0.subvol", "/disks/images/920/subvol-920-disk-0.subvol"),
        ("dir: lxc-disks\n\tpath /d\n", "920/vm-920-disk-0.raw", "told by pvesm"),
    ],
)
def test_folder_of_a_volume(defined: str, volume: str, folder: str) -> None:
    node = FakeNode(files=files(storages=defined), pvesm="told by pvesm\n")
    assert Volume(node, f"lxc-disks:{volume},size=4G").folder == folder
    assert "pvesm" not in node.asked or folder == "told by pvesm"


def test_what_a_storage_says_of_a_snapshot_is_asked_each_time() -> None:
    """It is what is destroyed that is decided on it."""
    dataset = "rpool/data/subvol-920-disk-0"
    node = FakeNode(files=files(), zfs=[zfs_list(dataset, ["s"]), zfs_list(dataset, ["s"], "mine")])
    volume = Volume(node, "lxc-disks:subvol-920-disk-0")
    assert [each.clones for each in (volume.snapshot("s"), volume.snapshot("s")) if each] == [[], ["mine"]]


# --- the node itself ------------------------------------------------------------------------------------


def test_silent_node_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    def look(*_: object, deadline: float) -> list[Command]:
        waited.append(deadline)
        raise ChannelError("it is silent")

    silent = Node(Channel("far"))
    monkeypatch.setattr(silent.channel, "run_parallel", look)
    for _ in range(3):
        with pytest.raises(ChannelError, match="it is silent"):
            _ = silent.name
        with pytest.raises(ChannelError, match="it is silent"):
            _ = silent.version
    assert len(waited) == 1


def test_name_becomes_part_of_paths(tmp_path: Path) -> None:
    command = tmp_path / "on-node"
    command.write_text('#!/bin/sh\n[ "$1" != python3 ] || exit 127\necho "../x"\n')
    command.chmod(0o755)
    with pytest.raises(NodeError, match="is no host name"):
        _ = Node(Channel("test", prefix=(str(command),))).name
