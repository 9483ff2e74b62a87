"""A whole node in memory on which every check passes. Each answer that it gives to a question is a fact.

What Proxmox VE and its storage answer comes from `tests.model.node`; this adds what stands inside a container: systemd,
Docker, NVIDIA's driver (the words of an H100, twice), the suite's own scripts, and the test server's HTTP answers.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import io
import json
import re
import shlex
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fixtures.gpu import gpus, node_gpus, reboot
from fixtures.proxmox import address, conf, disk, docker, pmxcfs, tasks
from fixtures.proxmox.channel import Channel
from fixtures.proxmox.command import Command
from fixtures.proxmox.container import ENVIRONMENT
from fixtures.proxmox.tasks import START
from fixtures.remote.container_probe import digest
from fixtures.serving import all_reduce, caches, server
from fixtures.template import descendant, family, generations, identity, kept, manifest, record_store, tidy
from fixtures.template.ephemeral_clone import KNOCK
from tests.model.node import Guest, ModelNode
from tests.model.run import ModelChannel

DIGEST = f"vllm/vllm-openai@sha256:{'ab' * 32}"
MEMBER = 931  # a container that descends from the template
UUIDS = ("GPU-11111111-2222-3333-4444-0123456789ab", "GPU-55555555-6666-7777-8888-ba9876543210")
PCI = ("00000000:01:00.0", "00000000:41:00.0")
ONE = (Path(__file__).parent.parent / "data/nvidia-h100/nvidia-smi-q.xml").read_text(encoding="utf-8")
BEFORE, CARD, AFTER = re.split(r"(\s*<gpu id.*</gpu>)", ONE, flags=re.DOTALL)
MODEL = "Qwen/Qwen2.5-Coder-0.5B-Instruct-GPTQ-Int8"
XID = "[    3.1] NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.159.04"
PACKAGES = {"docker-ce:amd64": "5:29.0.1", "libc6:amd64": "2.39-0ubuntu8"}
OS = 'NAME="Ubuntu"\nVERSION_ID="24.04"\nID=ubuntu\nVERSION_CODENAME=noble\n'
Answer = tuple[int, bytes, bytes]


def card(index: int) -> str:
    """One GPU's part of nvidia-smi's report."""
    found = re.sub(r"<uuid>.*?</uuid>", f"<uuid>{UUIDS[index]}</uuid>", CARD)
    found = re.sub(r"<minor_number>.*?<", f"<minor_number>{index}<", found)
    return re.sub(r'(<gpu id="|<pci_bus_id>)[^"<]*', rf"\g<1>{PCI[index]}", found)


def report(*indexes: int) -> str:
    """The report of `nvidia-smi -q -x` on some GPUs."""
    return BEFORE + "".join(map(card, indexes)) + AFTER


LISTED = "".join(f"GPU {index}: NVIDIA H100 80GB HBM3 (UUID: {uuid})\n" for index, uuid in enumerate(UUIDS))
CAPABILITIES = "".join(f"capability={uuid}, 9.0\n" for uuid in UUIDS)
IMAGE = [
    {
        "Id": f"sha256:{'cd' * 32}",
        "RepoDigests": [DIGEST],
        "Size": 30_000_000_000,
        "Config": {"Entrypoint": ["vllm", "serve"], "Env": ["PATH=/usr/bin"]},
    }
]
TIDY: dict[str, dict[str, Any]] = {
    "note": {"at": 1.0, "sizes": {"/usr": 2_000_000_000}, "layers": 0},
    "clean": {"at": 2.0, "freed": {}},
    "look": {
        **{"sizes": {"/usr": 2_000_000_000}, "grown": 30_000_000_000, "layers": 30_000_000_000, "unknown": 0},
        **{"caches": {"/var/lib/phoenix/caches": 1000}, "added": [], "rest": []},
        **{"containers": [], "docker": [], "logs": []},
    },
    "find": {"secrets": [], "histories": [], "looked": {"files": 20_000, "bytes": 900_000_000, "unread": []}},
}
PAGES = {
    "/manifests/": {"layers": [{"size": 8 << 30}], "config": {"digest": "sha256:1"}},
    "/blobs/": {"config": {"Env": ["NVIDIA_REQUIRE_CUDA=cuda>=12.9", "TORCH_CUDA_ARCH_LIST=8.0 9.0+PTX"]}},
    "config.json": {"num_attention_heads": 14, "hidden_size": 896, "quantization_config": {"group_size": 64}},
    "/api/models/": {"siblings": [{"rfilename": "model.safetensors", "size": 600_000_000}]},
}
CUDA = {"error": "", "cuda": "13.0", "count": 2, "copied": 1 << 20, "taken": 1 << 30, "product": "right"}
SYSTEMD = {
    "systemctl is-active docker": "active",
    "systemctl is-enabled docker": "enabled",
    "systemctl is-system-running": "running",
    "systemctl --failed --plain --no-legend": "",
}


@dataclass
class WorldNode(ModelNode):
    """The model of a node, with what its containers hold; `given` is the GPUs of the last container of Docker's."""

    given: tuple[int, ...] = (1,)

    def call(self, argv: Sequence[str], stdin: bytes = b"") -> tuple[int, bytes, bytes, str]:
        """Run a command: one of those that are answered here, else as the model does."""
        words = list(argv)
        if words[0] in ("pct", "lxc-attach") and words[1] in ("exec", "-n"):
            number = int(words[2])
            guest = self.guests.get(number)
            if guest and guest.running:
                if gpus_given := re.search(r"--gpus (?:all|device=(\d+))", shlex.join(words)):
                    self.given = (int(gpus_given[1]),) if gpus_given[1] else (0, 1)
                said = inside_of(self, number, words[words.index(ENVIRONMENT[-1]) + 1 :], stdin)
                if said is not None:
                    return 0, said.encode(), b"", ""
        elif (said := on_the_node(words, stdin)) is not None:
            return 0, said.encode(), b"", ""
        elif words[:3] == ["sh", "-c", kept.FIND]:
            return 0, self.family(), b"", ""
        elif words[:3] == ["sh", "-c", address.ASK]:
            return 0, b"ARPING\nSent 1 probes (1 broadcast(s))\nReceived 0 response(s)\n", b"", ""
        return super().call(argv, stdin)

    def add_descendant(self) -> None:
        """A running clone of the accepted snapshot, as `pct clone` makes it."""
        parent = self.guests[920]
        config = {
            **parent.config,
            "hostname": "member",
            "rootfs": parent.config["rootfs"].replace("-920-", f"-{MEMBER}-"),
        }
        made = Guest(parent.maker, config, parent.snapshots["vllm-base-snapshot"].description, running=True)
        self.volumes[made.volumes[0]] = copy.deepcopy(self.volumes[parent.volumes[0]])
        self.guests[MEMBER] = made

    def family(self) -> bytes:
        """The files of the node that `kept.FIND` archives."""
        files = {f"/etc/pve/nodes/pve/lxc/{number}.conf": guest.text() for number, guest in self.guests.items()}
        files |= {f"{generations.FOLDER}/920/{number}.json": text for number, text in self.generations.items()}
        if text := self.volumes[self.guests[920].volumes[0]].files.get("manifest.json", b"").decode():
            files[f"{record_store.FOLDER}/{manifest.digest(manifest.from_json(text))}/manifest.json"] = text
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, each in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(each.encode())
                archive.addfile(member, io.BytesIO(each.encode()))
        return buffer.getvalue()


