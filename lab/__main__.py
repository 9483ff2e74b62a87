"""The lab from the command line: `python3 -m lab up | down | status | reset | exec COMMAND ...`."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path

from lab import rootfs, vllm
from lab.errors import LabError
from lab.gpu import host
from lab.gpu.install import compiled
from lab.machine import CHECKOUT, Machine

# SIMULATED, as its answers say
DRIVER_TOOLS = """cp "$1"/nvidia-smi /usr/bin/nvidia-smi
ln -sf "$1"/libnvidia-ml.so.* /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"""


def up(machine: Machine, gpus: str = "simulated", *, take_over: bool = False, parent: Path | None = None) -> None:
    """Start the node with everything a build needs, and container 903 on it.

    Args:
        machine: The node.
        gpus: "simulated", or "host" for this machine's own.
        take_over: Whether to restart a node that another checkout has started.
        parent: Another root file system for container 903 than Debian's.
    """
    declared = json.loads((CHECKOUT / "lab/phoenix_lxc_configs.json").read_text())
    if gpus == "host":
        declared = host.declaration(declared)
    archive, made = parent or rootfs.parent(), vllm.made(gpus)
    machine.power_on(gpus, take_over=take_over)
    machine.serve_registry(made / "registry")
    if gpus == "simulated":
        machine.run("sh", "-c", DRIVER_TOOLS, "sh", str(compiled()))
    print("lab: creating container 903 if it does not exist", file=sys.stderr)
    machine.run(
        "env",
        "PYTHONPATH=/usr/share/pve-lab",
        "PYTHONDONTWRITEBYTECODE=1",
        "python3",
        "-m",
        "lab.parent",
        str(archive),
        str(made / "model"),
        json.dumps(declared["lxc_configs"]["903"]),
        gpus,
        seconds=600,
    )
    if gpus == "host":
        file, options = machine.state / "phoenix_lxc_configs.json", machine.state / "options"
        file.write_text(host.text(declared))
        options.write_text(host.options(machine.name, file))
        print(f"lab: to use this machine's GPUs: venv/bin/pytest tests_920 @{options}", file=sys.stderr)
    print(f"lab: {machine.name} is up; run a command on it: {machine.shim} pct list")


def _name(text: str) -> str:
    """The name of a node, which becomes a folder that `down` removes."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a node: small letters, digits and dashes")
    return text


def main() -> int:
    """Do what the command line says; one clear line and 1 if it can't be done."""
    parser = argparse.ArgumentParser(prog="lab", description="A Proxmox-like node on this machine.")
    parser.add_argument("--name", type=_name, default="pve-lab", help="name of the node, if there are to be several")
    parser.add_argument("--gpu", choices=("simulated", "host"), default="simulated", help="whose GPUs containers get")
    parser.add_argument("--take-over", action="store_true", help="restart a node that another checkout has started")
    parser.add_argument(
        "verb", choices=("up", "down", "status", "reset", "exec"), help="exec COMMAND ... runs it there"
    )
    given = sys.argv[1:]
    end = given.index("exec") + 1 if "exec" in given else len(given)
    words, command = parser.parse_args(given[:end]), given[end:]
    machine = Machine(words.name)
    if os.geteuid() != 0:
        print("lab: needs root, for namespaces, mounts and containers", file=sys.stderr)
        return 1
    try:
        return _do(machine, words.verb, command, words.gpu, take_over=words.take_over)
    except (LabError, OSError) as error:
        why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error
        print(f"lab: {why}", file=sys.stderr)
        return 1


def _do(machine: Machine, verb: str, command: list[str], gpus: str, *, take_over: bool) -> int:
    if verb == "exec":
        if not machine.pid():
            raise LabError(f"{machine.name} is not up; start it with `python3 -m lab --name {machine.name} up`")
        os.execv(machine.shim, [str(machine.shim), *command])
    if verb == "status":
        print(f"{machine.name}: {'up' if machine.pid() else 'down'}, disk {machine.pool}")
        return 0 if machine.pid() else 3
    with machine.lock():
        match verb:
            case "up":
                up(machine, gpus, take_over=take_over)
            case "down":
                machine.erase()
            case "reset":
                machine.erase()
                up(machine, gpus)
    return 0


if __name__ == "__main__":
    sys.exit(main())
