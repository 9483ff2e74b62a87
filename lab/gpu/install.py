"""Puts the SIMULATED NVIDIA GPU stack into the root file system of a container.

What it can't put there is what the kernel's driver makes on a real machine: /proc/driver/nvidia/version
stays missing, and the device nodes are the node's to make (`device_nodes`).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from lab import cache
from lab.command import execute

DRIVER_VERSION = "580.76.05"
HERE = Path(__file__).parent
SOURCES = ("gpus.h", "gpus.c", "report.h", "nvidia-smi.c", "libcuda.c", "libnvidia-ml.c")
SCRIPTS = ("nvidia-container-runtime", "nvidia-container-runtime-hook", "nvidia-ctk")
LIBRARIES = ("libcuda", "libnvidia-ml")
# Strict C11: newer C libraries give GNU's dialects symbols that Debian 12's does not have.
FLAGS = ("-std=c11", "-D_DEFAULT_SOURCE", "-O2", "-Wall", "-Wextra")
README = f"""SIMULATED NVIDIA GPUs

nvidia-smi, libcuda.so.1, libnvidia-ml.so.1 and the NVIDIA container runtime in this container are
simulated: there is no GPU and no driver behind them. They answer as driver {DRIVER_VERSION} does.
A GPU is there where its device node /dev/nvidiaN is; /etc/simulated-gpu.conf may change what it shows
(gpu1.temperature.gpu = 95). /proc/driver/nvidia/version can't be simulated and is missing.
"""


def device_nodes(gpus: int = 2) -> list[tuple[str, int, int]]:
    """The character devices that a machine with GPUs has: name under /dev, major and minor number.

    Nothing is behind the numbers on a machine without NVIDIA's driver, and nothing here opens them.
    That of nvidia-uvm is given by the kernel when the driver is loaded; 238 was seen on a real machine.

    Args:
        gpus: How many GPUs.
    """
    cards = [(f"nvidia{number}", 195, number) for number in range(gpus)]
    return [*cards, ("nvidiactl", 195, 255), ("nvidia-uvm", 238, 0), ("nvidia-uvm-tools", 238, 1)]


def compile_to(folder: Path, root: str | None = None) -> None:
    """Compile nvidia-smi and the libraries.

    Args:
        folder: Where to put them.
        root: For tests: where to look for nodes and settings, without root's rights (see gpus.h).

    Raises:
        LabError: The compiler failed.
    """
    flags = [*FLAGS, *([f'-DROOT="{root}"'] if root is not None else [])]
    common = str(HERE / "gpus.c")
    smi = ["gcc", *flags, "-static", "-o", str(folder / "nvidia-smi"), str(HERE / "nvidia-smi.c"), common]
    execute(smi, seconds=120)
    shared = [*flags, "-fPIC", "-fvisibility=hidden", "-shared", "-pthread"]
    for name in LIBRARIES:
        target = [f"-Wl,-soname,{name}.so.1", "-o", str(folder / f"{name}.so.{DRIVER_VERSION}")]
        execute(["gcc", *shared, *target, str(HERE / f"{name}.c"), common], seconds=120)


def compiled() -> Path:
    """The folder with nvidia-smi and the libraries, from the cache if the sources are unchanged."""
    recipe = "\0".join((HERE / name).read_text() for name in (*SOURCES, "install.py"))
    return cache.built("simulated-gpu", recipe, compile_to)


def install(rootfs: Path) -> None:
    """Install everything into a container's root file system; again does no harm.

    Args:
        rootfs: Where that is mounted. The container must have python3 and runc.

    Raises:
        LabError: A step failed.
    """
    made = compiled()
    programs = rootfs / "usr/bin"
    libraries = rootfs / "usr/lib/x86_64-linux-gnu"
    for folder in (programs, libraries):
        folder.mkdir(parents=True, exist_ok=True)
    for source in (made / "nvidia-smi", *(HERE / name for name in SCRIPTS)):
        _copy(source, programs / source.name, 0o755)
    for name in LIBRARIES:
        versioned = f"{name}.so.{DRIVER_VERSION}"
        _copy(made / versioned, libraries / versioned, 0o644)
        _link(libraries / f"{name}.so.1", versioned)
        _link(libraries / f"{name}.so", f"{name}.so.1")
    note = rootfs / "usr/share/doc/simulated-gpu/README"
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(README)
    execute(["ldconfig", "-r", str(rootfs)], seconds=60)


def _copy(source: Path, target: Path, mode: int) -> None:
    """Copy beside the target and rename: it may be in use."""
    new = target.with_name(f".{target.name}.new")
    shutil.copyfile(source, new)
    new.chmod(mode)
    new.replace(target)


def _link(link: Path, target: str) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)
