"""What a fault is: how it is put and undone, where the suite must find it, and which checks must fail.

The faults themselves are data, in one module for each part of the build; `catalogue` has all of them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from tests.lab.harness import TOP, Lab

Words = Sequence[str]
Put = Callable[[Lab], AbstractContextManager[Words]]  # gives further words of the command line

COMMAND_LINE = "command line"  # in the place of a stage: the run is refused before its first check
ROOT = "/lxc-disks/subvol-920-disk-0"  # of 920, as the node sees it


class Ground(Enum):
    """What there is of 920 before a fault is put."""

    NONE = "no 920"
    CLONE = "920 cloned and running, the image in it, not sealed"
    SEALED = "920 sealed, not yet accepted"
    ACCEPTED = "920 sealed and accepted"


@dataclass(frozen=True)
class Fault:
    """Something that is wrong, and where the suite must find it.

    Attributes:
        name: What it is called on the command line.
        what: What is wrong, for the table.
        stage: The stage that must fail.
        failed: The checks that must fail, and no others; NAME[gpu] stands for one of each GPU. None: the build
            has to be green all the same.
        put: Makes it so, and undoes it; gives further words of the command line.
        said: What the terminal must say.
        words: Words of the command line.
        ground: What there is of 920 before.
        outcome: The word for what came of the run.
        seals: Whether it strikes after the snapshot: that is there then, but does not count as done.
        clones: Whether a clone of the snapshot is tried too.
        simulated: Whether it is a fault of a GPU, which the lab only simulates.
        diagnosis: Id of the diagnosis that must be among those given; empty for none.
        paired: Why its checks can't fail one by one; empty if some other fault shows that they can.
        quick: Whether `make test` runs it too: one for each stage.
    """

    name: str
    what: str
    stage: str
    failed: tuple[str, ...]
    put: Put
    said: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    ground: Ground = Ground.CLONE
    outcome: str = "failed"
    seals: bool = False
    clones: bool = False
    simulated: bool = False
    diagnosis: str = ""
    paired: str = ""
    quick: bool = False

    def checks(self, gpus: Sequence[int] = (0, 1)) -> set[str]:
        """The checks that must fail, one for each GPU where it is one of each."""
        names = [(name, name.removesuffix("[gpu]")) for name in self.failed]
        return {
            each
            for name, bare in names
            for each in ([name] if name == bare else [f"{bare}[gpu{index}]" for index in gpus])
        }


# --- ways to put a fault ------------------------------------------------------------------------------


@contextmanager
def _nothing(_: Lab) -> Iterator[Words]:
    yield ()


def setting() -> Put:
    """Nothing has to be done: the words of the command line are the fault."""
    return _nothing


def node(put: str, undo: str) -> Put:
    """Shell lines on the node."""

    @contextmanager
    def fault(lab: Lab) -> Iterator[Words]:
        lab.node("sh", "-ec", put)
        try:
            yield ()
        finally:
            lab.node("sh", "-c", f"{undo}\ntrue")  # a run that did not come so far has left less to undo

    return fault


def inside(put: str, undo: str) -> Put:
    """Shell lines in 920."""

    @contextmanager
    def fault(lab: Lab) -> Iterator[Words]:
        lab.inside("sh", "-ec", put)
        try:
            yield ()
        finally:
            lab.inside("sh", "-c", f"{undo}\ntrue")

    return fault


def edited(path: str, script: str) -> Put:
    """A file of the node, changed by sed."""
    return node(f"cp -a {path} {path}.kept && sed -i -E '{script}' {path}", f"mv {path}.kept {path}")


def conf(ctid: int, script: str) -> Put:
    """The configuration of a container, changed by sed; what stands in /etc/pve/lxc beside it would be listed."""
    path, kept = f"/etc/pve/lxc/{ctid}.conf", f"/root/{ctid}.kept"
    return node(f"cp {path} {kept} && sed -i -E '{script}' {path}", f"cp {kept} {path}")


def command(*lines: str) -> Put:
    """A fault of the node's commands; see lab/pve/faults.py."""

    @contextmanager
    def fault(lab: Lab) -> Iterator[Words]:
        with lab.fault(*lines):
            yield ()

    return fault


def cut(verb: str) -> Put:
    """The node is reached over ssh, which is cut while one of the node's commands runs."""

    @contextmanager
    def fault(lab: Lab) -> Iterator[Words]:
        with (
            tempfile.TemporaryDirectory() as folder,
            pytest.MonkeyPatch.context() as patch,
            lab.ssh(Path(folder), patch) as address,
            lab.fault(f"{verb} = sh pkill dropbear"),
        ):
            yield ("--node", address)

    return fault


def parent(script: str) -> Put:
    """A fault of the parent's snapshot, by a shell line in its root; 920 has to be cloned from it."""

    @contextmanager
    def fault(lab: Lab) -> Iterator[Words]:
        with lab.changed_parent(script):
            yield ()
        lab.destroy()

    return fault


def docker(case: str) -> Put:
    """A `docker` that stands before the real one in 920.

    Args:
        case: A branch of sh's `case "$*"`; where it ends with `exec` or `exit`, the real one is not called.
    """
    path = "/usr/local/sbin/docker"
    text = f'#!/bin/sh\ncase "$*" in\n{case}\nesac\nexec /usr/bin/docker "$@"'
    return inside(f"cat > {path} <<\\EOF\n{text}\nEOF\nchmod 755 {path}", f"rm -f {path} /run/second")


def docker_daemon(change: str) -> Put:
    """Other settings of Docker's daemon, by a line of Python that changes `settings`."""
    path = "/etc/docker/daemon.json"
    script = f"import json; settings = json.load(open('{path}')); {change}; json.dump(settings, open('{path}', 'w'))"
    restart = "systemctl reset-failed docker; systemctl restart docker"
    return inside(
        f'cp {path} /root/kept.json; python3 -c "{script}"; {restart}', f"mv /root/kept.json {path}; {restart}"
    )


def declared(**changed: Any) -> Put:
    """Another declaration of 920."""

    @contextmanager
    def fault(_: Lab) -> Iterator[Words]:
        declaration = json.loads((TOP / "lab/phoenix_lxc_configs.json").read_text())
        declaration["lxc_configs"]["920"].update(changed)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "phoenix_lxc_configs.json")
            path.write_text(json.dumps(declaration))
            yield ("-o", f"lxc_configs={path}")

    return fault


def stand_in(fault: str) -> tuple[str, ...]:
    """Words with which the stand-in for vLLM fails as asked (lab/stand_in/server.py)."""
    return ("-o", f"server_env=STAND_IN={fault}")


def both(*puts: Put) -> Put:
    """Several at once; undone in reverse order."""

    @contextmanager
    def fault(lab: Lab) -> Iterator[Words]:
        with ExitStack() as stack:
            yield [word for put in puts for word in stack.enter_context(put(lab))]

    return fault
