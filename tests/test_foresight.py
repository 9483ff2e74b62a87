"""What is known before anything is made: asked over HTTP for real, or read from text."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.base.image_name import HUB, Name
from fixtures.gpu import fit, node_gpus, nvidia_smi
from fixtures.proxmox import conf, web
from fixtures.proxmox.channel import Channel
from fixtures.proxmox.command import Command
from fixtures.proxmox.disk import Disk
from fixtures.proxmox.node import Node
from fixtures.serving import model, registry
from fixtures.serving.model import Model
from fixtures.serving.registry import Published

TEXT = st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode(errors="replace"))


class Server:
    """A web server of the test's own: a page for each path, behind a token if `token` is set."""

    def __init__(self) -> None:
        self.pages: dict[str, object] = {}
        self.token = ""
        self.seen: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.seen.append(self.path)
                path = self.path.partition("?")[0]
                if server.token and path != "/token" and self.headers["Authorization"] != f"Bearer {server.token}":
                    self.send_response(401)
                    realm = f'Bearer realm="http://{server.address}/token",service="s",scope="repository:a/b:pull"'
                    self.send_header("WWW-Authenticate", realm)
                    self.end_headers()
                    return
                page = server.pages.get(path)
                self.send_response(404 if page is None else 200)
                self.end_headers()
                self.wfile.write(page if isinstance(page, bytes) else json.dumps(page).encode())

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


@pytest.fixture
def node() -> Node:
    return Node(Channel("local"))


def look_up(node: Node, image: str, daemon: dict[str, Any]) -> Published:
    disk = SimpleNamespace(json={"/etc/docker/daemon.json": daemon}.__getitem__)
    return registry.look_up(node, cast(Any, disk), image)


MANIFEST = {"layers": [{"size": 600}, {"size": 400}], "config": {"digest": "sha256:" + "c" * 64}}
INDEX = {
    "manifests": [
        {"digest": "sha256:" + "a" * 64, "platform": {"os": "linux", "architecture": "arm64"}},
        {"digest": "sha256:" + "b" * 64, "platform": {"os": "linux", "architecture": "amd64"}},
    ]
}


def serve_image(server: Server, repository: str) -> None:
    server.pages |= {
        f"/v2/{repository}/manifests/latest": INDEX,
        **{f"/v2/{repository}/manifests/sha256:{each * 64}": MANIFEST for each in "ab"},
        f"/v2/{repository}/blobs/sha256:{'c' * 64}": {"config": {"Env": ["NVIDIA_REQUIRE_CUDA=cuda>=12.9"]}},
    }


def test_image_of_a_registry_that_wants_a_token(server: Server, node: Node) -> None:
    heard: list[Command] = []
    node.channel.listeners.append(heard.append)
    server.token = "t0ken-of-the-test"
    server.pages["/token"] = {"token": server.token}
    serve_image(server, "a/b")
    daemon = {"insecure-registries": [server.address]}
    asked = look_up(node, f"{server.address}/a/b", daemon)
    assert asked == Published(f"http://{server.address}", 1000, ("NVIDIA_REQUIRE_CUDA=cuda>=12.9",))
    assert "/token?service=s&scope=repository%3Aa%2Fb%3Apull" in server.seen
    assert not [command for command in heard if server.token in " ".join(command.argv)]


def test_mirror_is_asked_first(server: Server, node: Node) -> None:
    serve_image(server, "vllm/vllm-openai")
    daemon = {"registry-mirrors": [f"http://{server.address}/"]}
    asked = look_up(node, "vllm/vllm-openai", daemon)
    assert asked.source == f"http://{server.address}"


@pytest.mark.parametrize("wrong", [5, "https://m", {"https://m": 1}, None])
def test_mirrors_that_are_no_list_are_none(server: Server, node: Node, wrong: object) -> None:
    """Docker refuses such a daemon.json and says so; whoever only looks ahead is not stopped by it."""
    serve_image(server, "a/b")
    for daemon in ({"registry-mirrors": wrong}, {"insecure-registries": wrong}):
        asked = look_up(node, f"{server.address}/a/b", daemon)
        assert len(asked.failures) == 1


