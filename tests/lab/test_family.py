"""A family for real, in the lab: clones of two generations; one was edited, one is off, and then the driver moves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fixtures.record.model import Record, from_json
from fixtures.template.family import DEADLINE
from lab import vllm
from lab.__main__ import up
from tests.lab.harness import SNAPSHOT, STAND_IN, Lab, Run, says

pytestmark = pytest.mark.lab

WORDS = (*STAND_IN, "--no-clone")
FAMILY = range(931, 941)  # the first five are of generation 1
EDITED, OFF, RAW = 933, 938, 932  # RAW gets nvidia-uvm by raw lines, which bind it only if it is there
# What the node's nvidia-smi says is the only driver that there is in a lab
MOVE = """mv /usr/bin/nvidia-smi /usr/bin/nvidia-smi.kept
printf '#!/bin/sh\\n/usr/bin/nvidia-smi.kept "$@" | sed s/580.76.05/590.48.01/\\n' > /usr/bin/nvidia-smi
chmod 755 /usr/bin/nvidia-smi"""
LIGHT = """pct clone 920 "$1" --snapname "$2" --full 1 --hostname "member$1"
pct set "$1" --net0 "name=eth0,bridge=vmbr0,ip=10.0.0.$(( $1 - 900 + 100 ))/24,gw=10.0.0.1" --memory 1024
[ "$3" = off ] || pct start "$1\""""
UP = "for i in $(seq 300); do pct exec $1 -- docker version >/dev/null 2>&1 && exit 0; sleep 0.2; done; exit 1"

ONBOOT = """for each in "$@"; do pct set "$each" --onboot 1; done
sed -i '/^dev[0-9]*: .dev.nvidia-uvm$/d' "/etc/pve/lxc/$1.conf"
echo 'lxc.mount.entry: /dev/nvidia-uvm dev/nvidia-uvm none bind,optional,create=file' >> "/etc/pve/lxc/$1.conf"
echo 'lxc.cgroup2.devices.allow: c 238:* rwm' >> "/etc/pve/lxc/$1.conf\""""
# What the kernel, udev and pve-guests.service do at a boot; $1 is nvidia-uvm's number, empty if nobody makes it
BOOT = """rm /dev/nvidia-uvm; [ -z "$1" ] || mknod -m 666 /dev/nvidia-uvm c "$1" 0
{ echo '195 nvidia'; [ -z "$1" ] || echo "$1 nvidia-uvm"; echo; echo 'Block devices:'; } > /run/devices
mount --bind /run/devices /proc/devices
for each in $(grep -l '^onboot: 1' /etc/pve/lxc/*.conf | tr -dc '0-9\\n'); do pct start "$each"; done
for each in $(pct list | awk '$2 == "running" {print $1}'); do
  for i in $(seq 300); do pct exec "$each" -- docker version >/dev/null 2>&1 && break; sleep 0.2; done
done"""


@contextmanager
def restarted_again(lab: Lab) -> Iterator[None]:
    """Restart the node behind the block: with its own devices, which the tests after it need."""
    try:
        yield
    finally:
        lab.machine.power_off()
        up(lab.machine)
        lab.machine.serve_stand_in(vllm.made() / "registry")


def rows(run: Run) -> dict[int, dict[str, str]]:
    return {int(row["container"].split()[0]): row for row in record(run).family["rows"]}


def record(run: Run) -> Record:
    return from_json((run.folder / "record.json").read_text())


def clone(lab: Lab, *numbers: int) -> None:
    for number in numbers:
        lab.node("sh", "-ec", LIGHT, "sh", str(number), SNAPSHOT, "off" if number == OFF else "on")


@pytest.fixture(scope="module")
def family(lab: Lab) -> None:
    """Ten clones over two generations, and a stranger that is off."""
    assert lab.build(*WORDS).outcome == "built"
    clone(lab, *FAMILY[:5])
    assert lab.build(*WORDS, "--rebuild").outcome == "built"
    clone(lab, *FAMILY[5:])
    for number in FAMILY:
        if number != OFF:
            lab.node("sh", "-c", UP, "sh", str(number))
    lab.node("pct", "set", "934", "--description", "the team's own server")


