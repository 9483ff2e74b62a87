"""`pveversion`; says that the node is a lab, so that nobody takes it for a real one."""

from __future__ import annotations

import os
import sys

VERSION = "9.0.3"


def text() -> str:
    """The one line of `pveversion`."""
    return f"pve-manager/{VERSION}/lab (running kernel: {os.uname().release})"


def main(argv: list[str]) -> int:
    """Print the version, or with -v those of the packages that make the node."""
    if argv not in ([], ["-v"], ["--verbose"]):
        print("USAGE: pveversion [--verbose]", file=sys.stderr)
        return 255
    print(text() if not argv else f"proxmox-ve: {VERSION} (lab)\npve-manager: {VERSION} (lab)")
    return 0
