"""A template on Ubuntu 24.04: Docker 29, containerd 2, runc 1.3, netplan with networkd, needrestart, AppArmor 4.

It needs Ubuntu's packages and the key that they are signed with (lab/rootfs.py); without these it is skipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import rootfs, vllm
from lab.__main__ import up
from lab.errors import LabError
from lab.machine import Machine
from tests.lab.harness import PARENT, STAND_IN, TOP, Lab

pytestmark = pytest.mark.lab

# The image store of containerd, which Docker 29 takes where it is installed anew.
CONTAINERD = f"""file={PARENT}/etc/docker/daemon.json
sed -i 's/"storage-driver": "overlay2"/"features": {{"containerd-snapshotter": true}}/' $file"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A node whose parent is Ubuntu's."""
    if not rootfs.KEYRING.exists():
        pytest.skip(f"{rootfs.KEYRING} is not there: without Ubuntu's key no Ubuntu can be made")
    try:
        archive = rootfs.ubuntu()
    except LabError as error:
        pytest.skip(f"Ubuntu's packages can't be had here: {str(error)[-200:]}")
    machine = Machine("pve-ubuntu")
    machine.erase()
    try:
        up(machine, parent=archive)
        machine.serve_stand_in(vllm.made() / "registry")
        yield Lab(machine, tmp_path_factory.mktemp("reports"))
    finally:
        machine.erase()


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """What the suite is called with: Ubuntu is declared, and the stand-in is served."""
    text = (TOP / "lab/phoenix_lxc_configs.json").read_text()
    document = json.loads(text.replace("debian-12-standard_12_amd64", "ubuntu-24.04-standard_24.04-2_amd64"))
    (tmp_path / "configs.json").write_text(json.dumps(document))
    return ["-o", f"lxc_configs={tmp_path}/configs.json", *STAND_IN]


def test_template_is_built_and_verified(lab: Lab, words: list[str]) -> None:
    """The parent holds no image, and Docker 29 then leaves the size of its images out."""
    assert lab.build(*words).outcome == "built"
    assert lab.build(*words, "--verify").outcome == "verified"
    assert lab.inside("systemctl", "is-system-running").strip() == "running"
    assert "routable" in lab.inside("networkctl", "--no-pager", "--no-legend")


def test_template_is_built_with_the_image_store_of_containerd(lab: Lab, words: list[str]) -> None:
    with lab.changed_parent(CONTAINERD):
        assert lab.build(*words, "--rebuild-clone").outcome == "built"
        assert lab.inside("docker", "info", "--format", "{{.Driver}}").strip() == "overlayfs"
        assert lab.build(*words, "--verify").outcome == "verified"
