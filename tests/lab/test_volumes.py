"""A parent with a volume of its own for Docker's data, as many have: the template and its clones have one too.

One template, of the stand-in for vLLM; the volumes, their snapshots and copies are real.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab import vllm
from lab.__main__ import up
from tests.lab.harness import SNAPSHOT, Lab, Run

pytestmark = pytest.mark.lab
STAND_IN = ("-o", "vllm_image=vllm/vllm-openai:stand-in")
PARENT_SNAPSHOT = "docker-gpu-snapshot"
MOUNT = "mp=/var/lib/docker,backup=0,size=8G"


@pytest.fixture(scope="module")
def parent(lab: Lab) -> Iterator[None]:
    """903 with a volume at /var/lib/docker, in its snapshot too; the lab's own 903 is made again afterwards."""
    lab.machine.serve_stand_in(vllm.made() / "registry")
    for words in (
        f"delsnapshot 903 {PARENT_SNAPSHOT}",
        "set 903 --mp0 lxc-disks:8,mp=/var/lib/docker,backup=0",
        f"snapshot 903 {PARENT_SNAPSHOT} --description two-volumes",
    ):
        lab.node("pct", *words.split())
    yield
    for ctid in lab.containers():
        lab.destroy(ctid)
    up(lab.machine)


@pytest.fixture(scope="module")
def built(lab: Lab, parent: None) -> Run:
    """A template that was built from nothing and tried by a clone."""
    return lab.build(*STAND_IN)


def volumes(lab: Lab) -> list[str]:
    """All volumes of the storage, and their snapshots before them."""
    return lab.node("sh", "-c", "ls -d /lxc-disks/subvol-* /lxc-disks/.snapshots/subvol-*").split()


def test_template_has_the_volumes_of_its_parent(lab: Lab, built: Run) -> None:
    assert (built.status, built.outcome) == (0, "built")
    assert f"\nmp0: lxc-disks:subvol-920-disk-1,{MOUNT}\n" in lab.node("cat", "/etc/pve/lxc/920.conf")
    assert lab.node("ls", "/lxc-disks/subvol-920-disk-1/overlay2")  # the image lies there
    assert volumes(lab) == [
        *(f"/lxc-disks/.snapshots/subvol-903-disk-{number}@{PARENT_SNAPSHOT}" for number in (0, 1)),
        *(f"/lxc-disks/.snapshots/subvol-920-disk-0@{SNAPSHOT}{end}" for end in ("", "-g1")),
        *(f"/lxc-disks/.snapshots/subvol-920-disk-1@{SNAPSHOT}{end}" for end in ("", "-g1")),
        *(f"/lxc-disks/subvol-{ctid}-disk-{number}" for ctid in (903, 920) for number in (0, 1)),
    ], "nothing of the throw-away clone"


def test_image_that_the_second_volume_has_lost_is_missed(lab: Lab, built: Run) -> None:
    assert lab.build("--verify").outcome == "verified"
    lab.forget_images()
    assert lab.build("--verify").failed() == {"test_image_is_as_recorded"}


def test_rebuild_replaces_both_volumes(lab: Lab, built: Run) -> None:
    before = volumes(lab)
    lab.inside("touch", "/root/old", "/var/lib/docker/old")
    run = lab.build(*STAND_IN, "--rebuild-clone")
    assert (run.status, run.outcome) == (0, "built")
    assert volumes(lab) == [each.replace("-g1", "-g2") for each in before]
    assert lab.inside("sh", "-c", "ls /root /var/lib/docker | grep -c old || true") == "0\n"
