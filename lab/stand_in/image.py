"""Puts the images of the stand-in into the node's registry; runs on the node: `python3 -m lab.stand_in.image`.

They are made from the lab's vLLM image through the registry's own interface: its first layer, which is
Debian with Python, and a small one with `server.py` as `vllm`. So nothing has to be copied.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

REPOSITORY = "http://10.0.0.1:5000/v2/vllm/vllm-openai"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
HUGE = 8_700_000_000  # bytes of vLLM's real image, as the registry lists it; it can't be pulled
LARGE = 24 * 2**20  # bytes that can't be packed, so that a download can be slow or cut off


def push() -> None:
    """Push `stand-in` and its variants: of another size, entrypoint, or with other demands on the GPUs."""
    base = json.loads(_get("manifests/latest", MANIFEST))
    config = json.loads(_get(f"blobs/{base['config']['digest']}"))
    server = Path(__file__).with_name("server.py").read_bytes()
    small = _layer({"usr/local/bin/vllm": server})
    large = _layer({"usr/local/bin/vllm": server, "usr/share/ballast": os.urandom(LARGE)})
    _push_image("stand-in", base, config, small)
    _push_image("stand-in-large", base, config, large)
    _push_image("stand-in-huge", base, config, small, size=HUGE)
    words = config["config"]
    for tag, other in {
        "stand-in-shell": {"Entrypoint": ["sh"]},
        "stand-in-new-cuda": {"Env": [*words["Env"], "NVIDIA_REQUIRE_CUDA=cuda>=99.0"]},
        "stand-in-old-gpus": {"Env": [*words["Env"], "TORCH_CUDA_ARCH_LIST=7.0 8.0"]},
    }.items():
        _push_image(tag, base, {**config, "config": {**words, **other}}, small)


def _layer(files: dict[str, bytes]) -> bytes:
    """An uncompressed layer."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _push_image(tag: str, base: dict[str, Any], config: dict[str, Any], layer: bytes, size: int = 0) -> None:
    packed = gzip.compress(layer, compresslevel=1, mtime=0)
    difs = [config["rootfs"]["diff_ids"][0], _digest(layer)]
    text = json.dumps({**config, "rootfs": {"type": "layers", "diff_ids": difs}, "history": []}).encode()
    for blob in (packed, text):
        _push_blob(blob)
    layers = [base["layers"][0], {"mediaType": LAYER, "size": size or len(packed), "digest": _digest(packed)}]
    described = {**base["config"], "size": len(text), "digest": _digest(text)}
    _send("PUT", f"{REPOSITORY}/manifests/{tag}", json.dumps({**base, "config": described, "layers": layers}).encode())


def _push_blob(content: bytes) -> None:
    place = _send("POST", f"{REPOSITORY}/blobs/uploads/", b"")
    _send("PUT", f"{place}{'&' if '?' in place else '?'}digest={_digest(content)}", content)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _get(path: str, kind: str = "*/*") -> bytes:
    request = urllib.request.Request(f"{REPOSITORY}/{path}", headers={"Accept": kind})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return bytes(answer.read())


def _send(method: str, address: str, content: bytes) -> str:
    """Send something to the registry; returns its address for the next step."""
    kind = MANIFEST if "/manifests/" in address else "application/octet-stream"
    request = urllib.request.Request(address, data=content, method=method, headers={"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(answer.headers.get("Location", ""))


if __name__ == "__main__":
    push()
