"""What a template must not hold is found, and what the suite has left is removed, in a container that never serves."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.proxmox.container import Container
from fixtures.proxmox.destination import open_channel
from fixtures.proxmox.node import Node
from fixtures.serving import caches
from fixtures.serving.image import Image
from fixtures.template import tidy
from tests.lab.harness import Lab

pytestmark = pytest.mark.lab

CTID = 930
IMAGE = "vllm/vllm-openai@sha256:" + 64 * "a"
SECRET = {"HF_TOKEN": "not-of-any-form-920"}


@pytest.fixture(scope="module")
def container(lab: Lab) -> Iterator[Container]:
    """A fresh clone of the parent, with what it holds noted."""
    lab.node("pct", "clone", "903", str(CTID), "--snapname", "docker-gpu-snapshot", "--full", "1", "--hostname", "tidy")
    lab.node("pct", "start", str(CTID))
    container = Container(Node(open_channel(f"lab:{lab.machine.name}")), CTID)
    container.wait_until_booted(60)
    tidy.note(container)
    yield container
    container.node.channel.close()
    lab.node("sh", "-c", f"pct stop {CTID}; pct destroy {CTID}")


@pytest.fixture
def settings() -> Any:
    return SimpleNamespace(
        test_model="/models/test-model",
        warm_caches="/var/lib/phoenix/caches",
        keep_model="/var/lib/phoenix/huggingface",
    )


def leftovers(container: Container, settings: Any, cleaned: bool = True) -> tidy.Leftovers:
    done = tidy.clean(container, IMAGE, settings, SECRET) if cleaned else {"at": time.time() + 1, "freed": {}}
    return tidy.find_leftovers(container, IMAGE, settings, SECRET, done)


def test_fresh_clone_is_tidy(container: Container, settings: Any) -> None:
    found = leftovers(container, settings)
    everything = [found.containers, found.docker, found.secrets, found.histories, found.logs, found.growth]
    assert everything == [[], [], [], [], [], []]
    assert found.content["sizes"]["/usr"] > 100_000_000
    assert [one["path"] for one in found.content["rest"]] == ["/var/log"]
    assert tidy.note(container) == tidy.note(container) > 300_000_000


SECRETS = {
    "/root/.netrc": ("machine hub login me", "passwords for other machines"),
    "/root/.docker/config.json": (
        '{"auths": {"ghcr.io": {"auth": "bWU6aXQtaXMtYS1zZWNyZXQ="}}}',
        "a login to a registry",
    ),
    "/home/me/.ssh/id_ed25519": ("-----BEGIN OPENSSH PRIVATE KEY-----\n" + 70 * "x" + "\n", "a private key"),
    "/etc/environment.d/hub.conf": (f"HF_TOKEN=hf_{34 * 'x'}", "a token for the Hugging Face Hub"),
    "/root/.ssh/authorized_keys": ("ssh-ed25519 AAAA build", "1 added keys that may log in"),
    "/var/lib/phoenix/caches/a/config.json": (f'{{"key": "{SECRET["HF_TOKEN"]}"}}', "the value of HF_TOKEN"),
    "/var/lib/phoenix/huggingface/token": ("whatever", "a token for the Hugging Face Hub"),
}


def test_secrets_are_found_by_place_form_and_value(container: Container, settings: Any) -> None:
    write = 'umask 077; mkdir -p "$(dirname "$1")"; cat > "$1"'
    for path, (text, _) in SECRETS.items():
        container.ask("sh", "-c", write, "sh", path, stdin=text.encode())
    try:
        found = leftovers(container, settings).secrets
    finally:
        container.ask("rm", "-rf", "/home/me", "/root/.docker", "/root/.ssh", *SECRETS)
    assert len(found) == len(SECRETS)
    for path, (_, what) in SECRETS.items():
        (line,) = [line for line in found if line.startswith(f"{path}: ")]
        assert what in line
        assert f"pct exec {CTID} -- rm {path}" in line
    assert not any(SECRET["HF_TOKEN"] in line for line in found)


KEPT = """db=/var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db
systemctl stop docker.socket docker containerd
{ printf %s "$1"; head -c 65536 /dev/zero; } | head -c 65536 >> $db
systemctl start containerd docker"""


def test_what_containerd_keeps_of_an_environment_is_overwritten(container: Container, settings: Any) -> None:
    """Its database frees the page of a container that is gone, and does not clear it; every clone would bring it."""
    container.ask("sh", "-ec", KEPT, "sh", f"HF_TOKEN={SECRET['HF_TOKEN']}")
    (line,) = leftovers(container, settings, cleaned=False).secrets
    assert "meta.db: the value of HF_TOKEN" in line
    assert leftovers(container, settings).secrets == []
    container.ask("docker", "info", only_reads=True)


def test_history_is_found(container: Container, settings: Any) -> None:
    container.ask("sh", "-c", "echo docker login > /root/.bash_history; : > /root/.python_history")
    found = leftovers(container, settings).histories
    container.ask("sh", "-c", "rm /root/.bash_history /root/.python_history")
    assert [line.partition(":")[0] for line in found] == ["/root/.bash_history"]


MAKE_IMAGES = """
tar --create --absolute-names /etc/os-release | docker import - left:first >/dev/null
tar --create --absolute-names /etc/os-release /etc/passwd | docker import - left:first >/dev/null
docker create --name somebodys left:first sh >/dev/null
docker volume create somewhere >/dev/null
"""


def test_what_docker_holds_is_found(container: Container, settings: Any) -> None:
    """A container, a dangling image and the one that took its name, a volume."""
    container.ask("sh", "-c", MAKE_IMAGES)
    found = leftovers(container, settings)
    container.ask("sh", "-c", "docker rm somebodys; docker volume rm somewhere; docker image rm left:first")
    container.ask("docker", "image", "prune", "--force")
    assert [line.partition(";")[0] for line in found.containers] == ["somebodys (left:first, created)"]
    whats = sorted(re.split("[,;]| sha256", line.partition(": ")[2])[0] for line in found.docker)
    assert whats == ["image left:first", "image without a name", "volume"]
    assert leftovers(container, settings).docker == []


def test_logs_of_the_build_are_found_and_removed(container: Container, settings: Any) -> None:
    container.ask("sh", "-c", "logger built; journalctl --sync; echo built >> /var/log/apt/history.log")
    time.sleep(1)  # the journal is asked in whole seconds
    left = leftovers(container, settings, cleaned=False).logs
    assert [line.partition(",")[0] for line in left if "history.log" in line] == ["/var/log/apt/history.log: log"]
    assert any("lines of the journal" in line for line in left)
    found = leftovers(container, settings)
    assert found.logs == []
    assert found.content["freed"]["/var/log/apt/history.log"] == len("built\n")
    assert "built" not in container.ask("journalctl", "--output", "cat", "--identifier", "root")


def test_journal_of_an_earlier_machine_id_is_removed(container: Container, settings: Any) -> None:
    """As before a rebuild: a sealed template has a new id, and what it logged under the old one is still there."""
    container.ask("sh", "-c", "logger built; : > /etc/machine-id")
    container.node.channel.leave(f"ct{CTID}")
    container.node.run("pct", "shutdown", str(CTID))
    container.node.run("pct", "start", str(CTID))
    container.wait_until_booted(60)
    assert any("lines of the journal" in line for line in leftovers(container, settings, cleaned=False).logs)
    assert leftovers(container, settings).logs == []


def test_growth_is_measured_and_its_cause_named(container: Container, settings: Any) -> None:
    container.ask("sh", "-c", "head -c 60000000 /dev/urandom > /opt/forgotten")
    found = leftovers(container, settings).growth
    container.ask("rm", "/opt/forgotten")
    assert found[0].startswith("grew by 5")
    assert found[1] == "/opt/forgotten: file, 57.2 MiB"


def test_layers_that_docker_does_not_know_are_named(container: Container, settings: Any) -> None:
    """What a loss of power leaves of an image that was being unpacked: no command of Docker's removes it."""
    container.ask("sh", "-c", "cd /var/lib/docker/overlay2 && mkdir cut && head -c 60000000 /dev/urandom > cut/layer")
    found = leftovers(container, settings).growth
    container.ask("rm", "-r", "/var/lib/docker/overlay2/cut")
    assert found[0].startswith("grew by 5")
    assert found[1].startswith("57 MiB of it are in Docker's folders")
    assert "--rebuild-clone builds it again" in found[1]


