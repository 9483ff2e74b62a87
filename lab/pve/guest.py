"""Containers as LXC runs them: from a configuration file of Proxmox to a running machine."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import time

from lab.pve import conf, storage
from lab.pve.errors import Refusal
from lab.pve.schema import DEVICE, MOUNT, NET, split_list

LXC = "/var/lib/lxc"
PASSTHROUGH = "/run/lab-passthrough"  # nodes of devices whose mode or owner is another than the node's own
V2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")


def running(vmid: int) -> bool:
    """Whether a container runs: its command socket is there (pve-container, PVE/LXC.pm)."""
    with open("/proc/net/unix") as sockets:
        return f"@{LXC}/{vmid}/command\n" in sockets.read()


def run(argv: list[str], seconds: float) -> str:
    """Run a program of the node; a failure carries its output."""
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
    root = storage.path(settings.head.volumes()["rootfs"])
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
        *_devices(values, vmid),
        *_mounts(settings.head),
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


def _cpus(settings: conf.Conf) -> str:
    """The processors of a container; empty if it may have all."""
    here = os.cpu_count() or 1
    cores = int(settings.head.values.get("cores", here))
    return f"0-{cores - 1}" if cores < here else ""


def _cores(settings: conf.Conf) -> list[str]:
    cpus = _cpus(settings)
    return [_limit("cpuset.cpus", cpus)] if cpus else []


def device(path: str) -> os.stat_result:
    """A device of the node, as stat sees it (pve-container, PVE/LXC/Tools.pm)."""
    try:
        facts = os.stat(path)
    except FileNotFoundError:
        raise Refusal(f"Device {path} does not exist", 2) from None
    except OSError:
        raise Refusal(f"Error accessing device {path}", 2) from None
    if not stat.S_ISCHR(facts.st_mode) and not stat.S_ISBLK(facts.st_mode):
        raise Refusal(f"{path} is not a device", 2)
    return facts


def devices(values: dict[str, str]) -> list[dict[str, str]]:
    """The options of the devices that are passed through."""
    return [DEVICE.parse(values[key]) for key in sorted(values) if key.startswith("dev") and key[3:].isdigit()]


def check_devices(settings: conf.Conf) -> None:
    """Refuse if a device that is passed through is not there; nothing else of the configuration can be missing."""
    if not settings.is_template:
        for options in devices(settings.head.values):
            device(options["path"])


def _devices(values: dict[str, str], vmid: int) -> list[str]:
    """Devices that are passed through; each is looked up at every start."""
    lines = []
    for options in devices(values):
        path = options["path"]
        facts = device(path)
        kind = "b" if stat.S_ISBLK(facts.st_mode) else "c"
        access = "r" if options.get("deny-write") == "1" else "rw"
        number = f"{os.major(facts.st_rdev)}:{os.minor(facts.st_rdev)}"
        source = _node(options, facts, vmid) if {"mode", "uid", "gid"} & set(options) else path
        lines += [
            _limit("devices.allow", f"{kind} {number} {access}"),
            f"lxc.mount.entry = {source} {path.lstrip('/')} none bind,create=file 0 0",
        ]
    return lines


def _node(options: dict[str, str], facts: os.stat_result, vmid: int) -> str:
    """Make a device's node with the mode and owner that it is to have in the container."""
    node = f"{PASSTHROUGH}/{vmid}{options['path']}"
    os.makedirs(os.path.dirname(node), exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(node)
    os.mknod(node, stat.S_IFMT(facts.st_mode) | 0o600, facts.st_rdev)
    os.chmod(node, int(options["mode"], 8) if "mode" in options else stat.S_IMODE(facts.st_mode))
    os.chown(node, int(options.get("uid", "0")), int(options.get("gid", "0")))
    return node


def _mounts(section: conf.Section) -> list[str]:
    """Volumes, and folders of the node, that are mounted into the container."""
    lines, volumes, drives = [], section.volumes(), section.drives()
    for key in sorted({*drives} - {"rootfs"}):
        mount = MOUNT.parse(drives[key])
        how = ",ro" if mount.get("ro") == "1" else ""
        place = storage.path(volumes[key]) if key in volumes else mount["volume"]
        lines.append(f"lxc.mount.entry = {place} {mount['mp'].lstrip('/')} none bind{how},create=dir 0 0")
    return lines


def net_options(net: str) -> dict[str, str]:
    """The options of a network line."""
    return NET.parse(net) if net else {}


def _net(values: dict[str, str], vmid: int) -> list[str]:
    lines = []
    for key in sorted(key for key in values if key.startswith("net") and key[3:].isdigit()):
        net, number = net_options(values[key]), key[3:]
        settings = {
            "type": "veth",
            "veth.pair": f"veth{vmid}i{number}",
            "link": net.get("bridge", ""),
            "flags": "" if net.get("link_down") == "1" else "up",
            "mtu": net.get("mtu", ""),
            "name": net["name"],
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
    _write(f"{root}/etc/resolv.conf", _resolv_conf(settings))
    if os.path.exists(f"{root}/etc/netplan"):
        _networkd(root, settings.head.values)


def _networkd(root: str, values: dict[str, str]) -> None:
    """Let Ubuntu's systemd-networkd configure the network (pve-container, Setup/Base.pm setup_systemd_networkd)."""
    for key in (key for key in values if key.startswith("net") and key[3:].isdigit()):
        net = net_options(values[key])
        lines = [f"[Match]\nName = {net['name']}\n\n[Network]"]
        lines += [f"Description = Interface {net['name']} autoconfigured by PVE"]
        lines += [
            f"{word} = {net[option]}" for word, option in (("Address", "ip"), ("Gateway", "gw")) if net.get(option)
        ]
        _write(f"{root}/etc/systemd/network/{net['name']}.network", "\n".join([*lines, "DHCP = no", ""]))
    wanted = f"{root}/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"
    if not os.path.lexists(wanted):
        os.symlink("/usr/lib/systemd/system/systemd-networkd.service", wanted)


def _resolv_conf(settings: conf.Conf) -> str:
    """Name servers and search domains of the container, or else the node's."""
    servers, domains = (split_list(settings.head.values.get(key, "")) for key in ("nameserver", "searchdomain"))
    if servers or domains:
        search = f"search {' '.join(domains)}\n" if domains else ""
        return search + "".join(f"nameserver {server}\n" for server in servers)
    with open("/etc/resolv.conf") as file:
        return file.read()


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
    _set_limit(settings.vmid, "memory.max" if V2 else "memory.limit_in_bytes", str(memory_bytes(settings)))


def set_cores(settings: conf.Conf) -> None:
    """Give a running container its processors."""
    _set_limit(settings.vmid, "cpuset.cpus", _cpus(settings) or f"0-{(os.cpu_count() or 1) - 1}")


def _set_limit(vmid: int, key: str, value: str) -> None:
    run(["lxc-cgroup", "-P", LXC, "-n", str(vmid), key, value], 20)
