"""A family for real, in the lab: clones of two generations; one was edited, one is off, and then the driver moves."""

from __future__ import annotations

import json

import pytest

from fixtures.record.model import Record, from_json
from tests.lab.harness import SNAPSHOT, STAND_IN, Lab, Run, says

pytestmark = pytest.mark.lab

WORDS = (*STAND_IN, "--no-clone")
FAMILY = range(931, 941)  # the first five are of generation 1
EDITED, OFF, COPY = 933, 938, 941
# What the node's nvidia-smi says is the only driver that there is in a lab
MOVE = """mv /usr/bin/nvidia-smi /usr/bin/nvidia-smi.kept
printf '#!/bin/sh\\n/usr/bin/nvidia-smi.kept "$@" | sed s/580.76.05/590.48.01/\\n' > /usr/bin/nvidia-smi
chmod 755 /usr/bin/nvidia-smi"""
LIGHT = """pct clone 920 "$1" --snapname "$2" --full 1 --hostname "member$1"
pct set "$1" --net0 "name=eth0,bridge=vmbr0,ip=10.0.0.$(( $1 - 900 + 100 ))/24,gw=10.0.0.1" --memory 1024
[ "$3" = off ] || pct start "$1\""""
UP = "for i in $(seq 300); do pct exec $1 -- docker version >/dev/null 2>&1 && exit 0; sleep 0.2; done; exit 1"


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
def test_family_is_named_with_its_generations(lab: Lab) -> None:
    run = lab.build(*STAND_IN, "--family")
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
    assert run.seconds < 10


@pytest.mark.usefixtures("family")
def test_nothing_is_changed_and_no_lock_is_left(lab: Lab) -> None:
    before = lab.node("sh", "-c", "cat /etc/pve/lxc/*.conf; pct list; mount | sort")
    lab.build(*STAND_IN, "--family")
    assert lab.node("sh", "-c", "cat /etc/pve/lxc/*.conf; pct list; mount | sort") == before


@pytest.mark.usefixtures("family")
def test_edited_and_moved_are_named_with_the_order_of_fixing(lab: Lab) -> None:
    lab.inside("sh", "-c", "echo '{}' > /etc/docker/daemon.json", ctid=EDITED)
    run = lab.build(*STAND_IN, "--family")
    assert run.failed() == {f"test_descendant_is_sound[{EDITED}]"}
    says(run, "files /etc/docker/daemon.json", "fix in this order", f"1. {EDITED}: undo the change")
    lab.node("sh", "-ec", MOVE)
    try:
        run = lab.build(*STAND_IN, "--family")
    finally:
        lab.node("mv", "/usr/bin/nvidia-smi.kept", "/usr/bin/nvidia-smi")
    assert run.failed() == {f"test_descendant_is_sound[{number}]" for number in FAMILY}
    steps = [step.partition(":")[0] for step in record(run).family["order"]]
    assert steps == ["903", "920", *map(str, FAMILY)]
    assert "its NVIDIA libraries are 580.76.05, the node's driver is 590.48.01" in rows(run)[OFF]["why"]


@pytest.mark.usefixtures("family")
def test_page_and_terminal_begin_with_one_table(lab: Lab) -> None:
    run = lab.build(*STAND_IN, "--family")
    assert run.output.index("931 member931") < run.output.index("family  ")
    assert run.report.index('<h2 id="family">') < run.report.index('<h2 id="failures">')
    commands = [json.loads(line) for line in (run.folder / "commands.jsonl").read_text().splitlines()]
    assert (
        max(sum(each["where"].endswith(f"ct{number}") for each in commands) for number in FAMILY if number != 934) == 1
    )
