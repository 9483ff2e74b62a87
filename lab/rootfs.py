"""Root file systems, made from Debian's packages by mmdebstrap."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lab import cache
from lab.command import execute

SUITE = "bookworm"
PARENT_PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "docker.io", "apparmor", "iptables", "openssh-server", "iproute2"),
    *("procps", "curl", "ca-certificates", "python3", "lsb-release"),
)
# What no check looks at, left out as Debian's own container images do (dpkg.cfg, path-exclude).
LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")


def debian(path: Path, packages: Sequence[str], hooks: Sequence[str] = ()) -> None:
    """Make a minimal Debian.

    Args:
        path: The archive or folder to make; its ending says which.
        packages: What it has beyond the minimum.
        hooks: Shell lines that are run at the end, with the root file system as $1.

    Raises:
        LabError: mmdebstrap failed.
    """
    options = [
        *("--variant=minbase", f"--include={','.join(packages)}", "--aptopt=APT::Install-Recommends false"),
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
        *(f"--customize-hook={hook}" for hook in hooks),
        "--quiet",
    ]
    execute(["mmdebstrap", *options, SUITE, str(path)], seconds=1800)


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
