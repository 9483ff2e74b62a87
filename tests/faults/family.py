"""Faults of the family: of what the node keeps of its generations, and of a container that descends from one."""

from __future__ import annotations

from tests.faults.fault import Fault, Ground, node
from tests.lab.harness import SNAPSHOT

JOURNAL = "/var/lib/phoenix-920/generations/920/99.json"
COPY = f"pct clone 920 931 --snapname {SNAPSHOT} --full 1"

FAULTS = (
    Fault(
        "family-journal",
        "a file in the journal of generations is no generation",
        "family",
        ("test_family_is_known",),
        node(f"echo {{ > {JOURNAL}", f"rm -f {JOURNAL}"),
        ("99.json is no generation",),
        words=("--family",),
        ground=Ground.ACCEPTED,
        quick=True,
    ),
    Fault(
        "family-without-record",
        "a clone's description names a generation, and it carries no record of one",
        "family",
        ("test_descendant_is_sound[931]",),
        node(f"{COPY}; rm /lxc-disks/subvol-931-disk-0/etc/phoenix/manifest.json", "pct destroy 931"),
        ("has no record of one in /etc/phoenix", "fix in this order"),
        words=("--family",),
        ground=Ground.ACCEPTED,
    ),
)