def test_caches_that_are_declared_do_not_count(container: Container, settings: Any) -> None:
    """The image's own folder stays and is counted apart; that of another image is of no use and goes."""
    folder = caches.folder_name(container, IMAGE)
    assert folder.startswith("aaaaaaaaaaaa-SIMULATED")
    container.ask("sh", "-c", f"cd {settings.warm_caches} && mkdir -p {folder} bbbbbbbbbbbb-GPU their-own")
    container.ask("touch", f"{settings.warm_caches}/bbbbbbbbbbbb-GPU/{caches.MARK}")
    container.ask("sh", "-c", f"cd {settings.warm_caches} && head -c 60000000 /dev/urandom > {folder}/cache")
    container.ask("sh", "-c", f"cd {settings.warm_caches} && cp {folder}/cache bbbbbbbbbbbb-GPU/")
    found = leftovers(container, settings)
    assert found.growth == []
    assert found.content["caches"][settings.warm_caches] == 60_000_000
    assert found.content["freed"][f"{settings.warm_caches}/bbbbbbbbbbbb-GPU"] == 60_000_000
    assert {folder, "their-own"} <= set(container.execute("ls", settings.warm_caches).out.split())
    assert leftovers(container, SimpleNamespace(test_model="/models/test-model", warm_caches="", keep_model="")).growth
    container.ask("rm", "-r", settings.warm_caches)