def on_the_node(argv: list[str], stdin: bytes) -> str | None:  # noqa: PLR0911 - one line a command
    """What a command on the node prints, if the model does not know it."""
    match argv:
        case ["sh", "-c", node_gpus.SCRIPT]:
            return report(0, 1) + CAPABILITIES
        case ["sh", "-c", reboot.ASK]:
            return "device=195 nvidia\ndevice=511 nvidia-uvm\nearly=60-nvidia.rules\nend\n"
        case ["cat", descendant.DRIVER]:
            return "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build"
        case ["dmesg"]:
            return XID
        case ["uname", "-m"]:
            return "x86_64"
        case ["test", "-d", _]:
            return ""
        case ["sh", "-c", disk.READ, *_]:
            return "{}"
        case ["sh", "-c", disk.SIZES, *_]:
            return "1 libnvidia-ml.so.580.159.04\n1 libnvidia-ml.so.1\n1 libc.so.6"
        case ["curl", *_]:
            url = re.search(r'url = "(.*)"', stdin.decode())
            page = next(page for part, page in PAGES.items() if url and part in url[1])
            return f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{json.dumps(page)}"
    return None


def inside_of(node: WorldNode, number: int, argv: list[str], stdin: bytes) -> str | None:  # noqa: PLR0911, PLR0912 - one line a command
    """What a command in a container prints, if the model does not know it."""
    declared, script = node.guests[number].config, stdin.decode(errors="replace")
    line = argv[2] if argv[:2] == ["sh", "-c"] else shlex.join(argv)
    if line in SYSTEMD:
        return SYSTEMD[line]
    match argv:
        case ["nvidia-smi", "-q", "-x", "-i", index]:
            return report(int(index))
        case ["nvidia-smi", "topo", "-m"]:
            return "GPU0 X NV18\nGPU1 NV18 X\n"
        case ["sh", "-c", gpus.LIST]:
            return report(0, 1) + CAPABILITIES
        case ["sh", "-c", docker.LIST]:
            return docker.WHOLE
        case ["sh", "-c", caches.GPUS]:
            return "NVIDIA-H100-80GB-HBM3"
        case ["docker", "run", *rest] if all_reduce.SEND in rest:
            asked = json.loads(stdin[len(all_reduce.PROBE) :])
            return json.dumps(
                [{"name": way["name"], "state": "right", "detail": "as the CPU"} for way in asked["ways"]]
            )
        case ["docker", "run", *rest] if "python3" in rest:
            card = UUIDS[int(rest[rest.index("--gpus") + 1].removeprefix("device="))]  # all are asked at the same time
            return f"True 2.11.0+cu130 1 {card.removeprefix('GPU-')} NVIDIA H100 80GB HBM3"
        case ["sh", "-c", script_text, *_] if script_text in (docker.REMOVE, server.LOGS, tidy.NOTE_IMAGE, caches.KEEP):
            return ""
        case ["sh", "-c", script_text, *_] if "docker run" in script_text:
            return "kept"
        case ["docker", "info", *_]:
            return json.dumps({"Driver": "overlay2", "Runtimes": {"nvidia": {}, "runc": {}}, "ServerVersion": "29.0.1"})
        case ["docker", "image", "inspect", *_]:
            return json.dumps(IMAGE)
        case ["docker", "exec", _, "nvidia-smi", "-L"]:
            return "".join(
                f"GPU {place}: NVIDIA H100 80GB HBM3 (UUID: {UUIDS[each]})\n" for place, each in enumerate(node.given)
            )
        case ["docker", "run", *_]:
            return "0123456789ab"
        case ["df", *_]:
            return "Used\n1000000"
        case ["ss", *_]:
            return "State Recv-Q Send-Q Local Address:Port Peer Address:Port Process"
        case ["hostname"]:
            return declared["hostname"]
        case ["ip", "-brief", "address", *_]:
            ip = re.search(r"ip=([\d./]+)", declared["net0"])
            return f"eth0@if9 UP {ip[1] if ip else ''} \ndocker0 DOWN 172.17.0.1/16 \n"
        case ["systemd-detect-virt", "--container"]:
            return "lxc"
        case ["cat", "/proc/self/uid_map"]:
            return "         0          0 4294967295"
        case ["stat", "--file-system", *_]:
            return f"{64 * 2**30 // 131072} 131072 ext2/ext3"
        case ["stat", *_]:
            return "0\n0\n0"
        case ["sh", "-c", family.READ, *_]:
            return node.volumes[node.guests[number].volumes[0]].files.get("manifest.json", b"").decode()
        case ["/etc/phoenix/verify"]:
            made = json.loads(node.volumes[node.guests[number].volumes[0]].files["manifest.json"])
            manifest_of = digest(made["template"])
            return f"came from pve:pve/lxc/920@vllm-base-snapshot, generation 1, manifest sha256:{manifest_of}\n"
        case ["python3", "-", *nodes] if script == gpus.NODES:
            return "".join(f"{each} may be used\n" for each in nodes)
        case ["python3", "-", index, _] if stdin == gpus.PROBE:
            return json.dumps({**CUDA, "uuid": UUIDS[int(index)].removeprefix("GPU-").replace("-", "")})
        case ["python3", "-"] if "\nanswer(facts, " in script[-3000:]:
            more = {"libraries": ["libcuda.so.580.159.04"], "devices": {"nvidia-uvm": 511}} if number == MEMBER else {}
            return json.dumps({**content(node, number), **more})
        case ["python3", "-"] if call := re.search(r"\nanswer\((\w+), ", script[-3000:]):
            return json.dumps(TIDY[call[1]])
        case ["sh", "-s"] if stdin == identity.READ.read_bytes():
            return identity_of(number, declared)
        case ["sh", "-s"] if "nvidia-smi" in script:
            return f"{LISTED}reloaded\n{LISTED}"
        case ["sh", "-s"] if "the probe ran" in script:
            return "the probe ran"
    first = {"uname -s": "Linux", "cat /etc/os-release": OS, "uname -m": "x86_64"}
    return first.get(line)


