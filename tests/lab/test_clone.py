"""Clones for real, in the lab: what the template is for.

One template, of the stand-in for vLLM, which serves after a second: what is proved here is the clones.
That vLLM itself serves in a clone is shown by the build in test_build.py.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench.spans import Run as Spans
from fixtures.base import settings as options
from fixtures.base.declaration import Declared, load
from fixtures.base.settings import Settings
from fixtures.proxmox.container import Container
from fixtures.proxmox.destination import open_channel
from fixtures.proxmox.node import Node
from fixtures.proxmox.run_lock import RunLock
from fixtures.record.model import Record, from_json
from fixtures.serving import start_command
from fixtures.serving.image import inspect
from fixtures.serving.server import Server
from fixtures.template import identity
from fixtures.template.clone import Clone
from fixtures.template.ephemeral_clone import KNOCK, EphemeralClone
from lab import vllm
from tests.faults.stack import SIMULATED
from tests.lab.harness import SNAPSHOT, TOP, Lab, Run, says

pytestmark = pytest.mark.lab
UNSEEN = "unknown: "  # what an image says of itself only as NVIDIA builds it

IMAGE = "vllm/vllm-openai:stand-in"
STAND_IN = ("-o", f"vllm_image={IMAGE}")
CLONE = "/lxc-disks/subvol-990-disk-0"
LABEL = f"phoenix-920: throw-away container 990 cloned from 920@{SNAPSHOT}"


@pytest.fixture(scope="module")
def parent_before(lab: Lab) -> str:
    """What 903 was before anything was built from it."""
    return lab.parent()


@pytest.fixture(scope="module")
def built(lab: Lab, parent_before: str) -> Run:
    """A template that was built from nothing and tried by a clone."""
    lab.machine.serve_stand_in(vllm.made() / "registry")
    return lab.build(*STAND_IN)


def record_of(run: Run) -> Record:
    return from_json((run.folder / "record.json").read_text())


def unaccept(lab: Lab) -> None:
    """Make the snapshot one whose run died before it was accepted."""
    description = lab.snapshots()[SNAPSHOT]["description"].partition(" accepted ")[0]
    path = f"/nodes/{lab.machine.name}/lxc/920/snapshot/{SNAPSHOT}/config"
    lab.node("pvesh", "set", path, "--description", description)


def test_template_is_built_and_tried_in_one_run(lab: Lab, built: Run) -> None:
    assert (built.status, built.outcome) == (0, "built")
    assert {each.partition("; ")[0] for each in built.checks().values() if UNSEEN not in each} == {
        "passed",
        "inconclusive: simulated GPU",
    }
    assert "test_clone_serves" in built.checks()
    clone = record_of(built).clone
    assert (clone["ctid"], clone["address"], clone["kept"]) == (990, "10.0.0.240", False)
    assert clone["answer"] == "The capital of France is Paris."
    assert {"copied_in_seconds", "copy_takes_mib", "first_answer_seconds", "regenerated"} <= set(clone)
    assert lab.containers() == [903, 920]
    assert " accepted " in lab.snapshots()[SNAPSHOT]["description"]
    assert "clone-990-of-920" in built.report
    assert (built.folder / "server-clone.log.gz").is_file()
    times = Spans(built.folder)
    *_, server = (each.started for each in times.commands if "--detach" in each.argv)
    assert times.check("test_cuda_works_in_the_clone[gpu1]").started < server
    assert server < times.check("test_clone_is_what_was_sealed").started  # it loads while the clone is compared


def test_build_leaves_the_parent_as_it_was(lab: Lab, built: Run, parent_before: str) -> None:
    """Its configuration, its snapshot, and every file of both."""
    assert lab.parent() == parent_before


def test_existing_template_is_not_tried_again(lab: Lab, built: Run) -> None:
    run = lab.build(*STAND_IN)
    assert (run.status, run.outcome) == (0, "existing")
    assert '"clone"' not in (run.folder / "commands.jsonl").read_text()


def test_snapshot_holds_little_but_parent_and_image(lab: Lab, built: Run) -> None:
    """Unpacked layers, declared caches, and of everything else less than 50 MB."""
    template, parent = (
        {name: folder_mib(lab, f"/lxc-disks/.snapshots/subvol-{snapshot}{name}") for name in ("", "/var/lib/docker")}
        for snapshot in (f"920-disk-0@{SNAPSHOT}", "903-disk-0@docker-gpu-snapshot")
    )
    image = record_of(built).image["size"] / 2**20
    assert template["/var/lib/docker"] - parent["/var/lib/docker"] < image + 50
    caches = sum(record_of(built).content["caches"].values()) / 2**20
    assert template[""] - parent[""] < image + caches + 50


def folder_mib(lab: Lab, folder: str) -> int:
    return int(lab.node("du", "--summarize", "--apparent-size", "--block-size=1M", folder).split()[0])


# --- two at once --------------------------------------------------------------------------------------


@pytest.fixture
def pair(lab: Lab, built: Run) -> Iterator[list[Clone]]:
    """Two clones that run beside their template."""
    channel = open_channel(f"lab:{lab.machine.name}")
    lock = RunLock(channel, 920)
    lock.acquire("a-test", shared=False, command="a test")
    node = Node(channel, lock=lock)
    template = load(TOP / "lab/phoenix_lxc_configs.json")[920]
    clones = [clone_of(node, template, number) for number in (990, 991)]
    try:
        for clone in clones:
            clone.ensure_cloned()
        for clone in clones:
            clone.start()
        yield clones
    finally:
        for clone in clones:
            clone.remove()
        lock.release()
        channel.close()


def clone_of(node: Node, template: Declared, number: int) -> Clone:
    network = replace(template.network, ip=f"10.0.0.{number - 750}/24")
    declared = replace(template, ctid=number, name=f"clone-{number}", network=network, mac_address=None)
    return EphemeralClone(node, declared, template, settings())


def settings() -> Settings:
    """The suite's own settings, for the stand-in and the lab's model."""
    values = {name: default for name, default, _ in options.OPTIONS}
    values |= {"vllm_image": IMAGE, "test_model": "/models/test-model"}
    return options.read(cast(Any, SimpleNamespace(getini=values.__getitem__, rootpath=TOP)))


def test_two_clones_at_once_share_nothing_and_both_answer(lab: Lab, pair: list[Clone]) -> None:
    node, told = pair[0].node, settings()
    three = [identity.read(Container(node, 920)), *(identity.read(clone.container) for clone in pair)]
    assert [identity.shared(three[a], three[b]) for a, b in ((0, 1), (0, 2), (1, 2))] == [[], [], []]
    assert [identity.missing(each, ssh=True) for each in three] == [[], [], []]
    assert all(clone.container.service("ssh").is_running for clone in pair)
    assert on_the_bridge(lab) == {each["addresses"].partition("/")[0]: each["MAC"] for each in three}
    with contextlib.ExitStack() as servers:
        for clone in pair:
            server = Server(clone.container, clone.declared.network.address, told, "all")
            servers.callback(server.stop)
            server.start(inspect(clone.container, IMAGE), 1)
            server.wait_until_ready()
            assert "Paris" in server.chat(told.test_prompt).text


def on_the_bridge(lab: Lab) -> dict[str, str]:
    """Who answers on the node's bridge for each of the three addresses: the MAC."""
    rows: list[list[str]] = []
    for address in ("10.0.0.220", "10.0.0.240", "10.0.0.241"):
        lab.node("sh", "-c", KNOCK, "sh", address)
        rows.append(lab.node("ip", "-4", "neigh", "show", "to", address).split())
    return {row[0]: row[row.index("lladdr") + 1] for row in rows}


