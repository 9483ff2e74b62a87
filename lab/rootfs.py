"""Root file systems, made from Debian's packages by mmdebstrap."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lab import cache
from lab.command import execute

SUITE = "bookworm"
PARENT_PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "docker.io", "apparmor", "iptables", "openssh-server", "iproute2"),
    *("procps", "curl", "ca-certificates", "python3", "lsb-release"),
)
# Ubuntu 24.04 as people have it in a container: with netplan, needrestart and unattended-upgrades.
UBUNTU_PACKAGES = (*PARENT_PACKAGES, "systemd-resolved", "netplan.io", "needrestart", "unattended-upgrades", "sudo")
UBUNTU = "http://archive.ubuntu.com/ubuntu"
# of the package ubuntu-keyring; without it nothing of Ubuntu is made
KEYRING = Path(os.environ.get("PHOENIX_UBUNTU_KEYRING") or "/usr/share/keyrings/ubuntu-archive-keyring.gpg")
# What no check looks at, left out as Debian's own container images do (dpkg.cfg, path-exclude).
LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")


def debian(path: Path, packages: Sequence[str], hooks: Sequence[str] = (), source: Sequence[str] = (SUITE,)) -> None:
    """Make a minimal Debian, or Ubuntu.

    Args:
        path: The archive or folder to make; its ending says which.
        packages: What it has beyond the minimum.
        hooks: Shell lines that are run at the end, with the root file system as $1.
        source: The suite and, if they are not Debian's, the lines of sources.list.

    Raises:
        LabError: mmdebstrap failed.
    """
    options = [
        *("--variant=minbase", f"--include={','.join(packages)}", "--aptopt=APT::Install-Recommends false"),
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
        *(f"--customize-hook={hook}" for hook in hooks),
        "--quiet",
    ]
    suite, *lines = source
    execute(["mmdebstrap", *options, suite, str(path), *lines], seconds=1800)


def parent() -> Path:
    """The root file system of container 903, as a tar archive."""
    # Proxmox configures the network itself; networkd would wait two minutes for one of its own.
    unwanted = "systemd-networkd.service systemd-networkd-wait-online.service systemd-networkd.socket"
    hooks = [
        f'chroot "$1" systemctl mask --quiet {unwanted}',
        'truncate -s 0 "$1/etc/machine-id"',
        'rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin',
    ]
    recipe = f"{SUITE} {PARENT_PACKAGES} {LEFT_OUT} {hooks}"
    return (
        cache.built("parent", recipe, lambda folder: debian(folder / "rootfs.tar", PARENT_PACKAGES, hooks))
        / "rootfs.tar"
    )


def ubuntu() -> Path:
    """The root file system of a parent with Ubuntu 24.04, its updates included, as a tar archive.

    Raises:
        LabError: Ubuntu's packages can't be had here.
    """
    suites = ("noble", "noble-updates")
    source = ("noble", *(f"deb [signed-by={KEYRING}] {UBUNTU} {suite} main universe" for suite in suites))
    hooks = ['truncate -s 0 "$1/etc/machine-id"', 'rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin']

    def build(folder: Path) -> None:
        debian(folder / "rootfs.tar", UBUNTU_PACKAGES, hooks, source)

    return cache.built("parent-ubuntu", f"{source} {UBUNTU_PACKAGES} {LEFT_OUT} {hooks}", build) / "rootfs.tar"
