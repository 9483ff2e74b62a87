"""One lab node: a set of Linux namespaces that looks like a Proxmox VE node.

The node has its own mounts, network, processes, host name and root (an overlay over the host's
files). Its first process, `node-init`, holds all of it: kill that one process and every mount, loop
device, bridge, firewall rule and container is gone, as if a machine had lost its power. What such a
machine keeps on its disk is in one file, `pool.btrfs`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab import cache, vllm
from lab.command import execute
from lab.errors import LabError

CHECKOUT = Path(__file__).resolve().parent.parent
LOCKS = Path("/run/lock")
POOL_SIZE_GIB = 120  # sparse: 64 GB declared for 920 and as much for a clone of it
RESERVE_GIB = 4  # left free on the host's disk, whatever the lab does
NAMESPACES = ("--mount", "--net", "--pid", "--uts", "--ipc")
REGISTRY = "10.0.0.1:5000"  # on the node's bridge, where containers reach it
SERVE_REGISTRY = """
up() { curl --silent --fail http://10.0.0.1:5000/v2/ >/dev/null; }
printf %s "$1" > /run/registry.new
cmp -s /run/registry.new /run/registry.json && up && exit 0
[ -e /run/registry.pid ] && kill "$(cat /run/registry.pid)"
for _ in $(seq 100); do up || break; sleep 0.1; done
mv /run/registry.new /run/registry.json
setsid docker-registry serve /run/registry.json >/run/registry.log 2>&1 </dev/null &
echo $! > /run/registry.pid
for _ in $(seq 100); do up && exit 0; sleep 0.1; done
cat /run/registry.log >&2; exit 1
"""
OVERLAY_REGISTRY = """
mountpoint -q /run/registry && exit 0
mkdir -p /run/registry /run/registry-new /run/registry-work
mount -t overlay registry -o "lowerdir=$1,upperdir=/run/registry-new,workdir=/run/registry-work" /run/registry
"""
NODE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Machine:
    """A lab node by its name.

    Attributes:
        name: Name of the node; its host name too.
    """

    name: str = "pve-lab"

    @property
    def state(self) -> Path:
        """Everything that this node keeps: its disk, its log, its process ids."""
        root = Path(os.environ.get("PHOENIX_LAB_STATE", "/var/lib/phoenix-lab"))
        return root / self.name

    @property
    def shim(self) -> Path:
        """The executable that runs a command on this node: `shim COMMAND [ARG ...]`."""
        return self.state / "node"

    @property
    def pool(self) -> Path:
        """The node's disk."""
        return self.state / "pool.btrfs"

    def pid(self) -> int | None:
        """Process id of the node's first process on the host, None while the node is off."""
        try:
            pid = int((self.state / "pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if self._is_ours(pid) else None

    def _is_ours(self, pid: int) -> bool:
        """Whether that process holds this node's disk: process ids are used again after a crash."""
        try:
            return f"upperdir={self.state}/" in Path(f"/proc/{pid}/mounts").read_text()
        except OSError:
            return False

    def run(self, *argv: str, seconds: float = 60) -> str:
        """Run a command on the node.

        Args:
            argv: The command.
            seconds: Its deadline.

        Returns:
            What it printed on standard output.

        Raises:
            LabError: It failed or took too long.
        """
        return execute([str(self.shim), *argv], seconds=seconds)

    def power_on(self, gpus: str = "simulated", *, take_over: bool = False) -> None:
        """Start the node if it is off.

        Args:
            gpus: "simulated", or "host" for this machine's own.
            take_over: Whether to restart one that another checkout has started.

        Raises:
            LabError: Its first process did not come up, it was made with other GPUs, or it is another checkout's.
        """
        made_with = self.state / "gpus"
        if made_with.exists() and made_with.read_text() != gpus:
            raise LabError(f"{self.name} was made with {made_with.read_text()} GPUs; remove it first: make lab-down")
        source = self.state / "checkout"  # the node runs this checkout's commands, not an older one's
        runs = source.read_text() if source.exists() else ""
        pid = self.pid()
        if pid and runs == str(CHECKOUT) and self._has_mounted(pid, CHECKOUT):
            return
        if pid and not take_over and runs != str(CHECKOUT) and Path(runs).is_dir():
            raise LabError(
                f"{self.name} is up and runs the commands of {runs or 'an unknown checkout'}; remove it there (make "
                "lab-down), or restart it with the commands of this checkout: make lab-up TAKE=1"
            )
        self.power_off()
        while not self.state.is_dir():
            with contextlib.suppress(FileNotFoundError):  # another node was erased meanwhile, and the folder of all
                self.state.mkdir(parents=True, exist_ok=True)
        self._make_pool()
        source.write_text(str(CHECKOUT))
        made_with.write_text(gpus)
        log = self.state / "node.log"
        init = [str(CHECKOUT / "lab/node-init"), self.name, str(self.state), str(cache.root()), str(CHECKOUT), gpus]
        with log.open("w") as output:
            holder = subprocess.Popen(
                ["unshare", *NAMESPACES, "--fork", "--kill-child", *init],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        (self.state / "holder").write_text(str(holder.pid))
        self._await_first_process(holder, log)
        self._connect()

    def _has_mounted(self, pid: int, checkout: Path) -> bool:
        """Whether the node's commands are those in this folder, not in one that was removed and had its name."""
        try:
            return checkout.samefile(f"/proc/{pid}/root/usr/share/pve-lab")
        except OSError:
            return False

    def _make_pool(self) -> None:
        """Make the node's disk: a sparse btrfs file that can't fill the host's disk."""
        if self.pool.exists():
            return
        free = shutil.disk_usage(self.state).free // 2**30 - RESERVE_GIB
        if free < 12:  # image 2.1 GB packed, 4 GB unpacked, the containers and some room
            raise LabError(f"{self.state}: {free} GiB free, the lab needs 12; set PHOENIX_LAB_STATE to a larger disk")
        new = self.pool.with_suffix(".new")
        with new.open("wb") as file:
            file.truncate(POOL_SIZE_GIB * 2**30)
        execute(["mkfs.btrfs", "-q", "-f", str(new)], seconds=60)
        new.rename(self.pool)

    def _await_first_process(self, holder: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + 30
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
        while time.monotonic() < deadline:
            if holder.poll() is not None:
                raise LabError(f"the lab node did not start: {log.read_text().strip() or 'no message'}")
            with contextlib.suppress(OSError):
                pids = children.read_text().split()
                if pids and Path(f"/proc/{pids[0]}/root/run/lab-node-ready").exists():
                    (self.state / "pid").write_text(pids[0])
                    return
            time.sleep(0.05)
        self.power_off()
        raise LabError(f"the lab node was not ready after 30 s: {log.read_text().strip()[-500:]}")

    def _connect(self) -> None:
        """Write the shim and give the node a way out.

        The way out is slirp4netns, a user-mode network: unlike a NAT rule on the host it needs no
        forwarding, no firewall rule and no address of the host's networks (198.18.0.0/15 is reserved
        for tests by RFC 2544). It lives in the node's process namespace and so ends with it.
        """
        pid = self.pid()
        self.shim.write_text(
            "#!/bin/sh\n"
            f"exec nsenter -t {pid} -m -n -p -u -i -- "
            f'env -i PATH={NODE_PATH} HOME=/root LC_ALL=C.UTF-8 "$@" \n'
        )
        self.shim.chmod(0o755)
        if not Path("/dev/net/tun").exists() or not shutil.which("slirp4netns"):
            return
        slirp = ["slirp4netns", "--configure", "--mtu", "1400", "--disable-host-loopback"]
        subprocess.Popen(
            ["nsenter", "-t", str(pid), "-m", "-p", "--", *slirp, "--cidr", "198.18.0.0/24", "1", "tap0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def serve_registry(self, storage: Path) -> None:
        """Serve images on the node, unless that is done already.

        Args:
            storage: The storage of a registry.

        Raises:
            LabError: The registry did not start.
        """
        config = json.dumps(vllm.registry_config(storage, REGISTRY))
        self.run("sh", "-c", SERVE_REGISTRY, "sh", config, seconds=30)

    def serve_stand_in(self, storage: Path) -> None:
        """Serve images of the stand-in for vLLM too, tag `stand-in`; what is pushed stays on this node.

        Args:
            storage: The storage of the registry; nothing is written into it.

        Raises:
            LabError: The registry did not start or did not take them.
        """
        self.run("sh", "-c", OVERLAY_REGISTRY, "sh", str(storage), seconds=30)
        self.serve_registry(Path("/run/registry"))
        module = ("python3", "-m", "lab.stand_in.image")
        self.run("env", "PYTHONPATH=/usr/share/pve-lab", "PYTHONDONTWRITEBYTECODE=1", *module, seconds=120)

    def power_off(self) -> None:
        """End the node at once, as pulling its plug would; its disk stays."""
        for name in ("pid", "holder"):
            file = self.state / name
            with contextlib.suppress(OSError, ValueError):
                pid = int(file.read_text())
                if self._is_ours(pid) or b"node-init" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
                    _await_end(pid)
            file.unlink(missing_ok=True)
        self.shim.unlink(missing_ok=True)
        self._await_disk()
        self._remove_cgroups()

    def _await_disk(self) -> None:
        """Wait until the kernel has let go of the disk: it does so when the node's last process has gone."""
        deadline = time.monotonic() + 30
        while self.pool.exists() and execute(["losetup", "--associated", str(self.pool)], seconds=20):
            if time.monotonic() > deadline:
                raise LabError(f"{self.pool} is still held 30 s after the node was ended: see losetup and lsof")
            time.sleep(0.05)

    def _remove_cgroups(self) -> None:
        """Remove the empty cgroups of this node's containers; the kernel keeps them otherwise.

        They lie below the cgroup of whoever started the container, which may be anywhere.
        """
        # os.walk passes over what another node removes just then
        tops = [Path(folder) for folder, _, _ in os.walk("/sys/fs/cgroup")]
        for top in [each for each in tops if each.name == self.name and each.parent.name == "phoenix-lab"]:
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
            with contextlib.suppress(OSError):
                top.parent.rmdir()

    def erase(self) -> None:
        """Remove the node with its disk."""
        self.power_off()
        shutil.rmtree(self.state, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.state.parent.rmdir()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the node for one `up`, `down` or `reset` at a time."""
        with (LOCKS / f"phoenix-lab-{self.name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _await_end(pid: int) -> None:
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.02)