# --- what breaks a clone ------------------------------------------------------------------------------

IDENTITY_LOST = "test_clone_has_an_identity_of_its_own"
BROKEN = {
    "docker": (
        tuple(f"ln -sf /dev/null {CLONE}/etc/systemd/system/docker.{unit}" for unit in ("service", "socket")),
        {
            *(IDENTITY_LOST, "test_docker_works_in_the_clone"),
            *("test_clone_is_what_was_sealed", "test_clone_serves"),
        },
        (
            "Cannot connect to the Docker daemon",
            "differs from the template that was sealed: image digest: ",
            "software docker: ",
        ),
    ),
    # each by itself: tests/faults/acceptance.py
    "gpu, image, record, identity": (
        (
            "sed -i /dev1:/d /etc/pve/lxc/990.conf",
            f"rm {CLONE}/var/lib/docker/image/overlay2/repositories.json",
            f"sed -i s/Paris/Berlin/ {CLONE}/etc/phoenix/record.json; chmod 0 {CLONE}/etc/phoenix/verify",
            f"cp /lxc-disks/subvol-920-disk-0/etc/ssh/ssh_host_rsa_key* {CLONE}/etc/ssh/",
        ),
        {
            *("test_clone_sees_every_gpu", "test_clone_serves", "test_clone_is_what_was_sealed"),
            *("test_clone_knows_what_it_came_from", IDENTITY_LOST),
        },
        (
            "difference to the template: around gpus 1: SIMULATED NVIDIA",
            "differs from the template that was sealed: image digest: vllm/vllm-openai@sha256:",
            "carried record.json: ",
            "/etc/ssh/ssh_host_rsa_key.pub: ",
        ),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_clone_is_named_and_the_template_not_accepted(lab: Lab, built: Run, name: str) -> None:
    lines, failed, said = BROKEN[name]
    unaccept(lab)
    with lab.fault(f"start = sh [ ! -e {CLONE} ] || {{ {'; '.join(lines)}; }}"):
        run = lab.build(*STAND_IN)
    assert (run.status, run.failed()) == (1, failed)
    says(run, *said)
    assert run.checks()["test_snapshot_is_accepted"] == "blocked by clone acceptance"
    assert lab.containers() == [903, 920]
    assert " accepted " not in lab.snapshots()[SNAPSHOT]["description"]


def test_clone_with_its_parents_address_is_never_started(lab: Lab, built: Run) -> None:
    unaccept(lab)
    with lab.fault("set = lie"):
        run = lab.build(*STAND_IN)
    assert (run.status, run.failed()) == (1, {"test_clone_is_made"})
    says(run, "net0 ip 10.0.0.220/24 → 10.0.0.240/24")
    assert '"start", "990"' not in (run.folder / "commands.jsonl").read_text()
    assert lab.containers() == [903, 920]


# --- a run that is cut short --------------------------------------------------------------------------


@contextlib.contextmanager
def bystanders(lab: Lab) -> Iterator[None]:
    """Containers that look like a throw-away clone and are somebody else's: a clone of one, and one by hand."""
    for number, text in ((991, LABEL), (992, "by hand")):
        clone = ("pct", "clone", "903", str(number), "--snapname", "docker-gpu-snapshot", "--full", "1")
        lab.node(*clone, "--description", text)
    try:
        yield
        assert {991, 992} <= set(lab.containers())
    finally:
        lab.node("sh", "-c", "pct destroy 991; pct destroy 992")


def wait_for(lab: Lab, script: str) -> None:
    for _ in range(600):
        if lab.node("sh", "-c", f"{{ {script}; }} >/dev/null 2>&1 && echo yes || true"):
            return
        time.sleep(0.2)
    pytest.fail(f"never happened: {script}")


def test_killed_run_is_cleaned_up_by_the_next(lab: Lab, built: Run) -> None:
    unaccept(lab)
    with bystanders(lab):
        process = lab.start(*STAND_IN)
        wait_for(lab, "pct status 990 | grep running")
        process.kill()
        process.wait()
        assert 990 in lab.containers()
        run = lab.build(*STAND_IN)
        assert (run.status, run.outcome) == (0, "built")
        assert lab.containers() == [903, 920, 991, 992]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_interrupted_run_leaves_no_clone(lab: Lab, built: Run, number: signal.Signals) -> None:
    unaccept(lab)
    process = lab.start(*STAND_IN)
    wait_for(lab, "pct status 990 | grep running")
    process.send_signal(number)
    run = lab.finish(process, 90)
    assert (run.status, run.outcome) == (2, "aborted")
    assert lab.containers() == [903, 920]
    assert "lock:" not in lab.node("pct", "config", "920")


def test_copying_that_was_interrupted_ends_by_itself_and_is_cleaned_up_by_the_next_run(lab: Lab, built: Run) -> None:
    """Ending `pct clone` would leave a container without a disk, a volume without a container, and a locked 920."""
    unaccept(lab)
    with lab.fault("clone-copied = sh while [ ! -e /run/go-on ]; do sleep 0.1; done"):
        process = lab.start(*STAND_IN)
        wait_for(lab, "grep -q create /etc/pve/lxc/990.conf")
        process.send_signal(signal.SIGINT)
        run = lab.finish(process, 90)
        assert (run.status, run.outcome) == (2, "aborted")
        says(run, "clean-up failed, the next run repeats it: container 990 is locked (create) by another task")
        lab.node("touch", "/run/go-on")
    again = lab.build(*STAND_IN)
    assert (again.status, again.outcome) == (0, "built")
    says(again, "an earlier run's `pct clone 920 990")
    assert lab.containers() == [903, 920]
    lab.node("rm", "/run/go-on")


def test_clone_that_died_is_removed_with_all_that_it_has_left(lab: Lab, built: Run) -> None:
    """Its worker was killed: no root disk in the configuration, a volume without a container, 920 locked."""
    unaccept(lab)
    with lab.fault("clone-copied = die"):
        run = lab.build(*STAND_IN)
    assert run.status == 1
    lab.node("grep", "-q", "lock: disk", "/etc/pve/lxc/920.conf")
    again = lab.build(*STAND_IN)
    assert (again.status, again.outcome) == (0, "built")
    assert lab.containers() == [903, 920]
    assert "subvol-990" not in lab.node("ls", "/lxc-disks")
    assert "lock:" not in lab.node("pct", "config", "920")


# --- as declared --------------------------------------------------------------------------------------


@pytest.fixture
def accepted(lab: Lab, built: Run) -> None:
    """An accepted template, whatever the tests before have left."""
    assert lab.build(*STAND_IN, "--no-clone").outcome in ("built", "existing")


def test_what_cannot_work_is_refused_before_anything_is_cloned(lab: Lab, accepted: None) -> None:
    run = lab.build(*STAND_IN, "--accept", "950")
    assert (run.status, run.failed()) == (1, {"test_clone_can_work"})
    says(run, "is in the format of Apple's MLX, which vLLM for CUDA can't load", "nothing was changed")
    assert lab.containers() == [903, 920]


def test_declared_container_is_made_kept_and_proved_again(lab: Lab, accepted: None) -> None:
    run = lab.build(*STAND_IN, "--accept", "951", "--keep")
    assert (run.status, run.outcome) == (0, "cloned")
    try:
        config = lab.node("pct", "config", "951")
        for line in ("cores: 4", "features: nesting=1,keyctl=1", "hostname: vllmTestModel", "memory: 6144"):
            assert f"{line}\n" in config
        assert "hwaddr=52:54:00:67:89:B1,ip=10.0.0.151/24" in config
        assert "size=80G" in config
        assert "running" in lab.node("pct", "status", "951")
        assert record_of(run).clone["answer"] == "The capital of France is Paris."
        assert lab.inside("ls", "/var/lib/phoenix", ctid=951) == "caches\n"  # no id of a run
        lab.inside("sh", "-c", "echo >> /models/test-model/config.json", ctid=951)
        owners_container_is_left_alone(lab, record_of(run).clone["start_command"])
        unit_serves_after_a_reboot(lab, record_of(run).clone["start_command"])
    finally:
        lab.node("sh", "-c", "pct stop 951; pct destroy 951")


STATE = """
sha256sum /etc/pve/lxc/951.conf
pct status 951
pct status 951 | grep -q running || exit 0
pct exec 951 -- sh -c 'docker inspect --format "{{.Id}} {{.State.StartedAt}} {{.RestartCount}}" $(docker ps -aq)
ls -l /var/lib/phoenix'
"""


def owners_container_is_left_alone(lab: Lab, command: str) -> None:
    """Its owner starts the server as the report says, and gives it an MTU; no run changes anything of it."""
    assert "phoenix" not in command.replace("/var/lib/phoenix/", "")
    lab.inside("sh", "-ec", command, ctid=951)
    wait_for(lab, "curl --fail --silent http://10.0.0.151:8000/health")
    lab.node("sed", "-i", "/^net0:/s/$/,mtu=1400/", "/etc/pve/lxc/951.conf")  # the lab can't change it while it runs
    before = lab.node("sh", "-c", STATE)
    run = lab.build(*STAND_IN, "--accept", "951")
    assert lab.node("sh", "-c", STATE) == before
    assert (run.status, run.outcome) == (0, "cloned")
    says(run, "existed before; it was not changed", "has changed since it was cloned: model files config.json")
    assert record_of(run).clone["servers_of_its_owner"] == ["http://10.0.0.151:8000 (vllm-test-model)"]
    assert "--publish 8001:8000" in record_of(run).clone["server_command"]

    lab.node("pct", "set", "951", "--memory", "5120")
    before = lab.node("sh", "-c", STATE)
    with gpus_of(lab, 951, "gpu0.memory.free = 3072"):
        run = lab.build(*STAND_IN, "--accept", "951")
    assert (run.status, run.failed()) == (1, {"test_clone_is_made"})
    says(run, "memory 5120 → 6144", "pct set 951 --memory 6144", "has 3.0 of")
    says(run, "its own server answers at http://10.0.0.151:8000 (vllm-test-model), which is not proof")
    for words in (("--verify-deep",), ("--rebuild",)):
        assert lab.build(*STAND_IN, *words).status == 0
    assert lab.node("sh", "-c", STATE) == before

    lab.node("sh", "-c", "pct set 951 --memory 6144; pct shutdown 951")
    before = lab.node("sh", "-c", STATE)
    run = lab.build(*STAND_IN, "--accept", "951")
    assert (run.status, run.outcome) == (0, "partial")
    says(run, "container 951 is off, and not started because it existed before: pct start 951")
    assert lab.node("sh", "-c", STATE) == before
    assert lab.containers() == [903, 920, 951]


def unit_serves_after_a_reboot(lab: Lab, command: str) -> None:
    """As the report offers it; then the container is switched off and on, and nobody starts anything in it."""
    lab.node("pct", "start", "951")
    wait_for(lab, "pct exec 951 -- docker version")
    lab.inside("docker", "rm", "--force", "vllm-test-model", ctid=951)
    lab.inside("sh", "-ec", start_command.unit(command), ctid=951)
    wait_for(lab, "curl --fail --silent http://10.0.0.151:8000/health")
    lab.node("sh", "-c", "pct shutdown 951 && pct start 951")
    wait_for(lab, "curl --fail --silent http://10.0.0.151:8000/health")
    assert lab.inside("systemctl", "is-active", "vllm-test-model", ctid=951).strip() == "active"


@contextlib.contextmanager
def gpus_of(lab: Lab, ctid: int, line: str) -> Iterator[None]:
    """Another value of a container's simulated GPUs."""
    lab.inside("sh", "-c", f"echo '{line}' > {SIMULATED}", ctid=ctid)
    try:
        yield
    finally:
        lab.inside("rm", SIMULATED, ctid=ctid)


def test_server_that_was_pasted_from_a_record_is_its_owners(lab: Lab, accepted: None) -> None:
    """It carries our labels, name and the id of a run that has cleaned up: it is in the way, and stays."""
    pasted = record_of(lab.build(*STAND_IN, "--rebuild", "--no-clone")).served[0].command
    lab.inside(*pasted)
    try:
        running = lab.inside("docker", "ps", "--no-trunc", "--quiet")
        run = lab.build(*STAND_IN, "--rebuild")
        assert run.failed() == {"test_no_foreign_container"}
        says(run, "vllm_test_container (vllm/vllm-openai")
        assert lab.inside("docker", "ps", "--no-trunc", "--quiet") == running
    finally:
        lab.inside("docker", "rm", "--force", "vllm_test_container")


def test_other_machine_of_that_number_is_not_asked(lab: Lab, accepted: None) -> None:
    lab.node("pct", "clone", "903", "951", "--snapname", "docker-gpu-snapshot", "--full", "1", "--hostname", "mail")
    try:
        run = lab.build(*STAND_IN, "--accept", "951")
        assert (run.status, run.failed()) == (1, {"test_clone_can_work"})
        says(run, "container 951 is called 'mail': it may be another machine")
        assert "ct951" not in (run.folder / "commands.jsonl").read_text()
    finally:
        lab.node("pct", "destroy", "951")


def test_parent_is_proved_and_never_touched(lab: Lab, built: Run) -> None:
    state = "cat /etc/pve/lxc/903.conf; btrfs subvolume show /lxc-disks/subvol-903-disk-0 | grep -i generation"
    before = lab.node("sh", "-c", state)
    run = lab.build("--verify-parent")
    assert (run.status, run.outcome) == (0, "verified")
    says(run, "903@docker-gpu-snapshot works", "the parent itself was not touched")
    with lab.changed_parent("sed -i '/dev1: /d' /etc/pve/lxc/903.conf"):
        run = lab.build("--verify-parent")
    assert run.failed() == {"test_gpu_may_be_used[gpu1]"}
    says(run, "903@docker-gpu-snapshot does not work")
    assert lab.containers() == [903, 920]
    assert lab.node("sh", "-c", state) == before
