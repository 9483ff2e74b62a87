"""Containers as LXC runs them: from a configuration file of Proxmox to a running machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time

from lab.pve import conf, storage
from lab.pve.errors import Refusal

LXC = "/var/lib/lxc"
V2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")


def running(vmid: int) -> bool:
    """Whether a container runs: its command socket is there (pve-container, PVE/LXC.pm)."""
    with open("/proc/net/unix") as sockets:
        return f"@{LXC}/{vmid}/command\n" in sockets.read()


def run(argv: list[str], seconds: float) -> str:
    """Run a program of the node; its words are the failure's words."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise Refusal(f"command '{' '.join(argv)}' failed: got timeout") from None
    if done.returncode:
        raise Refusal(f"command '{' '.join(argv)}' failed: exit code {done.returncode}\n{done.stderr.strip()}")
    return done.stdout


def start(settings: conf.Conf) -> None:
    """Start a container."""
    vmid = settings.vmid
    root = storage.path(vmid)
    prepare_root(root, settings)
    folder = f"{LXC}/{vmid}"
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/config", "w") as file:
        file.write("\n".join(lxc_config(settings, root)) + "\n")
    log = f"/run/lxc-{vmid}.log"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(log)
    try:
        run(["lxc-start", "-P", LXC, "-n", str(vmid), "-d", "-l", "WARN", "-o", log], 60)
    except Refusal as refusal:
        with contextlib.suppress(OSError), open(log) as said:
            raise Refusal(f"startup for container '{vmid}' failed\n{said.read()[-1500:]}") from refusal
        raise


def lxc_config(settings: conf.Conf, root: str) -> list[str]:
    """LXC's configuration of a privileged container."""
    values, vmid = settings.head.values, settings.vmid
    lines = [
        "lxc.include = /usr/share/lxc/config/common.conf",
        "lxc.include = /usr/share/lxc/config/nesting.conf",
        "lxc.arch = linux64",
        "lxc.apparmor.profile = unconfined",
        "lxc.mount.auto =",
        "lxc.mount.auto = proc:rw sys:rw cgroup:rw:force",
        "lxc.autodev = 1",
        "lxc.signal.halt = SIGRTMIN+3",
        # a name of our own, so that a container 920 of the machine itself is not met
        f"lxc.cgroup.dir = phoenix-lab/{os.uname().nodename}/{vmid}",
        f"lxc.rootfs.path = dir:{root}",
        f"lxc.uts.name = {values.get('hostname', f'CT{vmid}')}",
        _limit("devices.allow", "c 10:200 rwm"),
        _limit("memory.max" if V2 else "memory.limit_in_bytes", str(memory_bytes(settings))),
        *_cores(settings),
        *_devices(values),
        *_net(values, vmid),
    ]
    for key, value in settings.head.raw:
        lines.append(f"{key if V2 else key.replace('lxc.cgroup2.', 'lxc.cgroup.')} = {value}")
    return lines


def _limit(key: str, value: str) -> str:
    return f"lxc.cgroup{'2' if V2 else ''}.{key} = {value}"


def memory_bytes(settings: conf.Conf) -> int:
    """The memory limit."""
    return int(settings.head.values.get("memory", "512")) << 20


def _cores(settings: conf.Conf) -> list[str]:
    here = os.cpu_count() or 1
    cores = int(settings.head.values.get("cores", here))
    return [_limit("cpuset.cpus", f"0-{cores - 1}")] if cores < here else []


def _devices(values: dict[str, str]) -> list[str]:
    """Devices that are passed through; each is looked up anew at every start."""
    lines = []
    for key in sorted(key for key in values if key.startswith("dev") and key[3:].isdigit()):
        path = values[key].split(",")[0].removeprefix("path=")
        try:
            number = os.stat(path).st_rdev
        except FileNotFoundError:
            raise Refusal(f"Device {path} does not exist") from None
        allow = f"c {os.major(number)}:{os.minor(number)} rwm"
        lines += [
            _limit("devices.allow", allow),
            f"lxc.mount.entry = {path} {path.lstrip('/')} none bind,create=file 0 0",
        ]
    return lines


def net_options(net: str) -> dict[str, str]:
    """The options of a network line."""
    return dict(part.partition("=")[::2] for part in net.split(",") if part)


def _net(values: dict[str, str], vmid: int) -> list[str]:
    lines = []
    for key in sorted(key for key in values if key.startswith("net") and key[3:].isdigit()):
        net, number = net_options(values[key]), key[3:]
        settings = {
            "type": "veth",
            "veth.pair": f"veth{vmid}i{number}",
            "link": net.get("bridge", ""),
            "flags": "up",
            "name": net.get("name", ""),
            "hwaddr": net.get("hwaddr", ""),
            "ipv4.address": net.get("ip", "") if "/" in net.get("ip", "") else "",
            "ipv4.gateway": net.get("gw", ""),
        }
        lines += [f"lxc.net.{number}.{name} = {value}" for name, value in settings.items() if value]
    return lines


def prepare_root(root: str, settings: conf.Conf) -> None:
    """Write what Proxmox writes into a container before it starts: its name and its name server."""
    name = settings.head.values.get("hostname", f"CT{settings.vmid}")
    address = net_options(settings.head.values.get("net0", "")).get("ip", "127.0.1.1").split("/")[0]
    _write(f"{root}/etc/hostname", f"{name}\n")
    _write(f"{root}/etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n{address} {name}\n")
    with open("/etc/resolv.conf") as file:
        _write(f"{root}/etc/resolv.conf", file.read())


def _write(path: str, text: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


def stop(vmid: int, seconds: int, kill: bool) -> None:
    """Stop a container: at once, or by asking its init and waiting."""
    argv = ["lxc-stop", "-P", LXC, "-n", str(vmid)]
    argv += ["--kill"] if kill else ["--timeout", str(seconds), "--nokill"]
    with contextlib.suppress(Refusal):
        run(argv, seconds + 30)
    deadline = time.monotonic() + (10 if kill else 5)
    while running(vmid):
        if time.monotonic() > deadline:
            raise Refusal("container did not stop")
        time.sleep(0.02)


def set_memory(settings: conf.Conf) -> None:
    """Give a running container its memory limit."""
    key = "memory.max" if V2 else "memory.limit_in_bytes"
    run(["lxc-cgroup", "-P", LXC, "-n", str(settings.vmid), key, str(memory_bytes(settings))], 20)
