"""The lab from the command line: `python3 -m lab up | down | status | reset | exec COMMAND ...`."""

from __future__ import annotations

import argparse
import os
import sys

from lab import rootfs, vllm
from lab.errors import LabError
from lab.gpu.install import compiled
from lab.machine import Machine

# SIMULATED, as its answers say
DRIVER_TOOLS = """cp "$1"/nvidia-smi /usr/bin/nvidia-smi
ln -sf "$1"/libnvidia-ml.so.* /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"""


def up(machine: Machine) -> None:
    """Start the node with everything a build needs, and container 903 on it."""
    archive, made = rootfs.parent(), vllm.made()
    machine.power_on()
    machine.serve_registry(made / "registry")
    machine.run("sh", "-c", DRIVER_TOOLS, "sh", str(compiled()))
    print("lab: making container 903, if it is not there", file=sys.stderr)
    machine.run(
        "env",
        "PYTHONPATH=/usr/share/pve-lab",
        "PYTHONDONTWRITEBYTECODE=1",
        "python3",
        "-m",
        "lab.parent",
        str(archive),
        str(made / "model"),
        seconds=600,
    )
    print(f"lab: {machine.name} is up; run a command on it: {machine.shim} pct list")


def main() -> int:
    """Do what the command line says; one clear line and 1 if it can't be done."""
    parser = argparse.ArgumentParser(prog="lab", description="A Proxmox-like node on this machine.")
    parser.add_argument("--name", default="pve-lab", help="name of the node, if there are to be several")
    parser.add_argument("verb", choices=("up", "down", "status", "reset", "exec"))
    parser.add_argument("command", nargs=argparse.REMAINDER, help="for exec: what to run on the node")
    words = parser.parse_args()
    machine = Machine(words.name)
    if os.geteuid() != 0:
        print("lab: needs root, for namespaces, mounts and containers", file=sys.stderr)
        return 1
    try:
        return _do(machine, words.verb, words.command)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def _do(machine: Machine, verb: str, command: list[str]) -> int:
    if verb == "exec":
        if not machine.pid():
            raise LabError("the lab is not up; start it with `make lab-up`")
        os.execv(machine.shim, [str(machine.shim), *command])
    if verb == "status":
        print(f"{machine.name}: {'up' if machine.pid() else 'down'}, disk {machine.pool}")
        return 0 if machine.pid() else 3
    with machine.lock():
        match verb:
            case "up":
                up(machine)
            case "down":
                machine.erase()
            case "reset":
                machine.erase()
                up(machine)
    return 0


if __name__ == "__main__":
    sys.exit(main())