def test_caches_of_a_server_that_got_ready_are_kept(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-written ones begin anew but for bytecode; one that holds a secret goes, as each clone would carry it."""
    variables = {"VLLM_API_KEY": "sk-920-of-this-run", "VLLM_ATTENTION_BACKEND": "FLASH_ATTN"}
    settings: Any = SimpleNamespace(
        warm_caches="/var/lib/phoenix/caches",
        keep_model="",
        server_env=(),
        server_mounts=(),
        test_model="/m",
    )
    image = Image("vllm/vllm-openai", IMAGE, ("vllm", "serve"), 1)

    def server_writes(text: str) -> caches.CacheMounts:
        cache_mounts = caches.prepare(container, image, settings)
        container.ask(
            "sh", "-c", f'mkdir -p {cache_mounts.folder}/vllm; echo "$1" >> {cache_mounts.folder}/vllm/f', "sh", text
        )
        return cache_mounts

    def written(cache_mounts: caches.CacheMounts) -> str:
        return container.execute("cat", f"{cache_mounts.folder}/vllm/f").out

    compiled = f"{server_writes('half').folder}/bytecode"
    container.ask("sh", "-c", f"mkdir -p {compiled} && touch {compiled}/a.pyc")
    cache_mounts = server_writes("whole, by FLASH_ATTN")
    assert written(cache_mounts).split() == ["whole,", "by", "FLASH_ATTN"]
    headers = f"{cache_mounts.folder}/inductor/precompiled_headers"
    container.ask("mkdir", "-p", headers)
    cache_mounts.keep(container, variables)
    assert container.execute("ls", headers).exit_status != 0  # which serve to compile, and are large
    assert server_writes("more").folder == cache_mounts.folder
    assert written(cache_mounts).startswith("whole")
    said: list[str] = []
    monkeypatch.setattr(caches, "warn", said.append)
    server_writes(variables["VLLM_API_KEY"]).keep(container, variables)
    assert "into its cache vllm, so that was removed" in said[0]
    assert container.ask("ls", cache_mounts.folder).split() == ["bytecode", "complete", "inductor"]
    assert container.ask("ls", compiled).split() == ["a.pyc"]
    assert f"{cache_mounts.folder}/vllm:/root/.cache/vllm" in cache_mounts.words
