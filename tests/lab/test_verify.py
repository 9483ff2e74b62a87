"""Verifying for real, in the lab: one build, then each drift by itself is named, and nothing without one.

The job of CI and the orchestrator say so as well: on the template as it is, and on one that has drifted.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests import workflows
from tests.docs import TOP
from tests.lab.harness import SNAPSHOT, STAND_IN, Lab, Run, says

pytestmark = pytest.mark.lab

RECORDS = "/var/lib/phoenix-920/records"
RUNS = 6  # besides those of the tests below, whose checks that fail are exactly those of their change
DOCKER = "until pct exec 920 -- docker info >/dev/null 2>&1; do sleep 0.2; done"


@pytest.fixture(scope="module")
def built(lab: Lab) -> str:
    """A lab with an accepted template; the digest of its manifest."""
    run = lab.build(*STAND_IN, "--no-clone")
    if run.outcome not in ("built", "existing"):
        pytest.fail(f"neither built nor existing, but {run.outcome}")
    return digest(lab)


def digest(lab: Lab) -> str:
    (found,) = re.findall(r"manifest sha256:([0-9a-f]{64})", lab.snapshots()[SNAPSHOT]["description"])
    return str(found)


def verify(lab: Lab, *words: str) -> Run:
    return lab.build(*STAND_IN, "--verify", *words)


def summary(run: Run) -> dict[str, Any]:
    return dict(json.loads((run.folder / "vsa.intoto.json").read_text())["predicate"])


def kept(lab: Lab, name: str) -> str:
    return lab.node("sh", "-c", f"cat {RECORDS}/{digest(lab)}/{name}")


def test_record_says_what_the_node_says(lab: Lab, built: str) -> None:
    """The manifest is what docker, pct and the storage say; it is named by its digest; the container carries it."""
    canonical = f"jq -cjS .template {RECORDS}/{built}/manifest.json | sha256sum"
    assert lab.node("sh", "-c", canonical).split()[0] == built
    lab.node("sh", "-c", f"cd {RECORDS}/{built} && sha256sum --check --strict SHA256SUMS")
    content, facts = json.loads(kept(lab, "manifest.json")), json.loads(kept(lab, "snapshot.json"))
    image = content["template"]["image"]
    (inspected,) = json.loads(lab.inside("docker", "image", "inspect", image["digest"]))
    assert image["id"] == inspected["Id"]
    config = dict(line.split(": ", 1) for line in lab.node("pct", "config", "920", "--snapshot", SNAPSHOT).splitlines())
    assert content["template"]["config"] == {
        key: value for key, value in config.items() if key not in ("description", "snaptime", "parent")
    }
    shown = lab.node("btrfs", "subvolume", "show", f"/lxc-disks/.snapshots/subvol-920-disk-0@{SNAPSHOT}")
    assert facts["storage"]["uuid"] in shown
    assert facts["taken"] == lab.snapshots()[SNAPSHOT]["snaptime"]
    weights = lab.inside("sha256sum", "/models/test-model/config.json").split()[0]
    assert content["template"]["model"]["files"]["config.json"] == weights
    assert lab.inside("cat", "/etc/phoenix/manifest.json") == kept(lab, "manifest.json")
    assert lab.inside("cat", "/etc/phoenix/record.json") == kept(lab, "sealed-record.json")
    assert lab.inside("stat", "--format", "%a", "/etc/phoenix/record.json").strip() == "644"


def test_untouched_template_never_drifts(lab: Lab, built: str) -> None:
    """Nothing in several runs, which are quick; and nothing on the node is changed by them."""
    state = f"cat /etc/pve/lxc/*.conf; find {RECORDS} -printf '%p %T@ %s\\n'"
    before = lab.node("sh", "-c", state)
    runs = [verify(lab) if number % 2 else lab.build(*STAND_IN) for number in range(RUNS)]
    assert {(run.status, run.outcome) for run in runs} == {(0, "existing"), (0, "verified")}
    assert median(run.seconds for run in runs) < 10  # one may have met a busy moment of the machine
    predicate = summary(runs[-1])
    assert (predicate["verificationResult"], predicate["urn:phoenix-920:drift"]) == ("PASSED", [])
    assert lab.node("sh", "-c", state) == before


def test_clone_knows_what_it_came_from(lab: Lab, built: str) -> None:
    """A clone of the snapshot carries the record, names its origin, and sees what changes in it."""
    clone = f"pct clone 920 921 --snapname {SNAPSHOT} --hostname clone"
    network = "pct set 921 --net0 name=eth0,bridge=vmbr0,ip=10.0.0.221/24,gw=10.0.0.1"
    ready = "until pct exec 921 -- docker info >/dev/null 2>&1; do sleep 0.2; done"
    lab.node("sh", "-c", f"{clone} && {network} && pct start 921 && {ready}")
    try:
        assert json.loads(lab.inside("cat", "/etc/phoenix/record.json", ctid=921))["subjects"][0]["sha256"] == built
        said = lab.inside("/etc/phoenix/verify", ctid=921)
        assert f"came from pve:{lab.machine.name}/lxc/920@{SNAPSHOT}, generation 1, manifest sha256:{built}" in said
        assert "changed since: nothing" in said
        assert "name: BaseTemplateVLLM -> clone" in said
        assert "10.0.0.220/24 -> 10.0.0.221/24" in said
        said = lab.inside(
            "sh", "-c", "echo >> /etc/docker/daemon.json; /etc/phoenix/verify || echo status $?", ctid=921
        )
        assert "files /etc/docker/daemon.json: " in said
        assert "status 1" in said
    finally:
        lab.node("sh", "-c", "pct stop 921; pct destroy 921")


def test_deep_verification_serves_and_leaves_nothing(lab: Lab, built: str) -> None:
    state = f"cat /etc/pve/lxc/*.conf; find {RECORDS} -printf '%p %T@ %s\\n'"
    before = lab.node("sh", "-c", state)
    run = lab.build(*STAND_IN, "--verify-deep")
    assert (run.status, run.outcome) == (0, "verified")
    says(run, "matches its record and serves.")
    says(verify(lab, "-o", "test_model=org/other"), "model /models/test-model → org/other")
    assert {"test_server_answers[gpu0]", "test_server_answers[gpu1]", "test_cuda_works_on_gpu[gpu1]"} <= set(
        run.checks()
    )
    assert summary(run)["verifiedLevels"] == ["PHOENIX_920_AS_RECORDED", "PHOENIX_920_SERVES"]
    assert lab.servers() == ""
    assert lab.node("sh", "-c", state) == before


def test_deep_verification_in_part_verifies_nothing(lab: Lab, built: str) -> None:
    run = lab.build(*STAND_IN, "--verify-deep", "-k", "recorded")
    assert (run.status, run.outcome) == (0, "partial")
    assert (summary(run)["verificationResult"], summary(run)["verifiedLevels"]) == ("FAILED", ["FAILED"])


def test_container_that_is_off_is_left_off(lab: Lab, built: str) -> None:
    """And what was not looked at is not verified."""
    lab.node("pct", "shutdown", "920")
    try:
        run = verify(lab)
        deep = lab.build(*STAND_IN, "--verify-deep")
        assert "status: stopped" in lab.node("pct", "status", "920")
    finally:
        lab.node("sh", "-c", f"pct start 920 && {DOCKER}")
    says(run, "Container 920 is off", "a comparison starts no container")
    assert (run.status, run.outcome) == (deep.status, deep.outcome) == (0, "partial")
    assert deep.checks()["test_clone_serves"].startswith("container 920 is off")
    says(deep, "start it, then run every check: ", "pct start 920'; ")
    says(deep, "--verify-deep")
    assert summary(run)["verificationResult"] == "FAILED"
    assert set(run.checks().values()) >= {"container 920 is off, and a comparison does not start it"}


# --- the job of CI, and the orchestrator ---------------------------------------------------------------

OPTIONS = ("--override-ini=vllm_image=vllm/vllm-openai:stand-in", "-p no:cacheprovider")
(JOB,) = workflows.steps(TOP / ".github/workflows/hardware.yml", "template")
SCRIPT = f"{TOP}/phoenix_hypervisor_setup_920.sh 920"


@pytest.fixture
def environment(lab: Lab, built: str, tmp_path: Path) -> dict[str, str]:
    """Of a runner, whose node is the lab's."""
    node = f"lab:{lab.machine.name}"
    options = [f"@{TOP}/lab/options", f"--node={node}", *OPTIONS, f"--override-ini=report_folder={lab.reports}"]
    runner = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(tmp_path / "page.md"), "GITHUB_RUN_ID": "7"}
    runner |= {"GITHUB_SERVER_URL": "https://ci", "GITHUB_REPOSITORY": "a/b"}
    phoenix = {"PHOENIX_NODE": node, "PHOENIX_PYTHON": sys.executable, "PHOENIX_LOG": str(tmp_path / "log")}
    phoenix |= {"PHOENIX_CONFIG": str(TOP / "lab/phoenix_lxc_configs.json"), "PHOENIX_REPORTS": str(lab.reports)}
    return {**os.environ, **runner, **phoenix, "MODE": "verify", "PYTEST_ADDOPTS": " ".join(options)}


