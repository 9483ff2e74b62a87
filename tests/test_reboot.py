"""What lasts over a reboot of the node: who makes the devices, and which rules name a number that moves."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.base.errors import Unseen
from fixtures.gpu import reboot
from fixtures.gpu.reboot import Boot
from fixtures.proxmox import conf
from tests.test_family import Box, World, verdict

checks = importlib.import_module("tests_920.test_014_gpus_and_model")
MAJORS = {"nvidia": 195, "nvidia-uvm": 511}
UVM = "lxc.mount.entry: /dev/nvidia-uvm dev/nvidia-uvm none bind,optional,create=file"
RULE = "lxc.cgroup2.devices.allow: c {}:* rwm"


@pytest.mark.parametrize(
    ("boot", "error", "said"),
    [
        (Boot(MAJORS, ("60-nvidia.rules",), ()), None, ""),
        (
            Boot(MAJORS, (), ()),
            AssertionError,
            "creates /dev/nvidia-uvm; expected one that does so before guests start",
        ),
        (Boot(MAJORS, (), ("nvidia-persistenced.service",)), Unseen, "whether nvidia-persistenced.service creates"),
        (Boot({"nvidia": 195}, ("60-nvidia.rules",), ()), Unseen, "nvidia-uvm in the node's /proc/devices"),
        (Boot({}, (), ()), Unseen, "nvidia-uvm in the node's /proc/devices"),
    ],
)
def test_who_makes_the_devices(boot: Boot, error: type[BaseException] | None, said: str) -> None:
    if error is None:
        checks.test_devices_are_made_before_guests_start(boot)
        return
    with pytest.raises(error, match=said):
        checks.test_devices_are_made_before_guests_start(boot)


@pytest.mark.parametrize(
    ("lines", "majors", "rules", "wrong"),
    [
        ((), MAJORS, 0, False),
        ((RULE.format(195), RULE.format(226)), MAJORS, 0, False),
        ((RULE.format(511), UVM), MAJORS, 1, False),
        ((RULE.format(238), UVM), MAJORS, 1, True),
        ((RULE.format(238), RULE.format(511), UVM), MAJORS, 2, False),
        ((RULE.format(238), "dev3: /dev/nvidia-uvm"), MAJORS, 1, False),
        ((RULE.format(238), "dev3: path=/dev/nvidia-uvm,mode=0666"), MAJORS, 1, False),
        ((RULE.format(238), UVM, "dev4: /dev/nvidia-uvm-tools"), MAJORS, 1, True),
        ((RULE.format(238), "dev3:  mode=0666,path=/dev/nvidia-uvm"), MAJORS, 1, False),
        (("lxc.cgroup2.devices.allow = c\t238:* rwm", UVM), MAJORS, 1, True),
        ((RULE.format(238), UVM), {}, 1, False),
        ((RULE.format("9" * 40), "lxc.cgroup2.devices.allow: a"), MAJORS, 0, False),
    ],
)
def test_rules_that_name_a_moving_number(
    lines: tuple[str, ...], majors: dict[str, int], rules: int, wrong: bool
) -> None:
    found = reboot.pinned(lines, Boot(majors, (), ()))
    assert (len(found[0]), found[1]) == (rules, wrong)


@pytest.mark.parametrize(("line", "fails"), [(RULE.format(238), True), (RULE.format(511), False)])
def test_rules_of_the_parent_are_looked_at(line: str, fails: bool) -> None:
    found = conf.parse(f"hostname: p\n[base]\n{line}\n{UVM}\n".encode())
    node: Any = SimpleNamespace(read_conf={903: found}.get)
    template: Any = SimpleNamespace(exists=False, ctid=920, parent=SimpleNamespace(ctid=903), parent_snapshot="base")
    if not fails:
        checks.test_device_rules_outlast_a_reboot(node, template, Boot(MAJORS, (), ()))
        return
    with pytest.raises(
        AssertionError, match=r"container 903 has .*238.*, nvidia-uvm is 511; expected the major number"
    ):
        checks.test_device_rules_outlast_a_reboot(node, template, Boot(MAJORS, (), ()))


def test_rule_of_a_descendant_is_named() -> None:
    world = World(ct931=Box(lines=(RULE.format(238),), gpus=()), ct932=Box(lines=(RULE.format(511),), gpus=()))
    world.boot = "device=195 nvidia\ndevice=511 nvidia-uvm\nend\n"
    broken, sound = world.look().members
    assert (verdict(broken), verdict(sound)) == ("broken", "sound")
    assert "238:* rwm in its configuration, but nvidia-uvm is 511" in broken.row()["why"]
    assert "may change at a reboot" in sound.row()["why"]


UNIT = "[Unit]\n{}\n[Service]\nExecStart=/usr/bin/nvidia-modprobe -c0 -u\n"


@pytest.mark.parametrize(
    ("files", "early", "late"),
    [
        ({"etc/udev/rules.d/70-nvidia.rules": 'KERNEL=="nvidia", RUN+="/usr/bin/nvidia-modprobe -c0 -u"'}, 1, 0),
        ({"usr/lib/udev/rules.d/60-nvidia.rules": 'RUN+="/usr/bin/nvidia-modprobe -u"'}, 1, 0),
        ({"etc/udev/rules.d/70-other.rules": "# nvidia-uvm"}, 0, 0),
        ({"etc/systemd/system/multi-user.target.wants/uvm.service": UNIT.format("Before=pve-guests.service")}, 1, 0),
        ({"etc/systemd/system/multi-user.target.wants/uvm.service": UNIT.format("After=network.target")}, 0, 1),
        ({"etc/systemd/system/uvm.service": UNIT.format("Before=pve-guests.service")}, 0, 0),
        ({"etc/systemd/system/multi-user.target.requires/a.service": UNIT.format("Before=pve-guests.service")}, 1, 0),
        ({"etc/modules-load.d/nvidia.conf": "nvidia\nnvidia_uvm\n"}, 0, 1),
        ({"usr/lib/modules-load.d/nvidia.conf": "nvidia-uvm\n"}, 0, 1),
        ({"etc/modprobe.d/nvidia.conf": "softdep nvidia post: nvidia-uvm\n"}, 0, 1),
        ({"etc/modprobe.d/nvidia.conf": "options nvidia-uvm x=1\n# softdep nvidia post: nvidia-uvm\n"}, 0, 0),
        ({"etc/rc.local": "/usr/bin/nvidia-modprobe -c0 -u\n"}, 0, 1),
        ({"etc/rc.local": "# /usr/bin/nvidia-modprobe -c0 -u\n"}, 0, 0),
        ({"var/spool/cron/crontabs/root": "@reboot /usr/bin/nvidia-modprobe -u -c 0\n"}, 0, 1),
        ({"etc/pve/lxc/903.conf": "lxc.hook.pre-start: sh -c 'nvidia-modprobe -c0 -u'\n"}, 0, 1),
        ({"etc/pve/lxc/903.conf": "dev2: /dev/nvidia-uvm\n"}, 0, 0),
    ],
)
def test_node_says_who_makes_them(tmp_path: Path, files: dict[str, str], early: int, late: int) -> None:
    """The script itself, over files as a node has them."""
    for name, text in {
        "proc/devices": "Character devices:\n195 nvidia\n511 nvidia-uvm\n\nBlock devices:\n",
        **files,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    script = reboot.ASK
    for folder in ("/etc/", "/usr/lib/", "/var/", "/proc/devices"):
        script = script.replace(f" {folder}", f" {tmp_path}{folder}")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, timeout=60)
    found = reboot.parse(done.stdout)
    assert (found.majors, len(found.early), len(found.late)) == (MAJORS, early, late)
