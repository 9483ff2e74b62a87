"""The lab as the tests handle it, and the suite as a user starts it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import calls
from bench.calls import Calls
from fixtures.run.stages import declared_checks
from lab.machine import Machine
from lab.pve import cost
from lab.pve.conf import LIST

TOP = Path(__file__).parent.parent.parent
SNAPSHOT = "vllm-base-snapshot"
PARENT = "/lxc-disks/.snapshots/subvol-903-disk-0@docker-gpu-snapshot"
FAULTS = "/etc/pve/lab-faults"
# the checks that fail where a container lacks its second GPU
STAND_IN = ("-o", "vllm_image=vllm/vllm-openai:stand-in")  # starts in a second, where vLLM itself adds nothing


@dataclass(frozen=True)
class Run:
    """A run of the suite that has ended.

    Attributes:
        status: pytest's exit status.
        output: What stood in the terminal.
        folder: The folder with its report.
    """

    status: int
    output: str
    seconds: float
    folder: Path

    @property
    def outcome(self) -> str:
        """The run's own word for what came of it."""
        return self.output.partition("outcome: ")[2].partition(" ")[0]

    @property
    def report(self) -> str:
        """The HTML report."""
        return (self.folder / "report.html").read_text()

    def checks(self) -> dict[str, str]:
        """Each check or step of sealing with "passed", "failed", "error" or why it was skipped."""
        cases = ElementTree.parse(self.folder / "junit.xml").iter("testcase")
        return {_name(case): _verdict(case) for case in cases}

    def failed(self) -> set[str]:
        """Names of the checks that failed."""
        return {name for name, verdict in self.checks().items() if verdict in ("failed", "error")}


def _name(case: ElementTree.Element) -> str:
    """A check's function, and the node if there are several; of another case its name."""
    name, at, node = case.attrib["name"].partition("[@")
    check = case.get("group", "").rpartition("::")[2]
    return f"{check or name}{at}{node}"


def _verdict(case: ElementTree.Element) -> str:
    for tag, word in (("failure", "failed"), ("error", "error")):
        if case.find(tag) is not None:
            return word
    skipped = case.find("skipped")
    return "passed" if skipped is None else skipped.attrib["message"]