def identity_of(number: int, declared: dict[str, str]) -> str:
    """What identifies a container: each value is its own."""
    names = ("machine id", "Docker's engine id", "containerd's id", "/etc/ssh/ssh_host_ed25519_key.pub")
    own = "".join(f"{name}={number}-{name[:3]}\n" for name in names)
    ip = re.search(r"ip=([\d./]+)", declared["net0"])
    return f"{own}host name={declared['hostname']}\naddresses={ip[1] if ip else ''} \n"


def content(node: ModelNode, number: int) -> dict[str, Any]:
    """What the suite's script that looks inside says."""
    files = node.volumes[node.guests[number].volumes[0]].files
    return {
        "template": {
            "image": {"name": "vllm/vllm-openai:latest", "id": IMAGE[0]["Id"], "digest": DIGEST},
            "packages": {"count": len(PACKAGES), "sha256": digest(PACKAGES)},
            "files": {"/etc/docker/daemon.json": "1" * 64},
            "software": {"docker": "29.0.1", "containerd": "2.1.5", "runc": "1.3.3", "toolkit": "1.18.0"},
            "model": {"name": MODEL, "folder": "/m", "revision": "5" * 40, "files": {"config.json": "2" * 64}},
        },
        "around": {
            "kernel": "6.17.2-1-pve",
            "driver": "580.159.04",
            "gpus": {str(index): f"NVIDIA H100 80GB HBM3, {uuid}" for index, uuid in enumerate(UUIDS)},
        },
        "packages": PACKAGES,
        "kept": {name: sha256(text).hexdigest() for name, text in files.items()},
        "read": {},
    }


