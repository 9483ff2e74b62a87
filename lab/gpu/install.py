"""Puts the simulated GPU's tools into a root file system, as driver and container toolkit would."""

from __future__ import annotations

import shutil
from pathlib import Path

from lab import cache
from lab.command import execute

HERE = Path(__file__).parent
DRIVER = "580.76.05"
SOURCES = ("gpus.h", "nvidia-smi.c", "libcuda.c")
SCRIPTS = ("nvidia-container-runtime", "nvidia-container-runtime-hook", "nvidia-ctk")


def device_nodes() -> list[tuple[str, int, int]]:
    """Name, major and minor number of each device node that a host with two GPUs has."""
    gpus = [("nvidia0", 195, 0), ("nvidia1", 195, 1)]
    return [*gpus, ("nvidiactl", 195, 255), ("nvidia-uvm", 238, 0), ("nvidia-uvm-tools", 238, 1)]


def compiled() -> Path:
    """The folder with `nvidia-smi` and `libcuda.so.1`, compiled.

    nvidia-smi is static, so that it runs in any image that it is mounted into.
    """
    recipe = "".join((HERE / name).read_text() for name in SOURCES)
    return cache.built("gpu", recipe, compile_into)


def compile_into(folder: Path, *options: str) -> None:
    """Compile the tools.

    Args:
        folder: Where they go.
        options: Further options of the compiler.
    """
    flags = ("gcc", "-O1", "-Wall", "-Wextra", *options)
    execute([*flags, "-static", str(HERE / "nvidia-smi.c"), "-o", str(folder / "nvidia-smi")], seconds=120)
    shared = (*flags, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", str(HERE / "libcuda.c"))
    execute([*shared, "-o", str(folder / "libcuda.so.1")], seconds=120)


def install(root: Path) -> None:
    """Install the tools.

    Args:
        root: A root file system of Debian or Ubuntu.
    """
    tools = compiled()
    libraries = root / "usr/lib/x86_64-linux-gnu"
    _copy(tools / "nvidia-smi", root / "usr/bin/nvidia-smi", 0o755)
    _copy(tools / "libcuda.so.1", libraries / f"libcuda.so.{DRIVER}", 0o644)
    # nvidia-smi only looks whether this is there; the real one is its engine
    _copy(tools / "libcuda.so.1", libraries / f"libnvidia-ml.so.{DRIVER}", 0o644)
    for name in ("libcuda.so", "libnvidia-ml.so"):
        link = libraries / f"{name}.1"
        link.unlink(missing_ok=True)
        link.symlink_to(f"{name}.{DRIVER}")
    for name in SCRIPTS:
        _copy(HERE / name, root / "usr/bin" / name, 0o755)
    note = root / "usr/share/doc/simulated-gpu/README"
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text("The GPUs of this container are SIMULATED by the phoenix-920 lab.\n")


def _copy(source: Path, target: Path, mode: int) -> None:
    shutil.copyfile(source, target)
    target.chmod(mode)
