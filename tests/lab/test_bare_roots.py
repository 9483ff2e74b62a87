"""The wheelhouse in bare systems: installed without a network, `--plan` on a node over ssh, and a user with sudo."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab import cache
from lab.rootfs import KEYRING
from lab.rootfs import UBUNTU as ARCHIVE
from tests.lab.harness import TOP, Lab

pytestmark = pytest.mark.lab

PACKAGES = "python3,openssh-client,socat,sudo"  # Python as the system has it, without pip and venv
UBUNTU = ("--components=main,universe", f"--keyring={KEYRING}")
SYSTEMS: dict[str, tuple[Any, ...]] = {  # options of mmdebstrap, suite, mirror if not Debian's
    "bookworm": ((), "bookworm"),
    "trixie": ((), "trixie"),
    "noble": (UBUNTU, "noble", ARCHIVE),
}
# Its own network has not even a loopback; what it changes is in memory, and gone with it.
ENTER = """
mount -t tmpfs tmpfs "$2" && mkdir "$2/up" "$2/work" "$2/root"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/up,workdir=$2/work" "$2/root"
mkdir -p "$2/root/srv" && mount --bind "$3" "$2/root/srv" && mount -t proc proc "$2/root/proc"
exec chroot "$2/root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root bash -euc "$4"
"""
INSTALL = "tar -xf /srv/house.tar -C /tmp && time /tmp/phoenix-920-*/install /opt/phoenix-920 && cd /tmp"
PLAN = "PATH=/srv:$PATH /opt/phoenix-920/bin/phoenix-920 --plan --node {}"
# A stand-in of `pct` where Proxmox VE has it, so that this is a node; a user who may use sudo.
AS_USER = """
printf '#!/bin/sh\\nid -u\\n' > /usr/sbin/pct; chmod 755 /usr/sbin/pct
useradd --create-home user; echo 'user ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/user
su user -c 'cd; /opt/phoenix-920/bin/phoenix-920 --plan' || echo "without sudo: $?"
su user -c 'cd; sudo /opt/phoenix-920/bin/phoenix-920 --plan' || echo "with sudo: $?"
su user -c 'cd; /opt/phoenix-920/bin/phoenix-920 --collect-only -q' | tail -n 1
"""
DOCTOR = """
cp -r /srv/checkout / && cd /checkout
python3 -m lab.doctor || echo "doctor of root: $?"
su user -c 'python3 -m lab.doctor' || echo "doctor of a user: $?"
"""


def root(name: str) -> Path:
    if name == "noble" and not KEYRING.exists():
        pytest.skip(f"{KEYRING} is not there: without Ubuntu's key no Ubuntu can be made (package ubuntu-keyring)")

    def build(folder: Path) -> None:
        options, suite, *mirror = SYSTEMS[name]
        make = ["unshare", "--mount", "mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", *options]
        command = [*make, suite, str(folder / "root"), *mirror]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
        if done.returncode and name == "noble":
            pytest.skip(f"Ubuntu's packages can't be had here: {done.stderr.strip()[-200:]}")
        assert done.returncode == 0, done.stderr

    return cache.built(f"bare-{name}", f"{PACKAGES} {SYSTEMS[name]}", build) / "root"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("house")
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run([TOP / ".ci/wheelhouse", folder], env=env, check=True, capture_output=True, timeout=300)
    (made,) = folder.glob("*.tar")
    return made


@pytest.fixture
def house(made: Path, tmp_path: Path) -> Path:
    """The folder that a system sees."""
    folder = tmp_path / "house"
    folder.mkdir()
    (folder / "house.tar").hardlink_to(made)
    shutil.copytree(TOP / "lab", folder / "checkout/lab")
    return folder


@contextmanager
def door(lab: Lab, house: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The node's ssh server as a socket in a folder, which a system without a network can see; its client beside it."""
    with lab.ssh(house, monkeypatch) as node:
        server = f"EXEC:{lab.machine.shim} socat STDIO TCP\\:127.0.0.1\\:22"
        process = subprocess.Popen(["socat", f"UNIX-LISTEN:{house}/door,fork", server])
        try:
            (house / "config").write_text(
                f"Host {lab.machine.name}\n IdentityFile /srv/key\n UserKnownHostsFile /tmp/known\n"
                " StrictHostKeyChecking accept-new\n ProxyCommand socat STDIO UNIX:/srv/door\n"
            )
            (house / "ssh").write_text('#!/bin/sh\nexec /usr/bin/ssh -F /srv/config "$@"\n')
            yield node
        finally:
            process.terminate()
            process.wait(timeout=20)
            (house / "door").unlink(missing_ok=True)


@pytest.mark.parametrize("name", SYSTEMS)
def test_wheelhouse_installs_and_plans_over_ssh(
    name: str, lab: Lab, house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower, memory = root(name), tmp_path / "memory"
    memory.mkdir()
    with door(lab, house, monkeypatch) as node:
        script = "\n".join([INSTALL, PLAN.format(node), AS_USER, DOCTOR])
        command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "bash", "-euc", ENTER, "bash"]
        done = subprocess.run(
            [*command, lower, memory, house, script], capture_output=True, text=True, check=False, timeout=300
        )
    said = done.stdout + done.stderr
    print(said)
    assert done.returncode == 0, said
    assert "to build" in said
    assert "makes 920, a full clone of 903@docker-gpu-snapshot" in said
    without, _, rest = said.partition("without sudo: 4")
    assert "must run as root, as `pct` does: put sudo before the command" in without + rest
    assert "with sudo: 4" in said
    assert "can't query the node: `cat /etc/pve/.members " in said, "as root it is asked"
    assert "tests collected" in said
    root_s, _, user_s = said.rpartition("tests collected")[2].partition("doctor of root: 1")
    assert "add it:  apt-get install git make" in root_s
    assert "missing: root" not in root_s
    assert "add it:  sudo apt-get install git make" in user_s
    assert "missing: root, for namespaces, mounts and containers\n       add it:  sudo make accept" in user_s
