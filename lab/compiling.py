"""The lab's vLLM image with a C++ compiler, tag `compiling`: what torch.compile needs to compile for a CPU.

Nothing but the measurement of warm starts uses it: compiling takes minutes, and the compiler as much room
as vLLM itself. It is the lab's image with two more layers, kept beside it as the storage of a registry.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from lab import cache, rootfs, vllm
from lab.command import execute

RECIPE = 1  # raised when the way of making changes
TAG = "compiling"
# vLLM 0.32 can't load again on a CPU what it has compiled ahead: 'function' object has no attribute 'finalize_loading'
ENVIRONMENT = ("VLLM_USE_AOT_COMPILE=0",)
PACKAGES = (*vllm.PACKAGES, "g++", "python3-dev")  # torch's inductor writes C++ that includes Python.h


def made() -> Path:
    """The folder that holds `registry/`, with the lab's images and this one."""
    plain = vllm.made()
    return cache.built(
        "compiling", f"{RECIPE} {plain.name} {PACKAGES} {ENVIRONMENT}", lambda folder: _make(folder, plain)
    )


def _make(folder: Path, plain: Path) -> None:
    shutil.copytree(plain / "registry", folder / "registry")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        kit = Path(place)
        tree, wheel, image = kit / "tree", kit / "wheel", f"{kit}/oci:vllm"
        wheel.mkdir()
        rootfs.debian(tree, PACKAGES)
        headers = vllm.torch_headers(wheel)
        with vllm.registry(folder / "registry", "127.0.0.1", vllm.free_port()) as address:
            name = f"docker://{address}/{vllm.NAME}"
            copy = ("skopeo", "copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false")
            execute([*copy, f"{name}:latest", f"oci:{image}"], seconds=900)
            execute(["umoci", "insert", "--image", image, str(tree), "/"], seconds=900)
            execute(["umoci", "insert", "--image", image, str(headers), f"/{vllm.SITE}/torch/include"], seconds=900)
            variables = [word for value in ENVIRONMENT for word in ("--config.env", value)]
            execute(["umoci", "config", "--image", image, *variables], seconds=120)
            execute([*copy, "--format", "v2s2", f"oci:{image}", f"{name}:{TAG}"], seconds=900)
    (folder / "registry.json").unlink()