# --- the test server --------------------------------------------------------------------------------------


def http(path: str, body: dict[str, Any]) -> str:
    """What the test server answers."""
    if path == "/health":
        return ""
    if path == "/v1/models":
        return json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]})
    if path == "/v1/completions":
        scores = [{str(len(word)): {"logprob": -2.0}} for word in str(body["prompt"]).split()]
        scored = [{"text": "", "prompt_logprobs": [None, *(scores or [{"1": {"logprob": -2.0}}])]}]
        return json.dumps({"model": MODEL, "choices": scored, "usage": {"prompt_tokens": 1 + max(1, len(scores))}})
    usage = {"completion_tokens": body.get("max_tokens", 1), "prompt_tokens": 30}
    message = {"role": "assistant", "content": "The capital of France is Paris."}
    logprobs = {"content": [{"token": word, "logprob": -0.25} for word in str(message["content"]).split()]}
    choice = {"message": message, "finish_reason": "stop", **({"logprobs": logprobs} if body.get("logprobs") else {})}
    whole = {"model": MODEL, "choices": [choice], "usage": usage}
    if not body.get("stream"):
        return json.dumps(whole)
    parts = [{"model": MODEL, "choices": [{"delta": {"content": "Paris"}}]}] * int(body.get("max_tokens", 1))
    last = {"model": MODEL, "choices": [], "usage": usage}
    return "".join(f"data: {json.dumps(each)}\n\n" for each in (*parts, last)) + "data: [DONE]\n\n"


Spoil = Callable[[str, Answer], Answer]


class HttpServer(ThreadingHTTPServer):
    """The test server; `spoil` may change its answers, as those of commands."""

    daemon_threads = True
    request_queue_size = 64  # a busy machine accepts them late, and those beyond the queue would be cut off
    spoil: Spoil = staticmethod(lambda _, answer: answer)


class Handler(BaseHTTPRequestHandler):
    """One question."""

    server: HttpServer

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: dict[str, Any]) -> None:
        what = f"{'stream of ' * bool(body.get('stream'))}{self.command} {self.path}"
        what += " with log probabilities" * ("logprobs" in body)
        status, out, _ = self.server.spoil(what, (0, http(self.path, body).encode(), b""))
        self.send_response(503 if status else 200)
        self.send_header("Content-Length", str(len(out)))
        self.end_headers()
        self.wfile.write(out)

    def log_message(self, *_: Any) -> None: ...


# --- the way there ----------------------------------------------------------------------------------------