class Lab:
    """The lab node, with what the tests ask it and do to it."""

    def __init__(self, machine: Machine, reports: Path) -> None:
        self.machine = machine
        self.reports = reports

    def node(self, *argv: str, seconds: float = 120) -> str:
        """What a command prints on the node; as it may have added or removed a container's file, pmxcfs lists them."""
        return self.machine.run("sh", "-c", f'"$@"; status=$?; {LIST}; exit $status', "sh", *argv, seconds=seconds)

    def inside(self, *argv: str, ctid: int = 920) -> str:
        """What a command prints in a container."""
        return self.node("pct", "exec", str(ctid), "--", *argv)

    def containers(self) -> list[int]:
        """The numbers of the node's containers."""
        return sorted(int(name.removesuffix(".conf")) for name in self.node("ls", "/etc/pve/lxc/").split())

    def snapshots(self) -> dict[str, dict[str, Any]]:
        """The snapshots of 920 by name; none if there is no 920."""
        if "920.conf" not in self.node("ls", "/etc/pve/lxc/"):
            return {}
        path = f"/nodes/{self.machine.name}/lxc/920/snapshot"
        rows = json.loads(self.node("pvesh", "get", path, "--output-format", "json"))
        return {row["name"]: row for row in rows if row["name"] != "current"}

    def servers(self, *options: str) -> str:
        """The Docker containers in 920; empty if there are none, or 920 or its Docker is off."""
        listed = f"pct exec 920 -- {shlex.join(['docker', 'ps', '--all', '--quiet', *options])}"
        return self.node("sh", "-c", f"pct status 920 2>/dev/null | grep -q running && {listed} || true").strip()

    def serves(self) -> bool:
        """Whether a test server is there, ready or not; a probe is none."""
        return bool(self.servers("--filter", "name=vllm_test_container"))

    def parent(self) -> str:
        """Everything of 903: its configuration, its snapshots, and its files now and in its snapshot."""
        every = "find {} -printf '%p %y %s %T@ %m %U %G %l\\n' | sort | sha256sum"
        folders = (PARENT, "/lxc-disks/subvol-903-disk-0")
        return self.node(
            "sh",
            "-c",
            f"cat /etc/pve/lxc/903.conf; ls /lxc-disks/.snapshots | grep 903; {'; '.join(map(every.format, folders))}",
        )

    def forget_images(self) -> None:
        """Remove vLLM's images from 920, if the next build is of another one: a tidy template holds one."""
        images = "docker image ls --quiet vllm/vllm-openai | sort -u | xargs --no-run-if-empty docker image rm --force"
        self.node("sh", "-c", f"pct exec 920 -- sh -c '{images}' || true")

    def destroy(self, ctid: int = 920) -> None:
        """Remove a container if it is there, whatever became of it."""
        gone = f"{{ pct unlock {ctid}; pct stop {ctid}; pct destroy {ctid}; }} >/dev/null 2>&1"
        self.node("sh", "-c", f"[ ! -e /etc/pve/lxc/{ctid}.conf ] || {gone}")

    @contextmanager
    def fault(self, *lines: str) -> Iterator[None]:
        """Put faults into the node's commands (lab/pve/faults.py) while the block runs."""
        self.node("sh", "-c", f'printf "%s\\n" "$@" > {FAULTS}', "sh", *lines)
        try:
            yield
        finally:
            self.node("rm", "-f", FAULTS)

    @contextmanager
    def noting(self) -> Iterator[Callable[[], Calls]]:
        """Let the node note each call of pct, pvesh and pvesm while the block runs; gives what asks for them."""
        self.node("sh", "-c", f"rm -f {cost.CALLS}; touch {cost.FILE}")
        try:
            yield lambda: calls.of(self.node("cat", cost.CALLS).splitlines())
        finally:
            self.node("rm", "-f", cost.FILE)

    @contextmanager
    def changed_parent(self, script: str) -> Iterator[None]:
        """Change the snapshot that 920 is cloned from, by a shell line run in its root, while the block runs."""
        conf, kept = "/etc/pve/lxc/903.conf", "/lxc-disks/.snapshots/kept"
        keep = f"cp {conf} /root/903.conf && btrfs -q subvolume snapshot -r {PARENT} {kept}"
        self.node("sh", "-c", f"{keep} && btrfs property set {PARENT} ro false && cd {PARENT} && {script}")
        try:
            yield
        finally:
            undo = f"btrfs -q subvolume delete {PARENT} && btrfs -q subvolume snapshot -r {kept} {PARENT}"
            self.node("sh", "-c", f"{undo} && btrfs -q subvolume delete {kept} && cp /root/903.conf {conf}")

    @contextmanager
    def ssh(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        """An ssh server on the node, and a client that finds it under the name that is yielded.

        The node's network can't be reached from here, so the client goes through a ProxyCommand; its
        configuration is put before the user's own by an `ssh` that stands first in PATH.
        """
        key = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=30)
        script = """mkdir -p -m 700 /root/.ssh && printf '%s\n' "$1" > /root/.ssh/authorized_keys
        [ -e /root/host_key ] || dropbearkey -t ed25519 -f /root/host_key >/dev/null 2>&1
        dropbear -s -r /root/host_key -p 127.0.0.1:22 -P /run/dropbear.pid"""
        self.node("sh", "-c", script, "sh", key.with_suffix(".pub").read_text().strip())
        (folder / "config").write_text(
            f"Host {self.machine.name}\n IdentityFile {key}\n UserKnownHostsFile {folder}/known\n"
            f" StrictHostKeyChecking accept-new\n ProxyCommand {self.machine.shim} socat STDIO TCP:127.0.0.1:22\n"
        )
        client = folder / "ssh"
        client.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n')
        client.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        try:
            yield f"ssh://root@{self.machine.name}"
        finally:
            self.node("sh", "-c", "kill $(cat /run/dropbear.pid) || true")  # a test may have cut it

    def start(self, *words: str, checks: str = "tests_920") -> subprocess.Popen[str]:
        """Start the suite as a user would, with a folder for its report."""
        hears = ("env", "--default-signal=HUP")  # which nohup(1) lets be ignored by all that it starts
        command = [
            *hears,
            sys.executable,
            "-m",
            "pytest",
            checks,
            "@lab/options",
            "--color=no",
            "-p",
            "no:cacheprovider",
        ]
        command += [f"--override-ini=node=lab:{self.machine.name}", f"--override-ini=report_folder={self.reports}"]
        pipe = subprocess.PIPE
        return subprocess.Popen([*command, *words], cwd=TOP, stdout=pipe, stderr=subprocess.STDOUT, text=True)

    def finish(self, process: subprocess.Popen[str], seconds: float) -> Run:
        """Wait for a run that was started."""
        begun = time.monotonic()
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=120)
            pytest.fail(f"the suite was not done after {seconds:g} s:\n{output}")
        print(output)
        folders = (path for path in self.reports.iterdir() if path.is_dir())
        folder = max(folders, key=lambda path: path.stat().st_mtime, default=self.reports)
        return Run(process.returncode, output, time.monotonic() - begun, folder.resolve())

    def build(self, *words: str, checks: str = "tests_920", seconds: float = 420) -> Run:
        """Run the suite to its end."""
        return self.finish(self.start(*words, checks=checks), seconds)


