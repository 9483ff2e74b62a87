"""The build for real, in the lab: what stops it, what it leaves, and that nothing seals by mistake.

The tests run in order, as a template lives: refused for its parent's faults, built, found existing,
proved anew, and then spoiled in every way that a run can be. Each leaves the lab so that a normal
run succeeds. The main build serves with the real vLLM, the others with its stand-in; the faults
themselves are in tests/faults.
"""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest

from fixtures.run.stages import declared_checks
from tests.faults.catalogue import BY_NAME
from tests.faults.fault import stand_in
from tests.lab.harness import SNAPSHOT, STAND_IN, TOP, Lab, Run, declared, says

pytestmark = pytest.mark.lab


def test_build_where_every_command_takes_a_second(lab: Lab) -> None:
    """From nothing to accepted, on a node whose commands are slow and refuse with any exit status."""
    with lab.fault("* = delay 1", "* = status random"), lab.noting() as calls:
        run = lab.build("--no-clone", seconds=900)
        found = calls()
    assert_built(lab, run, clone=False)
    assert found.reading == 1, found.lines  # the room of the storage


def assert_built(lab: Lab, run: Run, clone: bool = True) -> None:
    assert (run.status, run.outcome) == (0, "built")
    verdicts = run.checks()
    seen = {each.partition("; ")[0] for each in verdicts.values() if "unknown: " not in each}
    assert seen == {"passed", "inconclusive: simulated GPU"}
    checks = [name for name in verdicts if not name.startswith("sealing[")]
    declared = declared_checks(TOP / "tests_920/CHECKS", (0, 1))
    others = {"family"} if clone else {"family", "clone acceptance"}
    assert len(checks) == len([check for check in declared if check.stage not in others])
    copy, name = sorted(lab.snapshots(), reverse=True)
    assert (copy.rpartition("-g")[0], name) == (SNAPSHOT, SNAPSHOT)
    description = lab.snapshots()[name]["description"]
    assert lab.snapshots()[copy]["description"].partition(" accepted ")[0] == description.partition(" accepted ")[0]
    names = r"generation \d+ run \S+ image vllm/vllm-openai@sha256:[0-9a-f]{64} manifest sha256:[0-9a-f]{64}"
    weak = r"in spite of \d+ inconclusive checks, simulated GPU, simulated Proxmox VE node"
    assert re.match(rf"phoenix-920: sealed \S+Z {names} {weak}(, no clone was tried)? accepted \S+Z", description)
    assert ("no clone was tried" in description) is not clone
    assert set(lab.containers()) == {903, 920}
    assert "status: running" in lab.node("pct", "status", "920")
    assert lab.servers() == ""


def test_report_holds_what_was_built(lab: Lab) -> None:
    """The answer of the real model, and the digest that the registry gives for the tag."""
    folders = [folder for folder in sorted(lab.reports.iterdir()) if (folder / "report.html").exists()]
    pages = {folder: (folder / "report.html").read_text() for folder in folders}  # a killed run leaves none
    ((folder, record),) = [(each, text) for each, text in pages.items() if "outcome" in text and ">built<" in text][-1:]
    manifest = lab.node(
        *("curl", "--silent", "--head", "--header", "Accept: application/vnd.docker.distribution.manifest.v2+json"),
        "http://10.0.0.1:5000/v2/vllm/vllm-openai/manifests/latest",
    )
    (digest,) = re.findall(r"(?i)docker-content-digest: (\S+)", manifest)
    assert f"vllm/vllm-openai@{digest}" in record
    assert "The capital of France is Paris." in record
    assert "SIMULATED: GPU and Proxmox VE node" in record
    served = json.loads((folder / "record.json").read_text())["served"]
    assert [bool(one["samples"]) for one in served] == [True, True]
    assert '<svg class="plot"' not in record  # what simulated GPUs show is not drawn
    assert len(re.findall('<svg class="phase loading" x="', record)) == 2
    assert lab.inside("sh", "-c", "pgrep --full nvidia-sm[i] || true") == ""  # no sampler is left
    assert lab.inside("docker", "image", "inspect", "--format", "{{json .RepoDigests}}", "vllm/vllm-openai:latest")
    assert "http://" not in re.sub(r"http://(10\.0\.0|127\.0\.0|www\.w3\.org)", "", record)