class WorldChannel(ModelChannel):
    """A channel that tells each question and its answer to `spoil`, which may change the answer."""

    def __init__(self, node: ModelNode, spoil: Spoil, port: int, name: str = "n", prefix: tuple[str, ...] = ()) -> None:
        super().__init__(node, name, prefix)
        self.spoil, self.port = spoil, port

    def inside(self, place: str, prefix: tuple[str, ...]) -> Channel:
        return self._inner.setdefault(
            place, WorldChannel(self.node, self.spoil, self.port, f"{self.name}/{place}", prefix)
        )

    def run(self, argv: Sequence[str], *, deadline: float, stdin: bytes = b"", **more: Any) -> Command:
        done = super().run(argv, deadline=deadline, stdin=stdin, **more)
        if tuple(argv[:3]) == ("sh", "-c", START):  # a change: what comes of it is read as a fact afterwards
            return done
        answer = (done.exit_status, done.stdout, done.stderr)
        if argv[-1] == pmxcfs.READ:
            answer = self._spoil_files(answer)
        status, out, err = self.spoil(named(self.name, argv, stdin), answer)
        return replace(done, exit_status=status, stdout=out, stderr=err)

    def _spoil_files(self, answer: Answer) -> Answer:
        """The node's files, each of which is a fact; without one of them there is no answer."""
        *lines, last = answer[1].decode().splitlines()
        files = dict(line.split(" ") for line in lines)
        for path, text in files.items():
            number = path.removeprefix("lxc/").removesuffix(".conf")
            what = f"{NAMES[conf.READ]} of {number}" if number.isdigit() else path
            status, out, _ = self.spoil(what, (0, base64.b64decode(text), b""))
            if status:
                return 1, b"", b"can't be read"
            files[path] = base64.b64encode(out).decode()
        return 0, "\n".join((*(" ".join(each) for each in files.items()), last)).encode(), b""

    def spawn(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        if "docker pull" in shlex.join(argv):
            status, out, _ = self.spoil("`docker pull` in 920", (0, b"Status: Downloaded newer image\n", b""))
            argv = ("sh", "-c", 'printf %s "$1"; exit $2', "sh", out.decode(), str(status))
            return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=options.get("output"), start_new_session=True)
        lasts = ("cat",) if options.get("stdin") == subprocess.PIPE else ("sleep", "60")
        output = options.get("output", subprocess.DEVNULL)
        return subprocess.Popen(lasts, stdin=options.get("stdin"), stdout=output, start_new_session=True)

    @contextlib.contextmanager
    def forward(self, address: str, port: int) -> Iterator[tuple[str, int]]:
        yield "127.0.0.1", self.port


NAMES = {
    kept.FIND: "the family's files",
    family.READ: "the manifest",
    node_gpus.SCRIPT: "nvidia-smi -q -x",
    reboot.ASK: "who makes NVIDIA's devices",
    gpus.LIST: "nvidia-smi -q -x",
    conf.READ: "the configuration file",
    pmxcfs.READ: "the node's files",
    pmxcfs.SOCKETS: "the node's sockets",
    tasks.TOLD: "the notes of earlier changes",
    generations.READ: "the journal of generations",
    record_store.READ: "the kept record",
    address.ASK: "arping",
    KNOCK: "ip neigh",
    disk.READ: "daemon.json",
    disk.SIZES: "NVIDIA's libraries",
    docker.LIST: "docker ps",
    docker.REMOVE: "removing leftovers in Docker",
    caches.GPUS: "nvidia-smi --query-gpu=name",
    tidy.NOTE_IMAGE: "note of the image",
    gpus.NODES: "device nodes",
}


def named(where: str, argv: Sequence[str], stdin: bytes) -> str:
    """A question in a few words."""
    words, script = list(argv), stdin.decode(errors="replace")
    place = f" in {where.rpartition('ct')[2]}" if "/ct" in where else ""
    if words[0] == "lxc-attach":
        place, words = f" in {words[2]}", words[words.index(ENVIRONMENT[-1]) + 1 :]
    known = "adding up over all GPUs" if all_reduce.SEND in words else ""
    known = known or ("note of the run" if len(words) == 3 and words[2].startswith("run=") else "")
    known = known or next((NAMES[text] for text in (*words[2:3], script) if text in NAMES), "")
    if known and words[2] == conf.READ:
        return f"{known} of {words[-1]}"
    if known:
        return f"{known}{place}"
    if words[0] == "python3":
        call = re.search(r"\nanswer\((\w+), ", script[-3000:])
        names = {"facts": "content", "find": "looking for secrets"}
        what = names.get(call[1], f"looking for {call[1]}") if call else "CUDA" if len(words) == 4 else "content"
        return f"{what}{place}"
    if words[:2] == ["sh", "-s"]:
        what = "identity" if "machine id" in script else "reload" if "daemon-reload" in script else "docker run"
        return f"{what}{place}"
    if words[0] == "curl":
        url = re.search(r'url = "(.*)"', script)
        return next(f"GET {part.strip('/')}" for part in PAGES if url and part in url[1])
    if words[:2] == ["sh", "-c"]:
        words = shlex.split(words[2]) if len(words) == 3 else ["docker", "run"]
    if words[:2] == ["docker", "run"]:
        words = words[:2]
    text = " ".join(word for word in words if word not in ("--output-format", "json", "get"))
    return f"`{text.replace('/nodes/pve/', '')[:70]}`{place}"
