"""The lab node that is measured on, and the template on it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench import calls
from bench.relay import relay
from bench.timing import PYTEST, Timed, timed
from lab.pve import cost
from tests.lab.harness import SNAPSHOT, STAND_IN, Lab

DROPBEAR = """mkdir -p -m 700 /root/.ssh && printf '%s\n' "$1" > /root/.ssh/authorized_keys
[ -e /root/host_key ] || dropbearkey -t ed25519 -f /root/host_key >/dev/null 2>&1
dropbear -s -r /root/host_key -p 127.0.0.1:22 -P /run/dropbear.pid"""
KEY = "mkdir -p -m 700 /root/.ssh && cat > /root/.ssh/authorized_keys"


@dataclass(frozen=True)
class Far:
    """The node as it is reached over ssh.

    Attributes:
        node: For `--node`.
        template: For testinfra and Serverspec: the container's own sshd.
        config: For ssh.
        path: PATH, with an ssh in it that reads that.
    """

    node: str
    template: str
    config: Path
    path: str


class Place:
    """A lab node, and how often each figure is measured.

    Attributes:
        lab: The node.
        folder: For what is needed meanwhile.
        runs: How often.
    """

    def __init__(self, lab: Lab, folder: Path, runs: int) -> None:
        self.lab, self.folder, self.runs = lab, folder, runs

    @property
    def name(self) -> str:
        """The node's name."""
        return self.lab.machine.name

    def argv(self, *words: str, node: str = "") -> list[str]:
        """The command that runs the suite on the node."""
        reports = f"--override-ini=report_folder={self.lab.reports}"
        return [*PYTEST, "tests_920", "@lab/options", f"--node={node or f'lab:{self.name}'}", reports, "-q", *words]

    def suite(self, *words: str, node: str = "", path: str = "", deadline: float = 600) -> Timed:
        """Run the suite on the node.

        Args:
            words: More for its command line.
            node: Another way to the node.
            path: Another PATH.
            deadline: Seconds.

        Raises:
            BenchError: It did not end with 0.
        """
        return timed(self.argv(*words, node=node), {"PATH": path} if path else None, deadline=deadline)

    @contextlib.contextmanager
    def real_cost(self) -> Iterator[None]:
        """Let each call of pct, pvesh and pvesm take what the real ones take, and note it."""
        lines = [f"{program} {seconds}" for program, seconds in cost.REAL.items()]
        self.lab.node("sh", "-c", f'rm -f {cost.CALLS}; printf "%s\\n" "$@" > {cost.FILE}', "sh", *lines)
        try:
            yield
        finally:
            self.lab.node("rm", "-f", cost.FILE)

    def calls(self) -> calls.Calls:
        """The calls since this was last asked."""
        noted = self.lab.node("sh", "-c", f"[ ! -e {cost.CALLS} ] || {{ cat {cost.CALLS}; rm {cost.CALLS}; }}")
        return calls.of(noted.splitlines())

    @property
    def last(self) -> Path:
        """The folder of the last run's report."""
        return (self.lab.reports / "latest").resolve()

    @cached_property
    def template(self) -> str:
        """The template, built with the stand-in if it is not there; sha256 of its manifest.

        Raises:
            BenchError: It could not be built.
        """
        return self._template("--no-clone", *STAND_IN, stand_in=True)

    @cached_property
    def whole_template(self) -> str:
        """The same with vLLM itself.

        Raises:
            BenchError: It could not be built.
        """
        return self._template("--no-clone", stand_in=False)

    def _template(self, *words: str, stand_in: bool) -> str:
        if " accepted " not in self._described() or ("stand-in" in self._manifest()) is not stand_in:
            self.forget_template()
            self.suite(*words, deadline=1200)
        self.lab.node("sh", "-c", "pct status 920 | grep -q running || pct start 920")
        return self._digest()

    def _digest(self) -> str:
        return self._described().partition("manifest sha256:")[2][:64]

    def _manifest(self) -> str:
        return self.lab.node("cat", f"/var/lib/phoenix-920/records/{self._digest()}/manifest.json")

    def _described(self) -> str:
        return str(self.lab.snapshots().get(SNAPSHOT, {}).get("description", ""))

    def forget_template(self) -> None:
        """Destroy 920: what comes next builds it anew."""
        self.lab.destroy(920)
        for name in ("template", "whole_template"):
            self.__dict__.pop(name, None)

    def manifest(self) -> Path:
        """The template's manifest, for who compares without us."""
        _ = self.template
        path = self.folder / "manifest.json"
        path.write_text(self._manifest())
        return path

    @contextlib.contextmanager
    def far(self, delay: float) -> Iterator[Far]:
        """The node and 920 as reached over ssh, with a delay; seconds that a round trip takes longer."""
        folder = self.folder / "ssh"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        key, shim = folder / "key", str(self.lab.machine.shim)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=30)
        public = key.with_suffix(".pub").read_text().strip()
        self.lab.node("sh", "-c", DROPBEAR, "sh", public)
        self.lab.inside("sh", "-c", f"echo '{public}' | {{ {KEY}; }}")
        tcp = (shim, "socat", "STDIO")
        try:
            with relay([*tcp, "TCP:127.0.0.1:22"], delay) as node, relay([*tcp, "TCP:10.0.0.220:22"], delay) as inside:
                yield self._far(folder, node, inside)
        finally:
            self.lab.inside("rm", "-f", "/root/.ssh/authorized_keys")
            self.lab.node("sh", "-c", "kill $(cat /run/dropbear.pid) || true")

    def _far(self, folder: Path, node: int, inside: int) -> Far:
        config, client = folder / "config", folder / "ssh"
        common = f"HostName 127.0.0.1\n User root\n IdentityFile {folder}/key\n StrictHostKeyChecking accept-new\n"
        hosts = {"bench-node": (node, ""), "bench-920": (inside, "")}
        hosts["bench-920-shared"] = (inside, f" ControlMaster auto\n ControlPath {folder}/%C\n ControlPersist 60\n")
        config.write_text(
            "".join(
                f"Host {name}\n Port {port}\n {common} UserKnownHostsFile {folder}/known-{port}\n{more}\n"
                for name, (port, more) in hosts.items()
            )
        )
        client.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {config} "$@"\n')
        client.chmod(0o755)
        return Far("ssh://root@bench-node", "bench-920", config, f"{folder}:{os.environ['PATH']}")
