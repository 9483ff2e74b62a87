"""Faults that a test injects into the node's commands; none without the file /etc/pve/lab-faults.

Each of its lines is `verb = what`, with `*` for every verb: `delay SECONDS`, `hang` (as long as the line
stands there; then it dies, as nobody ends a command that changes the node), `die`, `lie` (it
answers 0 and does nothing), `status random` (a refusal answers with 1, 2 or 255), or `sh LINE` (a shell
line that is run first: what somebody else does at that moment). `pvesh` means all of its calls, `pvesh-set`
and the like one kind.

Moments in the middle of a verb are named too. At `snapshot-half`, `clone-half` and `delsnapshot-half` the
configuration is written and the storage not yet asked; at `snapshot-stored`, `clone-copied` and
`delsnapshot-freed` the storage has done its part, and the configuration does not know of it; at
`snapshot-done` all is done.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time

from lab.pve import conf

FILE = "/etc/pve/lab-faults"


def _faults(*verbs: str) -> list[list[str]]:
    try:
        with open(FILE) as file:
            lines = [line.partition("=") for line in file if line.strip()]
    except FileNotFoundError:
        return []
    return [what.split() for name, _, what in lines if name.strip() in (*verbs, "*")]


def strike(*verbs: str) -> None:
    """Do to this call, under any of its names, what the file says."""
    for fault in _faults(*verbs):
        match fault:
            case ["delay", seconds]:
                time.sleep(float(seconds))
            case ["hang"]:
                while fault in _faults(*verbs):
                    time.sleep(0.1)
                os.kill(os.getpid(), signal.SIGKILL)
            case ["die"]:
                os.kill(os.getpid(), signal.SIGKILL)
            case ["lie"]:
                os._exit(0)
            case ["sh", *words]:
                line = f"{' '.join(words)}\n{conf.LIST}"
                subprocess.run(["sh", "-c", line], stdin=subprocess.DEVNULL, check=False, timeout=60)
            case ["status", "random"]:
                pass
            case _:  # a fault that is misspelt would make a test pass that tests nothing
                raise RuntimeError(f"{FILE}: no such fault: {verbs[-1]} = {' '.join(fault)}")


def status(verb: str, real: int) -> int:
    """The exit status of a refusal."""
    if ["status", "random"] in _faults(verb):
        return (1, 2, 255)[os.urandom(1)[0] % 3]
    return real
