"""Faults that people have reported, fed through the checks that meet them: what is found, and what it is put down to.

The node and the container are this machine; the commands that they run are shims that say what was reported
(tests/data/cases). docs/field-cases.md has the sources.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fixtures.base.errors import BuildError, Unseen, explained
from fixtures.base.server_args import API_KEY
from fixtures.diagnosis import evidence
from fixtures.diagnosis.failure_modes import diagnose
from fixtures.diagnosis.root_cause import said
from fixtures.gpu.node_gpus import NodeGpus
from fixtures.proxmox import conf, docker, pmxcfs
from fixtures.proxmox import container as container_module
from fixtures.proxmox.channel import Channel
from fixtures.proxmox.command import Command, DeadlineExceeded
from fixtures.proxmox.container import Container
from fixtures.proxmox.destination import open_channel
from fixtures.proxmox.node import Node, NodeError
from fixtures.run import mode
from fixtures.serving import image, model, performance
from fixtures.serving.client import Client, ServerError
from fixtures.serving.served_model import ONE_REQUEST
from tests import pve_files
from tests.faults.trial import explains
from tests.small_node import DECLARATION
from tests.test_failure_modes import TOOLKIT, toolkit

# by name, as mypy knows these files as modules of their own
preflight, room, gpus_and_model, clone, stack, lasting, image_checks, serving = (
    importlib.import_module(f"tests_920.test_{name}")
    for name in (
        *(
            "010_preflight",
            "012_room",
            "014_gpus_and_model",
            "020_clone",
            "030_inherited_stack",
            "035_lasting_gpus",
            "040_image",
        ),
        "050_serving",
    )
)

DATA = Path(__file__).parent.parent / "data/cases"
MODEL = "org/model"
PCT = """#!/bin/sh
[ "$1" = exec ] || {{ cat {refusal} >&2; exit 255; }}
shift 3
while case $1 in env | -i | *=*) true ;; *) false ;; esac; do shift; done
exec "$@"
"""
DOCKER = """#!/bin/sh
case "$1 $2" in
  "run "*) cat {run} >&2; exit 125 ;;
  "pull "*) cat {pull} >&2; exit 1 ;;
  "info "*) echo '{{"Runtimes": {{"nvidia": {{}}}}, "Driver": "overlay2"}}' ;;
  "import "*) cat >/dev/null ;;
  "image inspect") cat {inspect} ;;
esac
"""
RELOAD = """#!/bin/sh
case "$1 $2" in
  "info "*) echo '{{"Runtimes": {{"nvidia": {{}}}}}}' ;;
  "import "*) cat >/dev/null ;;
  "run "*) echo 0123456789ab ;;
  "exec "*) cat {exec}; exit 255 ;;