@pytest.mark.parametrize(
    "page",
    [
        *(b"", b"\xff\xfe", [], {}, {"layers": [{}]}, {"layers": [{"size": "x"}], "config": {}}),
        *({"manifests": [1]}, {"manifests": 5}, {"layers": [{"size": float("inf")}], "config": {}}),
    ],
)
def test_registry_that_talks_nonsense_is_no_answer(server: Server, node: Node, page: object) -> None:
    server.pages["/v2/a/b/manifests/latest"] = page
    daemon = {"insecure-registries": [server.address]}
    asked = look_up(node, f"{server.address}/a/b", daemon)
    assert not asked.source
    assert len(asked.failures) == 1


def test_registry_that_is_not_there_is_told(node: Node) -> None:
    asked = look_up(node, "127.0.0.1:9/a/b", {"insecure-registries": ["127.0.0.1:9"]})
    assert "onnect" in asked.failures[0]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("vllm/vllm-openai:v0.32.0", Name(HUB, "vllm/vllm-openai", "v0.32.0")),
        ("debian", Name(HUB, "library/debian", "latest")),
        ("docker.io/vllm/x", Name(HUB, "vllm/x", "latest")),
        ("host:5000/a/b@sha256:" + "0" * 64, Name("host:5000", "a/b", "sha256:" + "0" * 64)),
        ("[fd00::1]:5000/a/b:c", Name("[fd00::1]:5000", "a/b", "c")),
        ("[::1]/a", Name("[::1]", "a", "latest")),
        ("[fd00::1]x/a", None),
        ("fd00::1/a", None),
        ("host:port/a", None),
        ("a/b:$(id)", None),
        ("a/../b", None),
        ('a"b', None),
        ("", None),
    ],
)
def test_name_is_taken_apart_as_docker_does(text: str, name: Name | None) -> None:
    assert Name.parse(text) == name


def test_model_of_the_hub(server: Server, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "HUB", f"http://{server.address}")
    server.token = "hf_of-the-test"
    server.pages["/org/m/resolve/main/config.json"] = {"num_attention_heads": 14}
    files = [
        {"rfilename": "a.safetensors", "size": 5},
        {"rfilename": "b.bin", "size": 7},
        {"rfilename": "c.safetensors"},
    ]
    server.pages["/api/models/org/m"] = {"siblings": files}
    disk: Any = None
    found = model.look_at(node, disk, "org/m", {"Authorization": f"Bearer {server.token}"})
    assert found == Model({"num_attention_heads": 14}, 5)
    assert model.look_at(node, disk, "org/none", {}).unseen.endswith("answered 401")
    assert model.look_at(node, disk, "org/m?x=$(id)", {}).unseen


@pytest.mark.parametrize(("quantisation", "size"), [("Q4_K_M", 7), ("q8_0", 3), ("F16", 9), ("Q6_K", 40), ("Q4_K", 0)])
def test_of_gguf_files_only_the_named_ones_count(
    server: Server, node: Node, monkeypatch: pytest.MonkeyPatch, quantisation: str, size: int
) -> None:
    """A repository has one model in many quantisations, some in parts or folders; most have no config.json."""
    monkeypatch.setattr(model, "HUB", f"http://{server.address}")
    files = {"m-Q4_K_M.gguf": 7, "m.Q8_0.gguf": 3, "m-f16-00001-of-00002.gguf": 4, "m-f16-00002-of-00002.gguf": 5}
    files |= {"Q6_K/m-Q6_K-00001-of-00001.gguf": 40, "README-Q4_K_M.md": 100}
    server.pages["/api/models/org/m"] = {"siblings": [{"rfilename": file, "size": n} for file, n in files.items()]}
    disk: Any = None
    found = model.look_at(node, disk, f"org/m:{quantisation}", {})
    assert (found.weights, found.unseen) == (size, "the model's configuration: org/m has only GGUF files")


@pytest.mark.parametrize("files", [5, [1], [{"rfilename": "a.safetensors", "size": "x"}]])
def test_files_of_another_shape_have_no_size(
    server: Server, node: Node, monkeypatch: pytest.MonkeyPatch, files: object
) -> None:
    monkeypatch.setattr(model, "HUB", f"http://{server.address}")
    server.pages["/org/m/resolve/main/config.json"] = {}
    server.pages["/api/models/org/m"] = {"siblings": files}
    disk: Any = None
    assert model.look_at(node, disk, "org/m", {}).weights == 0


