"""What `--verify` compares inside 920, as testinfra would be told to: MANIFEST is what was sealed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from testinfra.host import Host

MANIFEST = json.loads(Path(os.environ["MANIFEST"]).read_text())
TEMPLATE, AROUND = MANIFEST["template"], MANIFEST["around"]


def test_packages(host: Host) -> None:
    """Each package has the version that was sealed."""
    for name, version in MANIFEST["packages"].items():
        assert host.package(name).version == version


@pytest.mark.parametrize("files", [TEMPLATE["files"], TEMPLATE["model"]["files"]], ids=["files", "model"])
def test_files(host: Host, files: dict[str, str]) -> None:
    """Each file is the one that was sealed."""
    folder = TEMPLATE["model"]["folder"] if files is TEMPLATE["model"]["files"] else "/"
    for name, digest in files.items():
        assert host.file(os.path.join(folder, name)).sha256sum == digest  # noqa: PTH118


def test_image(host: Host) -> None:
    """The image is the one that was proved."""
    image = TEMPLATE["image"]
    assert host.check_output("docker image inspect --format '{{.Id}}' %s", image["name"]).strip() == image["id"]


def test_software(host: Host) -> None:
    """Docker's version, NVIDIA's toolkit."""
    assert host.check_output("docker version --format '{{.Server.Version}}'").strip() == TEMPLATE["software"]["docker"]
    assert TEMPLATE["software"]["toolkit"] in host.check_output("nvidia-ctk --version")


def test_record_is_carried(host: Host) -> None:
    """The record is there."""
    assert host.file("/etc/phoenix/manifest.json").sha256sum
    assert host.file("/etc/phoenix/record.json").sha256sum


def test_surroundings(host: Host) -> None:
    """Kernel, driver and GPUs are those of the proof."""
    assert host.check_output("uname -r").strip() == AROUND["kernel"]
    listed = host.check_output("nvidia-smi --query-gpu=driver_version,uuid --format=csv,noheader").splitlines()
    assert len(listed) == len(AROUND["gpus"])