def shell(line: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-e", "-c", line]
    return subprocess.run(command, cwd=TOP, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_job_on_a_good_template(environment: dict[str, str]) -> None:
    done = shell(JOB, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    page = Path(environment["GITHUB_STEP_SUMMARY"]).read_text()
    assert page.startswith("## ⚠️ Template 920: verified\n\n920@vllm-base-snapshot matches its record.")
    assert "](https://ci/a/b/actions/runs/7) |" in page
    assert "::error" not in done.stdout


def test_orchestrator_on_a_good_template(environment: dict[str, str]) -> None:
    """It is there: 0, in seconds, and the log says so."""
    done = shell(SCRIPT, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "920@vllm-base-snapshot was built and accepted before" in Path(environment["PHOENIX_LOG"]).read_text()


def test_job_on_a_template_that_has_drifted(lab: Lab, environment: dict[str, str]) -> None:
    lab.node("pct", "set", "920", "--memory", "5000")
    try:
        done = shell(JOB, environment)
        told = shell(SCRIPT, environment)
    finally:
        lab.node("pct", "set", "920", "--memory", "4096")
    assert (done.returncode, told.returncode) == (1, 1), done.stdout + done.stderr
    page = Path(environment["GITHUB_STEP_SUMMARY"]).read_text()
    assert page.startswith("## ❌ Template 920: failed\n\n920@vllm-base-snapshot does not match its record")
    assert "| recorded | The container's configuration is the one that was sealed. |" in page
    assert "memory: 4096 -> 5000" in page
    (note,) = [line for line in done.stdout.splitlines() if line.startswith("::error ")]
    assert "file=tests_920/test_075_recorded.py,line=" in note


# --- drift --------------------------------------------------------------------------------------------

RESNAP = (  # the same name and the same description, as somebody would who wants nothing to be seen
    f"text=$(pvesh get /nodes/$(hostname)/lxc/920/snapshot/{SNAPSHOT}/config --output-format json"
    " | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"description\"].strip())')"
    f' && pct delsnapshot 920 {SNAPSHOT} && pct snapshot 920 {SNAPSHOT} --description "$text"'
)


@dataclass(frozen=True)
class Change:
    """Something that was changed since.

    Attributes:
        do: A shell line on the node.
        undo: Another one.
        failed: The checks that must fail, and no others; none for drift around the template.
        said: What the terminal must say.
    """

    do: str
    undo: str
    failed: set[str]
    said: tuple[str, ...]


CHANGES = {
    "memory": Change(
        "pct set 920 --memory 4000",
        "pct set 920 --memory 4096",
        {"test_configuration_is_as_recorded"},
        ("configuration memory: 4096 -> 4000",),
    ),
    "image": Change(
        "pct exec 920 -- sh -c 'docker tag vllm/vllm-openai:stand-in kept:1"
        " && tar -c -C /etc hostname | docker import - vllm/vllm-openai:stand-in'",
        "pct exec 920 -- sh -c 'docker image rm vllm/vllm-openai:stand-in"
        " && docker tag kept:1 vllm/vllm-openai:stand-in && docker image rm kept:1'",
        {"test_image_is_as_recorded"},
        ("image digest: vllm/vllm-openai@sha256:", "-> none", "image id: sha256:"),
    ),
    "daemon.json": Change(
        "pct exec 920 -- sed -i.kept '1a \"debug\": false,' /etc/docker/daemon.json",
        "pct exec 920 -- mv /etc/docker/daemon.json.kept /etc/docker/daemon.json",
        {"test_stack_is_as_recorded"},
        ("files /etc/docker/daemon.json: ",),
    ),
    "model": Change(
        "pct exec 920 -- sh -c 'echo >> /models/test-model/config.json'",
        "pct exec 920 -- truncate --size -1 /models/test-model/config.json",
        {"test_model_is_as_recorded"},
        ("model files config.json: ",),
    ),
    "record-file": Change(
        f'cd {RECORDS}/*/ && sed -i.kept \'s/"operator": ".*"/"operator": "me"/\' record.json && mv *.kept /root/',
        f"mv /root/record.json.kept {RECORDS}/*/record.json",
        {"test_record_is_kept"},
        ("record record.json: ",),
    ),
    "record-lost": Change(
        f"mv {RECORDS} /root/records",
        f"mv /root/records {RECORDS}",
        {"test_record_is_kept", "test_snapshot_is_the_recorded_one"},
        (f"record {RECORDS}/", "kept on the node -> none"),
    ),
    "record-inside": Change(
        "pct exec 920 -- sed -i.kept 's/Paris/Berlin/' /etc/phoenix/record.json",
        "pct exec 920 -- mv /etc/phoenix/record.json.kept /etc/phoenix/record.json",
        {"test_container_carries_the_record"},
        ("carried record.json: ",),
    ),
    "gpu-count": Change(
        "pct exec 920 -- umount /dev/nvidia1 && pct exec 920 -- rm /dev/nvidia1",
        f"pct stop 920 && pct start 920 && {DOCKER}",
        set(),
        ("around gpus 1: SIMULATED NVIDIA GPU", "-> none", "gpus 1 changed since it was proved"),
    ),
    # the last two leave another snapshot, and so end the module
    "snapshot-replaced": Change(
        RESNAP, "true", {"test_snapshot_is_the_recorded_one"}, ("snapshot uuid: ", "snapshot taken: ")
    ),
    "package": Change(
        f"pct exec 920 -- dpkg --force-depends --purge libfile-find-rule-perl && {RESNAP}",
        "true",
        {"test_snapshot_is_the_recorded_one", "test_packages_are_as_recorded"},
        ("packages libfile-find-rule-perl: ", "-> none"),
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_change_is_named(lab: Lab, built: str, name: str) -> None:
    change = CHANGES[name]
    lab.node("sh", "-c", change.do)
    try:
        run, again = verify(lab), lab.build(*STAND_IN)
    finally:
        lab.node("sh", "-c", change.undo)
    says(run, *change.said)
    assert run.failed() == again.failed() == change.failed
    expected = ("FAILED", 1, "failed", 1, "failed") if change.failed else ("PASSED", 0, "not", 0, "existing")
    result = summary(run)
    assert (result["verificationResult"], run.status, run.outcome, again.status, again.outcome) == expected
    assert result["urn:phoenix-920:drift"]
    assert change.said[0].partition(" -> ")[0] in run.report