@pytest.mark.parametrize(
    ("config", "ways", "said"),
    [
        ({"num_attention_heads": 9}, 2, "its 9 attention heads can't be split over 2 GPUs"),
        ({"num_attention_heads": 9}, 1, ""),
        ({"text_config": {"num_attention_heads": 5}}, 2, "its 5 attention heads"),
        (
            {"num_attention_heads": 14, "hidden_size": 896, "quantization_config": {"group_size": 128}},
            2,
            "is 3.5 groups of 128",
        ),
        ({"num_attention_heads": 16, "hidden_size": 1024, "quantization_config": {"group_size": 128}}, 2, ""),
        ({"hidden_size": "x", "quantization_config": {"group_size": -1}}, 2, ""),
        ({"text_config": 5, "quantization_config": [1]}, 2, ""),
    ],
)
def test_split_of_a_model(config: dict[str, object], ways: int, said: str) -> None:
    problem = Model(config).split_problem(ways)
    assert said in problem
    assert bool(said) == bool(problem)


# as nvidia/cuda:12.9.1-base-ubuntu22.04 sets it, shortened
REQUIRE = (
    "NVIDIA_REQUIRE_CUDA=cuda>=12.9 brand=unknown,driver>=535,driver<536 brand=tesla,driver>=550,driver<551",
    "PATH=/bin",
)


@pytest.mark.parametrize(
    ("cuda", "driver", "brand", "lacks", "note"),
    [
        ("13.0", "580.76.05", "GeForce", "", ""),
        ("12.9", "575.1", "GeForce", "", ""),
        ("12.8", "570.1", "GeForce", "cuda>=12.9", ""),
        ("12.4", "550.163.01", "Tesla", "", "compatibility library"),
        ("12.4", "550.163.01", "GeForce", "cuda>=12.9", ""),
        ("12.4", "550.163.01", "", "", "whether"),
        ("", "575.64.03", "GeForce", "", "whether"),
        ("", "", "", "", "whether"),
    ],
)
def test_image_against_driver(cuda: str, driver: str, brand: str, lacks: str, note: str) -> None:
    refused, unknown, starts_by = fit.driver_lacks(REQUIRE, cuda, driver, brand)
    assert refused == lacks
    assert bool(unknown) == (note == "whether")
    assert note in unknown + starts_by
    assert bool(note) == bool(unknown + starts_by)
    assert fit.driver_lacks((*REQUIRE, "NVIDIA_DISABLE_REQUIRE=1"), cuda, driver, brand) == ("", "", "")


@pytest.mark.parametrize(
    ("require", "capability", "lacks", "unknown"),
    [
        ("cuda>=12.4,arch>=8.0", "8.9", "", ""),
        ("cuda>=12.4,arch>=8.0", "7.5", "arch>=8.0", ""),
        ("cuda>=12.4,arch>=8.0", "", "", "whether the node has cuda>=12.4,arch>=8.0"),
        ("driver!=550.54.14", "8.9", "", ""),
        ("driver!=550.54.15", "8.9", "driver!=550.54.15", ""),
        ("cuda>=12.4,colour=green", "8.9", "", "whether the node has cuda>=12.4,colour=green"),
        ("cuda>=13.0,colour=green", "8.9", "cuda>=13.0", ""),
    ],
)
def test_conditions_of_an_image(require: str, capability: str, lacks: str, unknown: str) -> None:
    """An unknown condition refuses nothing (github.com/NVIDIA/libnvidia-container, src/cli/dsl.c knows these)."""
    env = (f"NVIDIA_REQUIRE_CUDA={require}",)
    assert fit.driver_lacks(env, "12.4", "550.54.15", "GeForce", capability) == (lacks, unknown, "")