@pytest.mark.usefixtures("family")
def test_family_is_named_with_its_generations_and_left_alone(lab: Lab) -> None:
    state = "cat /etc/pve/lxc/*.conf; pct list; mount | sort"
    before = lab.node("sh", "-c", state)
    run = lab.build(*STAND_IN, "--family")
    assert lab.node("sh", "-c", state) == before, "neither a lock nor a mount is left"
    found = rows(run)
    assert [*found] == [*FAMILY]
    assert {number for number, row in found.items() if row["verdict"] != "sound"} == {OFF}
    assert {number for number, row in found.items() if row["from"] == "920 g1, now g2"} == {*FAMILY[:5]} - {934}
    assert {row["from"] for row in found.values()} == {"920 g1, now g2", "920 g2, current"}
    assert {row["NVIDIA libraries"] for row in found.values()} == {"580.76.05"}
    assert "g1, g2 have the same content" in found[934]["why"], "nothing in 920 has changed between the two"
    assert "its description was changed" in found[934]["why"]
    assert (found[OFF]["state"], found[OFF]["verdict"]) == ("off", "not known")
    assert run.status == 1, "one was not asked"
    assert f"not known: {OFF}" in record(run).sentence
    assert run.seconds < DEADLINE, "nobody waited for one container to its deadline"
    assert run.output.index("931 member931") < run.output.index("family  ")
    commands = [json.loads(line) for line in (run.folder / "commands.jsonl").read_text().splitlines()]
    asked = [sum(each["where"].endswith(f"ct{number}") for each in commands) for number in FAMILY if number != 934]
    assert max(asked) == 1
    assert "lxc/920@vllm-base-snapshot, generation 2, manifest" in lab.inside("/etc/phoenix/verify", ctid=936)


@pytest.mark.usefixtures("family")
def test_edited_and_moved_are_named_with_the_order_of_fixing(lab: Lab, tmp_path: Path) -> None:
    lab.inside("sh", "-c", "echo '{}' > /etc/docker/daemon.json", ctid=EDITED)
    check = f"test_descendant_is_sound[{EDITED}]"
    waiver = f'check = "test_095_family.py::{check}"\nreason = "its team knows"\nuntil = 2999-12-31\n'
    (tmp_path / "waivers.toml").write_text(f"[[waiver]]\n{waiver}")
    run = lab.build(*STAND_IN, "--family", "-o", f"waivers={tmp_path}/waivers.toml")
    assert (run.failed(), rows(run)[EDITED]["verdict"]) == (set(), "broken")
    assert "its team knows" in run.checks()[check]
    says(run, "files /etc/docker/daemon.json", "fix in this order", f"1. {EDITED}: undo the change")
    lab.node("sh", "-ec", MOVE)
    try:
        run = lab.build(*STAND_IN, "--family")
    finally:
        lab.node("mv", "/usr/bin/nvidia-smi.kept", "/usr/bin/nvidia-smi")
    assert run.failed() == {f"test_descendant_is_sound[{number}]" for number in FAMILY}
    assert run.report.index('<h2 id="family">') < run.report.index('<h2 id="failures">')
    steps = [step.partition(":")[0] for step in record(run).family["order"]]
    assert steps == ["903", "920", *map(str, FAMILY)]
    assert "its NVIDIA libraries are 580.76.05, the node's driver is 590.48.01" in rows(run)[OFF]["why"]


@pytest.mark.usefixtures("family")
def test_what_did_not_come_back_after_a_restart_of_the_node_is_named(lab: Lab) -> None:
    """First nobody makes nvidia-uvm before guests start, then it is made, with another number."""
    lab.node("sh", "-ec", ONBOOT, "sh", str(RAW), "931", str(RAW))
    with restarted_again(lab):
        for uvm, verdicts in (("", {931: "has onboot: 1, but is off", RAW: "it has no /dev/nvidia-uvm"}),
                              ("511", {RAW: "c 238:* rwm in its configuration, but nvidia-uvm is 511"})):  # fmt: skip
            lab.machine.power_off()
            up(lab.machine)
            lab.node("sh", "-c", BOOT, "sh", uvm, seconds=180)
            run = lab.build(*STAND_IN, "--family")
            assert run.failed() == {f"test_descendant_is_sound[{number}]" for number in verdicts}
            assert not {number for number, why in verdicts.items() if why not in rows(run)[number]["why"]}
        assert rows(run)[931]["verdict"] == "sound"
        assert {row["verdict"] for number, row in rows(run).items() if number not in (931, RAW)} == {"not known"}