esac
"""

PYTHON = """#!/bin/sh
[ "$1" = - ] || exec {python} "$@"
shift
exec {python} - $(printf '%s\\n' "$@" | sed 's#^/dev#{dev}#')
"""


class Place:
    """A node with a container: this machine, with the shims of a test before its own commands."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self.node = Node(Channel("local"))
        self.container = Container(self.node, 920)
        self.failed: list[Command] = []
        self.node.channel.listeners.append(self._hear)
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        self.shim("pct", PCT, refusal="/dev/null")

    def _hear(self, command: Command) -> None:
        if not command.succeeded:
            self.failed.append(command)

    def shim(self, name: str, script: str, **files: object) -> None:
        path = self._folder / name
        path.write_text(script.format(**files))
        path.chmod(0o755)

    def files(self, confs: dict[int, str], **more: Any) -> None:
        """Let the node have these containers, and what else its files say."""
        said = pve_files.files(confs, self.node.name, **more)
        self.node._cluster_files = pmxcfs.parse(said, self.node.name)

    def pct(self, *words: str) -> None:
        raise NodeError(str(self.node.run("pct", *words)))

    def docker(self, **files: Path) -> None:
        self.shim("docker", DOCKER, **{"run": "/dev/null", "pull": "/dev/null", "inspect": "/dev/null", **files})

    def finds(self, name: str, check: Callable[[], object], log: str = "") -> tuple[str, list[str]]:
        """What a check says when it fails, and the modes that it is put down to."""
        with pytest.raises((BuildError, AssertionError)) as error:
            check()
        assert isinstance(error.value, BuildError) or explains(str(error.value).partition("\n")[0])
        assert explains(explained(str(error.value), "The container starts.", "pct status 920").partition("\n")[0])
        texts = {"check": name, **said(error.value, self.failed, log)}
        return str(error.value), [finding.mode.id for finding in diagnose(texts)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def settings(**more: object) -> Any:
    asked = {"test_model": MODEL, "test_prompt": "What is the capital of France?", "expected_word": "Paris"}
    limits = {"answer_tokens": 64, "answer_deadline": 10, "command_deadline": 30, "gpu_share": 0.9}
    given = {"variables": {API_KEY: "k"}, "server_option": lambda *_: ""}
    return SimpleNamespace(**{**asked, **limits, **given, **more})


@pytest.fixture
def answering() -> Iterator[Callable[..., Client]]:
    """Makes a server of one answer, and gives a client of it."""
    servers: list[ThreadingHTTPServer] = []

    def serve(body: bytes, status: int = 200, kind: str = "application/json") -> Client:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                self.do_POST()

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return Client(f"http://127.0.0.1:{servers[-1].server_port}", settings())

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def asked(client: Client) -> Callable[[], None]:
    """The check of the answer, of a server that the client asks."""
    ready = cast(Any, SimpleNamespace(chat=client.chat, pasteable="zless server.log.gz"))
    return lambda: serving.TestServer().test_server_answers(ready, settings())


def test_toolkit_that_takes_no_environment_has_its_name(place: Place, tmp_path: Path) -> None:
    """With accept-nvidia-visible-devices-envvar-when-unprivileged = false a container starts, and has nothing."""
    (tmp_path / "said.txt").write_text("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.\n")
    place.shim("docker", RELOAD, exec=tmp_path / "said.txt")
    place.shim("nvidia-smi", "#!/bin/sh\n")
    _, modes = place.finds("test_gpus_survive_a_reload", lambda: lasting.test_gpus_survive_a_reload(place.container))
    assert modes == ["B30"]


def test_reload_proves_nothing_where_no_gpu_was_listed_before(place: Place, tmp_path: Path) -> None:
    """The real nvidia-smi -L ends with 0 where it lists nothing."""
    (tmp_path / "said.txt").write_text("No devices found.\n")
    place.shim("docker", RELOAD.replace("exit 255", "exit 0"), exec=tmp_path / "said.txt")
    place.shim("nvidia-smi", "#!/bin/sh\n")
    place.shim("systemctl", "#!/bin/sh\n")
    message, _ = place.finds("test_gpus_survive_a_reload", lambda: lasting.test_gpus_survive_a_reload(place.container))
    assert "listed no GPU: ['No devices found.']" in message


@pytest.mark.parametrize("name", ["nvidia-uvm", "nvidiactl", "nvidia0"])
@pytest.mark.parametrize("passed", [False, True])
def test_missing_device_is_named_itself(place: Place, tmp_path: Path, name: str, *, passed: bool) -> None:
    """The command adds it to the parent; where the parent has it, it shows the container's."""
    for each in {"nvidia-uvm", "nvidiactl", "nvidia0"} - {name}:
        (tmp_path / each).symlink_to("/dev/null")
    place.shim("python3", PYTHON, python=sys.executable, dev=tmp_path)
    found = [f"{tmp_path}/{name}", "/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"] if passed else []
    config = {"arch": "amd64"} | {f"dev{number}": device for number, device in enumerate(found)}
    place.files({903: "".join(f"{key}: {value}\n" for key, value in config.items())})
    build, template = cast(Any, SimpleNamespace(unusable={})), cast(Any, SimpleNamespace(parent=DECLARATION[903]))
    check = lambda: stack.test_gpu_may_be_used(place.container, template, build, 0)  # noqa: E731
    message, _ = place.finds("test_gpu_may_be_used[gpu0]", check)
    assert message.startswith(f"{tmp_path}/{name} does not exist; ")
    assert {path.rstrip(";") for path in message.split() if path.startswith(str(tmp_path))} == {f"{tmp_path}/{name}"}
    shown = "pct exec 920 -- ls -l" if passed else "pct set 903 --dev0"
    assert f"; run: {shown} {tmp_path}/{name}" in message


def test_case_07_nvml_unknown_from_the_start(place: Place) -> None:
    place.shim("docker", RELOAD, exec=DATA / "07-nvml-unknown-from-the-start/stdout.txt")
    place.shim("nvidia-smi", "#!/bin/sh\n")
    message, modes = place.finds(
        "test_gpus_survive_a_reload", lambda: lasting.test_gpus_survive_a_reload(place.container)
    )
    assert "Failed to initialize NVML: Unknown Error" in message
    assert modes == ["B15"]


SAID = "`sh -s` in container 920 ended with 125: "
MESSAGES = [(head, text.removeprefix(SAID)) for head, text in toolkit().items() if text.startswith(SAID)]


@pytest.mark.parametrize(("head", "text"), MESSAGES, ids=[head for head, _ in MESSAGES])
def test_broken_toolkit_has_its_name(place: Place, tmp_path: Path, head: str, text: str) -> None:
    """What NVIDIA's toolkit says when Docker starts a container that is to have GPUs."""
    (tmp_path / "said.txt").write_text(text)
    place.shim("docker", DOCKER, run=tmp_path / "said.txt", pull="/dev/null", inspect="/dev/null")
    place.shim("nvidia-smi", "#!/bin/sh\n")
    _, modes = place.finds("test_gpus_survive_a_reload", lambda: lasting.test_gpus_survive_a_reload(place.container))
    assert modes == [TOOLKIT[head]]


@pytest.mark.parametrize(
    ("case", "mode"),
    [("08-device-filter", "B22"), ("09-keyring-quota", "C12"), ("10-apparmor-exec", "A15"), ("16-iptables-raw", "C8")],
)
def test_case_of_docker_that_starts_nothing(place: Place, case: str, mode: str) -> None:
    place.docker(run=DATA / case / "docker.txt")
    message, modes = place.finds(
        "test_docker_runs_a_container", lambda: stack.test_docker_runs_a_container(place.container)
    )
    assert (DATA / case / "docker.txt").read_text().strip() in message
    assert modes == [mode]


def test_case_12_storage_inactive(place: Place) -> None:
    place.shim("pvesh", "#!/bin/sh\ncat {answer}\n", answer=DATA / "12-storage-inactive/storage.json")
    template = cast(Any, SimpleNamespace(declared=SimpleNamespace(storage_pool="lxc-disks")))
    build = cast(Any, SimpleNamespace(no_clone=True))
    needs = cast(Any, SimpleNamespace(gib=40.0, why="8.7 GiB packed"))
    message, modes = place.finds(
        "test_storage_has_room", lambda: room.test_storage_has_room(place.node, template, build, needs)
    )
    assert "storage lxc-disks is not active" in message
    assert "zpool import" in message
    assert "GiB free" not in message
    assert modes == ["A20"]


def test_case_12_full_storage_speaks_of_a_clone_only_where_one_is_tried(place: Place, tmp_path: Path) -> None:
    full = {"storage": "lxc-disks", "active": 1, "avail": 1, "type": "zfspool"}
    (tmp_path / "full.json").write_text(json.dumps([full]))
    place.shim("pvesh", "#!/bin/sh\ncat {answer}\n", answer=tmp_path / "full.json")
    template = cast(Any, SimpleNamespace(declared=SimpleNamespace(storage_pool="lxc-disks")))
    needs = cast(Any, SimpleNamespace(gib=40.0, why="8.7 GiB packed"))
    for no_clone in (True, False):
        build = cast(Any, SimpleNamespace(no_clone=no_clone, mode=mode.BUILD))
        message, modes = place.finds(
            "test_storage_has_room",
            lambda: room.test_storage_has_room(place.node, template, build, needs),  # noqa: B023
        )
        assert ("--no-clone" in message) is not no_clone
        assert modes == ["A12"]


STORAGES: dict[
    str, tuple[dict[str, Any], str]
] = {  # what a storage says otherwise than a sound one, and what its two checks say of that
    "lvmthin": ({"type": "lvmthin"}, ""),
    "rbd, whose figures are text": ({"type": "rbd", "shared": 1, "avail": str(400 * 2**30)}, ""),
    "nfs": ({"type": "nfs", "shared": 1}, "is of type nfs, which has no snapshots"),
    "cifs": ({"type": "cifs", "shared": 1}, "is of type cifs, which has no snapshots"),
    "lvm with snapshots of virtual machines only": ({"type": "lvm"}, "is of type lvm, which has no snapshots"),
    "thin and full": ({"type": "lvmthin", "avail": 0}, "has 0.0 GiB free"),
    "disabled": ({"active": 0, "enabled": 0, "avail": 0}, "is disabled; expected an enabled one"),
    "not active, in text": ({"active": "0", "avail": 0}, "is not active"),
    "active, without figures": ({"avail": None}, "unknown: the free space of storage lxc-disks"),
    "absent": ({"storage": "other"}, "has no storage named lxc-disks"),
}


@pytest.mark.parametrize("name", STORAGES)
def test_storage_of_every_kind(place: Place, tmp_path: Path, name: str) -> None:
    differs, said = STORAGES[name]
    sound = {"storage": "lxc-disks", "active": 1, "enabled": 1, "shared": 0, "type": "zfspool", "avail": 400 * 2**30}
    (tmp_path / "rows.json").write_text(json.dumps([{**sound, **differs}]))
    place.shim("pvesh", "#!/bin/sh\ncat {rows}\n", rows=tmp_path / "rows.json")
    row = {**sound, **differs}
    place.files({}, storages=f"{row['type']}: {row['storage']}\n" + "\tdisable\n" * (not row["enabled"]))
    template = cast(Any, SimpleNamespace(declared=SimpleNamespace(storage_pool="lxc-disks")))
    build = cast(Any, SimpleNamespace(no_clone=True, mode=mode.BUILD))
    needs = cast(Any, SimpleNamespace(gib=40.0, why="", unseen=""))
    found = ""
    try:
        preflight.test_storage_can_snapshot(place.node, template)
        room.test_storage_has_room(place.node, template, build, needs)
    except (AssertionError, NodeError, Unseen) as error:
        found = str(error)
    assert said in found
    assert bool(found) is bool(said)


def test_case_14_os_version(place: Place) -> None:
    place.shim("pct", PCT, refusal=DATA / "14-os-version/pct_start.txt")
    template = cast(
        Any, SimpleNamespace(exists=True, differences=list, start=lambda: place.pct("start", "920"), ctid=920)
    )
    _, modes = place.finds(
        "test_container_starts", lambda: clone.test_container_starts(place.node, template, cast(Any, None))
    )
    assert modes == ["A17"]


def test_case_15_quorum(place: Place) -> None:
    place.shim("pct", PCT, refusal=DATA / "15-quorum/pct_clone.txt")
    template = SimpleNamespace(ensure_cloned=lambda: place.pct("clone", "903", "920", "--full", "1"), exists=False)
    build = SimpleNamespace(mode=mode.BUILD)
    _, modes = place.finds(
        "test_container_is_cloned", lambda: clone.test_container_is_cloned(cast(Any, template), cast(Any, build))
    )
    assert modes == ["A16"]


def test_case_17_x509(place: Place) -> None:
    place.docker(pull=DATA / "17-x509/docker_pull.txt")
    pull = image.Pull(place.container, "vllm/vllm-openai:latest", 30)
    message, modes = place.finds("test_image_is_pulled", pull.finish)
    assert "x509" in message
    assert modes == ["C9"]


def test_case_18_bashrc_noise(place: Place) -> None:
    """The node's login shell prints a banner before each command that makes its own way."""
    banner = (DATA / "18-bashrc-noise/bashrc.txt").read_text()
    place.shim("ssh", '#!/bin/bash\n{banner}\nexec sh -c "${{@: -1}}"\n', banner=banner)
    place.shim("systemctl", "#!/bin/sh\necho running\n")
    place.shim("lxc-attach", '#!/bin/sh\nshift 9\nexec "$@"\n')  # and env with its words
    channel = open_channel("ssh://root@node")
    channel._without_python = True  # then each command does
    container = Container(Node(channel), 920)
    assert container.wait_until_booted(20) == "running"
    assert channel.run(("printf", "one\\ntwo"), deadline=10).out == "one\ntwo"
    failing = channel.run(("sh", "-c", "echo no >&2; exit 3"), deadline=10)
    assert (failing.exit_status, failing.out, failing.err) == (3, "", "no")


NOISE = {  # lines of a login shell's start-up file, or of ssh's own output
    "no line end": "printf 'Welcome to Proxmox VE'",
    "colours": "printf '\\033[1;31mroot\\033[0m@pve\\r\\n'",
    "bytes that are no text": "printf '\\377\\000\\376\\n'",
    "another answer": "echo running; echo '[]'; echo 0",
    "much": "head -c 300000 /dev/zero | tr '\\0' x; echo",
    "on standard error": "echo 'Warning: Permanently added the host to the list of known hosts.' >&2",
    "perl without its locale": "printf 'perl: warning: Setting locale failed.\\nperl: warning: LC_ALL unset\\n' >&2",
    "another folder and another path": "cd /tmp; export PATH=$PATH:/opt/x",
    "words of ours": "echo 'answer: 1'; echo __; echo 0123456789abcdef",
    "a trap": "trap 'echo bye; echo bye >&2' EXIT",
    "a prompt of the distribution": '[ -z "$PS1" ] || return; echo not interactive',
}


@pytest.mark.parametrize("name", NOISE)
def test_noise_of_a_login_shell_changes_no_answer(place: Place, tmp_path: Path, name: str) -> None:
    (tmp_path / "rc").write_text(f"unset BASH_ENV\n{NOISE[name]}\n")
    place.shim("ssh", '#!/bin/bash\nexport BASH_ENV={rc}\nexec bash -c "${{@: -1}}"\n', rc=tmp_path / "rc")
    channel = open_channel("ssh://root@node")
    for alone in (True, False):
        channel._without_python = alone
        assert channel.run(("printf", "one\\ntwo"), deadline=20).out == "one\ntwo"
        failing = channel.run(("sh", "-c", "echo out; echo no >&2; exit 3"), deadline=20)
        assert (failing.exit_status, failing.out) == (3, "out")
        assert failing.err.splitlines()[-1] == "no"
        assert channel.run(("cat",), deadline=20, stdin=b"\0bytes\xff").stdout == b"\0bytes\xff"


def test_docker_context_of_root_leads_to_no_other_daemon() -> None:
    """A rootless one's storage and lack of device rules were reported as the template's (docker(1), DOCKER_CONTEXT)."""
    words = (*container_module.ENVIRONMENT, "sh", "-c", 'echo "$DOCKER_CONTEXT"')
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "default\n"


def test_docker_of_a_snap_beside_the_service_is_named(place: Place) -> None:
    """It was called a mistake in daemon.json or a full disk."""
    unit = "LoadState=loaded ActiveState=inactive SubState=dead UnitFileState=enabled"
    place.shim("systemctl", "#!/bin/sh\nprintf '%s\\n' {unit}\n", unit=unit)
    place.shim("docker", "#!/bin/sh\nexit 1\n")
    place.shim("pgrep", "#!/bin/sh\necho 812 dockerd --data-root=/var/snap/docker/common/var-lib-docker\n")
    place.shim("journalctl", "#!/bin/sh\n")
    said = docker.state(place.container)
    assert "inactive (dead) and enabled; another Docker is running: 812 dockerd --data-root=/var/snap" in said
    (found,) = diagnose({"check": "test_docker_is_running", "failure": said})
    assert found.mode.what == "The snap's Docker is running instead of docker.service"


@pytest.mark.parametrize(
    ("failed", "state"),
    [
        ("nvidia-persistenced.service loaded failed failed NVIDIA Persistence Daemon", "running"),
        ("console-getty.service loaded failed failed Console Getty", "running"),
        ("motd-news.service loaded failed failed News\\nsshd.service loaded failed failed ssh", "degraded"),
        ("", "degraded"),  # which is not known then
    ],
)
def test_failed_unit_that_a_container_has_no_use_for_is_a_warning(
    place: Place, failed: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sound container was refused for it."""
    said: list[str] = []
    monkeypatch.setattr(container_module, "warn", said.append)
    place.shim("systemctl", f"#!/bin/sh\n[ $1 = --failed ] && printf '{failed}\\n' || echo degraded\n")
    place.shim("lxc-attach", '#!/bin/sh\nshift 9\nexec "$@"\n')
    assert place.container.wait_until_booted(20) == state
    unit = failed.partition(" ")[0]
    assert said == [f"failed in container 920, which needs none of them: {unit}"] * (state == "running")


def test_late_boot_names_what_it_waits_for(place: Place) -> None:
    jobs = "1 multi-user.target start waiting\\n29 systemd-networkd-wait-online.service start running\\n"
    place.shim("systemctl", f"#!/bin/sh\n[ $1 = list-jobs ] && printf '{jobs}' || echo starting\n")
    place.shim("lxc-attach", '#!/bin/sh\nshift 9\nexec "$@"\n')
    with pytest.raises(DeadlineExceeded, match=r"after 0.1 s, because it waits for systemd-networkd-wait") as late:
        place.container.wait_until_booted(0.1)
    (found,) = diagnose({"check": "test_systemd_is_healthy", "failure": str(late.value)})
    assert (found.mode.id, "a network interface that does not come up" in found.mode.what) == ("C68", True)


@pytest.mark.parametrize(
    ("version", "mode"), [("podman version 5.4.2", "C31"), ("Docker version 27.2.0, build 3ab4256", "C31"), ("", "C21")]
)
def test_docker_without_its_service_is_named(place: Place, version: str, mode: str) -> None:
    """podman-docker has a command of that name and no daemon; the snap's daemon has another unit."""
    place.shim("systemctl", "#!/bin/sh\necho LoadState=not-found\n")
    place.shim("docker", '#!/bin/sh\necho "Emulate Docker CLI using podman." >&2\necho "{version}"\n', version=version)
    said = docker.state(place.container)
    assert said == f"there is no docker.service; docker is {version or 'not installed'}"
    found = diagnose({"check": "test_docker_is_running", "failure": said})
    assert [finding.mode.id for finding in found] == [mode]


@pytest.mark.parametrize("name", ["answer.json", "answer_0_9.json"])
def test_case_19_reasoning_null(place: Place, answering: Callable[..., Client], name: str) -> None:
    body = (DATA / "19-reasoning-null" / name).read_text().replace("MODEL", MODEL)
    message, modes = place.finds("test_server_answers[gpu0]", asked(answering(body.encode())))
    assert message.startswith("the model reasoned and did not answer: its 64 tokens went into 'Okay")
    assert "-o answer_tokens=4096" in message
    assert modes == ["D27"]


def test_case_19_model_that_has_thought_and_answers_is_fine(answering: Callable[..., Client]) -> None:
    document = json.loads((DATA / "19-reasoning-null/answer.json").read_text().replace("MODEL", MODEL))
    document["choices"][0]["message"]["content"] = "It is Paris."
    asked(answering(json.dumps(document).encode()))()


def test_case_20_chat_template(place: Place, answering: Callable[..., Client]) -> None:
    body = (DATA / "20-chat-template/answer.json").read_bytes()
    message, modes = place.finds("test_server_answers[gpu0]", asked(answering(body, 400)))
    assert message.startswith("the chat was answered with 400: ")
    assert modes == ["D17"]


LOGS = [
    ("21-kv-cache/log.txt", 0, "D19"),
    ("22-ptx/log.txt", 0, "B10"),
    ("23-transformers-modules/log.txt", 0, "D24"),
    ("24-dtype-and-age/logs.txt", 0, "D20"),
    ("24-dtype-and-age/logs.txt", 1, "D23"),
    ("24-dtype-and-age/logs.txt", 2, "D20"),
    ("24-dtype-and-age/logs.txt", 3, "D22"),
]


@pytest.mark.parametrize(("name", "line", "mode"), LOGS)
def test_case_of_a_server_that_dies(place: Place, name: str, line: int, mode: str) -> None:
    log = (DATA / name).read_text().splitlines()[line]

    def dies() -> None:
        raise ServerError("the server died while waiting for /health to answer 200 (exit status 1); its log shows why")

    _, modes = place.finds("test_server_gets_ready[gpu0]", dies, f"INFO starting\n{log}\n")
    assert modes == [mode]


def test_case_25_gptoss_weights(
    place: Place, answering: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repository has its weights twice, and once more for another library; vLLM loads 12.8 GiB of them."""
    client = answering((DATA / "25-gptoss-weights/siblings.json").read_bytes())
    monkeypatch.setattr(model, "HUB", client._url)
    found = model.look_at(place.node, cast(Any, None), "openai/gpt-oss-20b", {})
    assert found.weights == 4792272488 + 4808140312 + 4170342232
    template = cast(Any, SimpleNamespace(declared=SimpleNamespace(gpus=(0,), tensor_parallel=1)))
    card = NodeGpus(cast(Any, {0: SimpleNamespace(index=0, memory_mib=24564)}))
    gpus_and_model.test_model_fits_the_gpus(template, found, card, settings())


def test_case_25_weights_that_are_there_twice_count_once() -> None:
    assert model.weights({"model-1.safetensors": 5, "model-2.safetensors": 5, "consolidated.safetensors": 10}) == 10
    assert model.weights({"consolidated.safetensors": 10, "params.json": 1}) == 10
    assert model.weights({"pytorch_model.bin": 7, "training_args.bin": 1, "optimizer.bin": 14}) == 7
    assert model.weights({"model.safetensors": 5, "pytorch_model.bin": 5}) == 5


def test_case_26_sse_comment(answering: Callable[..., Client]) -> None:
    stream = (DATA / "26-sse-comment/stream.txt").read_bytes()
    client = answering(stream, kind="text/event-stream")
    server = cast(Any, SimpleNamespace(record=SimpleNamespace(answered=1.0), client=client))
    effort = performance.Effort(tokens=1, at_once=1, repeats=1, warm_up=0, settle=0)
    nothing = [figure.name for figure in performance.measure(server, effort) if not figure.value > 0]
    assert nothing == [ONE_REQUEST]  # there is no token after the first


@pytest.mark.parametrize("line", ["event: message", "id: 7", "retry: 3000", ":", ": ping\r"])
def test_case_26_fields_that_are_no_data_are_left_out(answering: Callable[..., Client], line: str) -> None:
    client = answering(f'{line}\n\ndata:{{"a": 1}}\n\ndata: [DONE]\n\n'.encode(), kind="text/event-stream")
    assert list(client.stream({"stream": True})) == ['{"a": 1}']


@pytest.mark.parametrize("entrypoint", [None, ["/opt/nvidia/nvidia_entrypoint.sh"]])
def test_case_27_other_image(place: Place, tmp_path: Path, entrypoint: list[str] | None) -> None:
    config = {**json.loads((DATA / "27-other-image/image_config.json").read_text()), "Entrypoint": entrypoint}
    facts = {"RepoDigests": ["vllm/vllm-omni@sha256:0"], "Size": 1, "Config": config}
    (tmp_path / "facts.json").write_text(json.dumps([facts]))
    place.docker(inspect=tmp_path / "facts.json")
    other = image.inspect(place.container, "vllm/vllm-omni:v0.22.0")
    message, modes = place.finds(
        "test_entrypoint_is_known", lambda: image_checks.test_entrypoint_is_known(other, settings())
    )
    assert message.startswith("vllm/vllm-omni:v0.22.0 does not start vLLM by itself")
    assert modes == ["C11"]


PENDING = """arch: amd64
dev0: /dev/nvidia0

[pve:pending]
dev1: /dev/nvidia1

[docker-gpu-snapshot]
dev0: /dev/nvidia0
dev2: /dev/nvidia2
"""


def test_case_pending_is_no_snapshot() -> None:
    found = conf.parse(PENDING.encode())
    assert list(found.snapshots) == ["docker-gpu-snapshot"]
    assert conf.misplaced(found, "", (0, 1)) == []
    assert conf.misplaced(found, "", (2,)) == ["[docker-gpu-snapshot] dev2: /dev/nvidia2"]
    assert conf.misplaced(found, "docker-gpu-snapshot", (0, 1)) == []


def test_case_pending_line_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "920.conf").write_text(PENDING)
    script = evidence.NODE.replace("/etc/pve/lxc", str(tmp_path))
    words = ["sh", "-s", "920", "1"]
    node = subprocess.run(words, input=script, capture_output=True, text=True, timeout=30, check=False).stdout
    assert "waits for the next start: dev1: /dev/nvidia1\nonly in a snapshot section: dev2: /dev/nvidia2\n" in node
    texts = {"check": "test_gpus_are_listed", "failure": "GPUs (0, 1) are assigned, but ['GPU 0'] are listed"}
    without_snapshot = node.replace("only in a snapshot section: dev2: /dev/nvidia2\n", "")
    assert [finding.mode.id for finding in diagnose({**texts, "node": without_snapshot})] == ["A21"]