@pytest.mark.parametrize(
    ("listed", "capability", "fits"),
    [
        ("7.0 7.5 8.0 8.9 9.0 10.0 12.0", "12.0", True),
        ("7.0 7.5 8.0 8.6 9.0+PTX", "12.0", True),
        ("7.0 7.5 8.0 8.6 9.0", "12.0", False),
        ("8.0;9.0a", "8.9", True),
        ("8.9", "8.6", False),
        ("12.0", "", True),
        # PyTorch's cpp_extension takes names of architectures, too
        ("Ampere 9.0", "8.0", True),
        ("Ampere;9.0+PTX", "12.0", True),
    ],
)
def test_image_against_gpu(listed: str, capability: str, fits: bool) -> None:
    assert bool(fit.kernels_lack([f"TORCH_CUDA_ARCH_LIST={listed}"], capability)) is not fits


def smi_card(number: int, memory: str = "16311 MiB", processes: str = "") -> str:
    return (
        f'<gpu id="00000000:0{number + 1}:00.0"><product_name>GPU of the test</product_name>'
        f"<product_brand>GeForce</product_brand><uuid>GPU-{number}</uuid><minor_number>{number}</minor_number>"
        f"<fb_memory_usage><total>{memory}</total><free>{memory}</free></fb_memory_usage>"
        f"<processes>{processes}</processes></gpu>"
    )


def smi_log(*cards: str, head: str = "<cuda_version>13.0</cuda_version>") -> str:
    return f"<nvidia_smi_log><driver_version>580.76.05</driver_version>{head}{''.join(cards)}</nvidia_smi_log>"


def smi_process(pid: int, name: str, memory: str) -> str:
    return (
        f"<process_info><pid>{pid}</pid><type>C</type><process_name>{name}</process_name>"
        f"<used_memory>{memory}</used_memory></process_info>"
    )


def test_holders_are_named() -> None:
    processes = smi_process(4711, "VLLM::EngineCore, x", "15000 MiB") + smi_process(12, "python3", "N/A")
    found = node_gpus.parse(
        f"{smi_log(smi_card(0, processes=processes), smi_card(1))}\ncapability=GPU-0, 12.0\nx\n"
        "cgroup=4711,0::/lxc/950/ns/system.slice/docker-0123.scope\ncgroup=12,0::/user.slice\n"
    )
    assert sorted(found.gpus) == [0, 1]
    assert [str(each) for each in found.gpus[0].processes] == [
        "VLLM::EngineCore, x (PID 4711, in container 950) holds 15000 MiB",
        "python3 (PID 12, in the node itself) holds memory of unknown size",
    ]
    assert found.gpus[1].processes == ()
    assert (found.cuda, found.gpus[0].capability, found.gpus[1].capability) == ("13.0", "12.0", "")
    assert str(found.gpus[1]) == "GPU 1 (GPU of the test, 00000000:02:00.0, GPU-1)"


@pytest.mark.parametrize("head", ["<cuda_version>N/A</cuda_version>", "<cuda_version>Not Found</cuda_version>", ""])
def test_case_02_cuda_version_that_is_not_known(head: str) -> None:
    assert node_gpus.parse(smi_log(smi_card(0), head=head)).cuda == ""


def test_case_01_cuda_version_under_a_new_name() -> None:
    assert node_gpus.parse(smi_log(smi_card(0), head="<cuda_umd_version>13.3</cuda_umd_version>")).cuda == "13.3"


def test_case_04_memory_that_is_not_reported() -> None:
    gpu = node_gpus.parse(smi_log(smi_card(0, "N/A"))).gpus[0]
    assert (gpu.free_mib, gpu.memory_mib) == (None, None)


def test_case_05_full_answer_with_a_warning_is_an_answer() -> None:
    line = "WARNING: infoROM is corrupted at gpu 0000:0B:00.0"
    found = node_gpus.parse(f"{smi_log(smi_card(0))}\n{line}\n", 14)
    assert found.gpus[0].memory_mib == 16311
    assert found.notes[0] == line
    assert "InfoROM" in found.notes[1]


def test_no_report_is_told_in_the_words_of_nvidia_smi() -> None:
    with pytest.raises(nvidia_smi.NvidiaSmiError, match=r"driver is not loaded"):
        node_gpus.parse("NVIDIA-SMI has failed\n", 9)
    for hostile in ('<!DOCTYPE x [<!ENTITY a "b">]>&a;', "<nvidia_smi_log>&a;</nvidia_smi_log>", "<nvidia_smi_log>"):
        with pytest.raises(nvidia_smi.NvidiaSmiError):
            node_gpus.parse(hostile)