def test_second_run_finds_it_existing(lab: Lab) -> None:
    before = lab.snapshots()
    with lab.noting() as calls:
        run = lab.build()
        found = calls()
    assert (run.status, run.outcome) == (0, "existing")
    assert (found.reading, found.changing, found.inside) == (0, "", 1), found.lines  # and all in one trip
    assert run.seconds < 10
    assert lab.snapshots() == before
    says(run, f"920@{SNAPSHOT} was built and accepted before; nothing was changed")
    run = lab.build("-k", "test_node_is_proxmox")
    assert (run.status, run.outcome) == (0, "partial")
    says(run, f"Only some of the checks ran; 920@{SNAPSHOT} is accepted, generation 1, as it was before this run")


def test_snapshot_holds_the_state(lab: Lab) -> None:
    """What is rolled back and started is the template: the image, no test container, Docker at work."""
    lab.inside("sh", "-c", "docker image rm --force vllm/vllm-openai:latest >/dev/null && touch /root/later")
    lab.node("pct", "rollback", "920", SNAPSHOT)
    assert "stopped" in lab.node("pct", "status", "920")
    lab.node("pct", "start", "920")
    for _ in range(200):
        if lab.node("sh", "-c", "pct exec 920 -- systemctl is-system-running || true").strip() == "running":
            break
        time.sleep(0.2)
    assert lab.inside("systemctl", "is-active", "docker").strip() == "active"
    assert "sha256:" in lab.inside("docker", "image", "inspect", "--format", "{{.RepoDigests}}", "vllm/vllm-openai")
    assert lab.servers() == ""
    assert "later" not in lab.inside("ls", "/root")


@pytest.mark.parametrize(
    ("checks", "words"),
    [
        ("tests_920/test_060_seal.py", []),
        ("tests_920", ["-k", "not gpu"]),
        ("tests_920", ["--deselect", "tests_920/test_050_serving.py"]),
    ],
)
def test_part_of_the_suite_never_seals(lab: Lab, checks: str, words: list[str]) -> None:
    lab.forget_images()  # else the real one, which the stand-in leaves unused, is a leftover
    before = lab.snapshots()
    run = lab.build(*STAND_IN, "--rebuild", *words, checks=checks)
    assert run.status == 1
    says(run, "not sealed, because of earlier checks: ", " not run (")
    assert lab.snapshots() == before


def test_failed_rebuild_keeps_the_old_snapshot(lab: Lab) -> None:
    before = lab.snapshots()
    fault = BY_NAME["wrong-word"]
    run = lab.build(*STAND_IN, "--rebuild", "-o", "server_memory_mb=5000", *fault.words)
    assert (run.status, run.failed()) == (1, fault.checks())
    assert lab.snapshots() == before
    assert "memory: 4096" in lab.node("pct", "config", "920")  # raised while the server ran, and put back


