"""What a call of the real commands takes: they are Perl programs that load all of Proxmox VE.

The lab's own answer in a thirtieth of that, which hides what a build pays on a real node. With the file
/run/lab-cost each call burns as much CPU as that file says, a line `PROGRAM SECONDS` each, and is noted in
/run/lab-calls. Without it nothing is burnt or noted.
"""

from __future__ import annotations

import contextlib
import time

FILE, CALLS = "/run/lab-cost", "/run/lab-calls"
REAL = {"pct": 0.8, "pvesh": 0.8, "pvesm": 0.5}  # seconds, on the real code (PVE 9 on ZFS)


def take(program: str, argv: list[str]) -> None:
    """Let this call cost what it is to cost."""
    with contextlib.suppress(FileNotFoundError), open(FILE) as file:
        costs = dict(line.split() for line in file)
        with open(CALLS, "a") as calls:
            calls.write(" ".join((program, *argv)).replace("\n", " ") + "\n")
        while time.process_time() < float(costs.get(program, 0)):
            pass