CONF = """#a note
arch: amd64
hostname: x

[one]
dev0: /dev/nvidia0
snaptime: 1

[two]
lxc.mount.entry: /dev/nvidia1 dev/nvidia1 none bind,optional,create=file
dev1: path=/dev/nvidia10
"""


@pytest.mark.parametrize(
    ("by_hand", "written"),
    [
        ("unprivileged: yes", "unprivileged: 1"),
        ("onboot: Off", "onboot: 0"),
        ("features: nesting=on,keyctl=yes,fuse=no", "features: nesting=1,keyctl=1,fuse=0"),
        ("dev0: gid=44,path=/dev/nvidia0", "dev0: /dev/nvidia0,gid=44"),
        ("rootfs: size=8G,volume=a:subvol-920-disk-0", "rootfs: a:subvol-920-disk-0,size=8G"),
        ("mp0: mp=/data,a:subvol-920-disk-1,backup=yes", "mp0: a:subvol-920-disk-1,mp=/data,backup=1"),
        ("net0: name=eth0,bridge=vmbr0,firewall=on", "net0: name=eth0,bridge=vmbr0,firewall=1"),
        ("hostname: yes", "hostname: yes"),
        ("tags: on;a=on", "tags: on;a=on"),
    ],
)
def test_line_that_is_written_by_hand_means_the_same(by_hand: str, written: str) -> None:
    """As Proxmox VE takes it (pve-common, PVE/JSONSchema.pm)."""
    assert conf.parse(by_hand.encode()).head.config == conf.parse(written.encode()).head.config
    key, _, value = written.partition(": ")
    assert conf.parse(by_hand.encode()).head.config == {key: value}


def test_misplaced_lines_are_found() -> None:
    found = conf.parse(CONF.encode())
    assert sorted(found.snapshots) == ["one", "two"]
    assert conf.misplaced(found, "", (0, 1)) == [
        "[one] dev0: /dev/nvidia0",
        "[two] lxc.mount.entry: /dev/nvidia1 dev/nvidia1 none bind,optional,create=file",
    ]
    assert conf.misplaced(found, "one", (0,)) == []
    assert conf.misplaced(found, "one", (2,)) == []


@given(TEXT)
def test_no_text_breaks_a_parser(text: str) -> None:
    """Foreign text is read or left out; nothing raises."""
    Name.parse(text)
    conf.misplaced(conf.parse(text.encode(errors="replace")), "", (0, 1))
    for around in (text, smi_log(smi_card(0)) + text, f"<nvidia_smi_log>{text}</nvidia_smi_log>"):
        with contextlib.suppress(nvidia_smi.NvidiaSmiError):
            node_gpus.parse(around)
    fit.driver_lacks([f"NVIDIA_REQUIRE_CUDA={text}"], text, text)
    fit.kernels_lack([f"TORCH_CUDA_ARCH_LIST={text}"], text)
    web.parse(text.encode(errors="replace"))
    web.parse(b"HTTP/" + text.encode(errors="replace") + b"\r\n\r\n")


@given(TEXT)
def test_no_text_leaves_its_line_of_curl(text: str) -> None:
    quoted = web._quoted(text)
    assert "\n" not in quoted
    assert "\r" not in quoted
    inner = quoted[1:-1].replace("\\\\", "").replace('\\"', "")
    assert '"' not in inner
    assert "\\" not in inner


def test_disk_shows_nothing_outside_of_it(tmp_path: Any, node: Node) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/daemon.json").write_text('\ufeff{"a": 1}')  # moby reads it with a byte order mark
    (tmp_path / "secret").write_text("s")
    (root / "etc/link").symlink_to("../../secret")
    disk = Disk.__new__(Disk)
    disk._node, disk._ctid, disk.root = node, 903, str(root)
    assert disk.json("/etc/daemon.json") == {"a": 1}
    assert disk.read("/etc/link") == disk.read("../secret") == disk.read("/etc") == disk.read("/etc/none") == ""
    assert disk.sizes("/etc") == {"daemon.json": 11, "link": 1}
    assert disk.sizes("/etc/$(id)") == {}
    (root / "lib").symlink_to("/etc")
    assert disk.sizes("/lib") == {}, "which is the node's folder"