def declared(folder: Path, **changes: object) -> list[str]:
    """Words that declare 920 otherwise, in a file of a folder."""
    document = json.loads((TOP / "lab/phoenix_lxc_configs.json").read_text())
    document["lxc_configs"]["920"] |= changes
    (folder / "configs.json").write_text(json.dumps(document))
    return ["-o", f"lxc_configs={folder}/configs.json"]


def until(condition: str, seconds: int = 30) -> str:
    """A line of shell that waits until a condition holds, and fails if it never does."""
    return f"timeout {seconds} sh -c {shlex.quote(f'until {condition}; do sleep 0.1; done')}"


def says(run: Run, *words: str) -> None:
    """Assert that the terminal says something, whatever the width of its lines."""
    text = " ".join(run.output.split())
    missing: Sequence[str] = [each for each in words if each not in text]
    assert not missing, f"not said: {missing}"


def assert_built(lab: Lab, run: Run, clone: bool = True) -> None:
    """Assert that a run has built and accepted 920, with all of its checks, and has left nothing else."""
    assert (run.status, run.outcome) == (0, "built")
    verdicts = run.checks()
    seen = {each.partition("; ")[0] for each in verdicts.values() if "unknown: " not in each}
    assert seen == {"passed", "inconclusive: simulated GPU"}
    checks = [name for name in verdicts if not name.startswith("sealing[")]
    declared = declared_checks(TOP / "tests_920/CHECKS", (0, 1))
    others = {"family"} if clone else {"family", "clone acceptance"}
    assert len(checks) == len([check for check in declared if check.stage not in others])
    copy, name = sorted(lab.snapshots(), reverse=True)
    assert (copy.rpartition("-g")[0], name) == (SNAPSHOT, SNAPSHOT)
    description = lab.snapshots()[name]["description"]
    assert lab.snapshots()[copy]["description"].partition(" accepted ")[0] == description.partition(" accepted ")[0]
    names = r"generation \d+ run \S+ image vllm/vllm-openai@sha256:[0-9a-f]{64} manifest sha256:[0-9a-f]{64}"
    weak = r"in spite of \d+ inconclusive checks, simulated GPU, simulated Proxmox VE node"
    assert re.match(rf"phoenix-920: sealed \S+Z {names} {weak}(, no clone was tried)? accepted \S+Z", description)
    assert ("no clone was tried" in description) is not clone
    assert set(lab.containers()) == {903, 920}
    assert "status: running" in lab.node("pct", "status", "920")
    assert lab.servers() == ""