def test_rebuild_over_ssh_replaces_the_snapshot(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.forget_images()
    before = lab.snapshots()
    with lab.ssh(tmp_path, monkeypatch) as node:
        assert_built(lab, lab.build(*STAND_IN, "--rebuild", "--node", node))
    assert lab.snapshots()[SNAPSHOT]["snaptime"] > before[SNAPSHOT]["snaptime"]


def test_foreign_snapshot_is_left_alone(lab: Lab) -> None:
    """A snapshot that somebody else made: exit 0 and a plain word; a rebuild does not replace it."""
    lab.node("pct", "delsnapshot", "920", SNAPSHOT)
    lab.node("pct", "snapshot", "920", SNAPSHOT, "--description", "made by hand")
    before = lab.snapshots()
    run = lab.build()
    assert run.status == 0
    says(run, "outcome: existing, not proved by this suite")
    refused = {"--rebuild": "test_snapshot_may_be_replaced", "--rebuild-clone": "test_container_may_be_destroyed"}
    for words, check in refused.items():
        run = lab.build(words)
        assert run.failed() == {check}
        assert lab.snapshots() == before
    lab.node("pct", "delsnapshot", "920", SNAPSHOT)


def test_container_of_another_is_left_alone(lab: Lab) -> None:
    """A 920 that is not what is declared is neither changed, started nor destroyed."""
    description = json.loads(
        lab.node("pvesh", "get", f"/nodes/{lab.machine.name}/lxc/920/config", "--output-format", "json")
    )["description"].strip()
    lab.node("pct", "shutdown", "920")
    lab.node("pct", "set", "920", "--description", "somebody's", "--memory", "3000")
    conf = lab.node("cat", "/etc/pve/lxc/920.conf")
    run = lab.build()
    assert run.failed() == {"test_container_is_cloned"}
    says(run, "memory 3000 → 4096")
    run = lab.build("--rebuild-clone")
    assert run.failed() == {"test_container_may_be_destroyed"}
    says(run, "container 920 was not changed: it was not made by this suite")
    assert lab.node("cat", "/etc/pve/lxc/920.conf") == conf
    assert "stopped" in lab.node("pct", "status", "920")
    lab.node("pct", "set", "920", "--description", description, "--memory", "4096")


def test_what_waits_for_the_next_start_is_set_before_it(lab: Lab, tmp_path: Path) -> None:
    """Of a container that runs, some settings are changed when it starts again, and no snapshot has them until then."""
    stage = "tests_920/test_020_clone.py"
    for features in ("nesting=1", "nesting=1,keyctl=1"):
        run = lab.build(*declared(tmp_path, features=features), checks=stage)
        assert run.failed() == set()
        assert f"features: {features}\n" in lab.node("pct", "config", "920", "--current")
        assert "running" in lab.node("pct", "status", "920")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_while_the_model_loads(lab: Lab, number: signal.Signals) -> None:
    process = lab.start(*STAND_IN, *stand_in("silent"))  # it loads for ever
    for _ in range(600):
        if process.poll() is not None or lab.serves():
            break
        time.sleep(0.2)
    time.sleep(1)
    process.send_signal(number)
    run = lab.finish(process, 60)
    assert (run.status, run.outcome) == (2, "aborted")
    says(run, f"920@{SNAPSHOT} was not sealed")
    assert run.failed() == {"test_server_gets_ready[gpu0]"}
    says(run, "interrupted while it ran")
    assert "test_everything_passed" not in run.checks()
    assert SNAPSHOT not in lab.snapshots()
    assert lab.servers() == ""


def test_interrupt_while_docker_is_tried(lab: Lab) -> None:
    """The Docker container that is tried is removed, and its image."""
    process = lab.start(*STAND_IN)
    while process.poll() is None and not lab.servers("--filter", "label=phoenix-920=probe"):
        pass
    process.send_signal(signal.SIGINT)
    run = lab.finish(process, 60)
    assert (run.status, run.outcome) == (2, "aborted")
    assert lab.servers() == ""
    assert lab.inside("docker", "image", "ls", "--quiet", "--filter", "label=phoenix-920") == ""


def test_sealed_but_not_accepted_is_finished_by_the_next_run(lab: Lab) -> None:
    """A run that dies after the snapshot leaves 920 off; the next one starts it and repeats what is missing."""
    with lab.fault("start = die"):
        run = lab.build(*STAND_IN)
    assert (run.status, run.outcome) == (1, "failed")
    says(run, "was sealed but not accepted")
    assert "stopped" in lab.node("pct", "status", "920")
    assert_unaccepted(lab)
    verified = lab.build(*STAND_IN, "--verify")
    assert verified.failed() == {"test_snapshot_is_the_recorded_one"}
    says(verified, "was sealed, but never accepted")
    again = lab.build(*STAND_IN, "--no-clone")
    assert (again.status, again.outcome) == (0, "built")
    assert " accepted " in lab.snapshots()[SNAPSHOT]["description"]
    assert lab.build(*STAND_IN).outcome == "existing"


def assert_unaccepted(lab: Lab) -> None:
    description = lab.snapshots()[SNAPSHOT]["description"]
    assert description.startswith("phoenix-920: sealed")
    assert "accepted" not in description
