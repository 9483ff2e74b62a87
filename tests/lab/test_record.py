"""The build with the real vLLM, from nothing to accepted: its report and its record are true and without secrets.

There is one such build, as it takes minutes; the tests use it in order. Others serve with vLLM's stand-in.
"""

from __future__ import annotations

import gzip
import json
import re
import time
from pathlib import Path

import pytest

from bench.calls import Calls
from fixtures.record.attestation import changed_files, verify_envelope
from fixtures.record.model import Record, from_json
from fixtures.run.mode import Outcome
from fixtures.serving import all_reduce
from fixtures.template import manifest
from tests import schemas
from tests.lab.harness import SNAPSHOT, TOP, Lab, Run, assert_built, says
from tests.test_attestation import make_keys

pytestmark = pytest.mark.lab

FILES = {"summary.md", "report.html", "junit.xml", "record.json", "ctrf.json", "commands.jsonl"}
STATEMENTS = {f"{name}.{form}.json" for name in ("record", "provenance") for form in ("intoto", "dsse")}
SECRETS = {
    "HUGGING_FACE_HUB_TOKEN": "hf_QwErTyUiOpAsDfGhJk",
    "VLLM_API_KEY": "sk-920-test-key-of-the-server",
    "REGISTRY_PASSWORD": "r3gistry-passw0rd",
}


def record_of(run: Run) -> Record:
    return from_json((run.folder / "record.json").read_text())


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def build(lab: Lab, keys: tuple[Path, Path]) -> tuple[Run, Calls]:
    """A build that was given secrets and a key, on a node whose commands are slow and refuse with any exit status."""
    words = ["--no-clone", "-o", "server_env=HUGGING_FACE_HUB_TOKEN VLLM_API_KEY", "-o", f"signing_key={keys[0]}"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        with lab.fault("* = delay 1", "* = status random"), lab.noting() as calls:
            run = lab.build(*words, seconds=900)
            return run, calls()


@pytest.fixture
def built(build: tuple[Run, Calls]) -> Run:
    return build[0]


def test_build_where_every_command_takes_a_second(lab: Lab, build: tuple[Run, Calls]) -> None:
    run, found = build
    assert_built(lab, run, clone=False)
    assert found.reading == 1, found.lines  # the room of the storage


def test_report_holds_what_was_built(lab: Lab, built: Run) -> None:
    """The answer of the real model, and the digest that the registry gives for the tag."""
    manifest_of_tag = lab.node(
        *("curl", "--silent", "--head", "--header", "Accept: application/vnd.docker.distribution.manifest.v2+json"),
        "http://10.0.0.1:5000/v2/vllm/vllm-openai/manifests/latest",
    )
    (digest,) = re.findall(r"(?i)docker-content-digest: (\S+)", manifest_of_tag)
    assert f"vllm/vllm-openai@{digest}" in built.report
    assert "The capital of France is Paris." in built.report
    assert "SIMULATED: GPU and Proxmox VE node" in built.report
    served = json.loads((built.folder / "record.json").read_text())["served"]
    assert [bool(one["samples"]) for one in served] == [True, True]
    assert '<svg class="plot"' not in built.report  # what simulated GPUs show is not drawn
    assert len(re.findall('<svg class="phase loading" x="', built.report)) == 2
    assert lab.inside("sh", "-c", "pgrep --full nvidia-sm[i] || true") == ""  # no sampler is left
    assert lab.inside("docker", "image", "inspect", "--format", "{{json .RepoDigests}}", "vllm/vllm-openai:latest")
    assert "http://" not in re.sub(r"http://(10\.0\.0|127\.0\.0|www\.w3\.org)", "", built.report)


def test_build_leaves_all_files(built: Run, keys: tuple[Path, Path]) -> None:
    assert names(built.folder) == FILES | STATEMENTS | {"server-all.log.gz", "server-device-1.log.gz"}
    schemas.check_folder(built.folder)
    provenance = verify_envelope(built.folder / "provenance.dsse.json", keys[1])
    assert verify_envelope(built.folder / "record.dsse.json", keys[1])["predicate"]["result"] != "FAILED"
    assert changed_files(provenance, built.folder) == []
    assert len(provenance["predicate"]["runDetails"]["byproducts"]) == 9


def test_record_is_true(lab: Lab, built: Run) -> None:
    record = record_of(built)
    assert record.outcome is Outcome.BUILT
    inspected = json.loads(lab.inside("docker", "image", "inspect", "vllm/vllm-openai:latest"))[0]
    subjects = {f"{each.name}@sha256:{each.sha256}" for each in record.subjects}
    assert set(inspected["RepoDigests"]) <= subjects
    assert record.image["size"] == inspected["Size"]
    sealed = manifest.digest(record.manifest)
    assert f"pve:{lab.machine.name}/lxc/920@{SNAPSHOT}@sha256:{sealed}" in subjects
    assert sealed in lab.snapshots()[SNAPSHOT]["description"]
    assert record.node["name"] == lab.machine.name
    assert record.software["docker"] in lab.inside("docker", "--version")
    assert record.software["storage_driver"] == "overlay2"
    assert record.software["toolkit_mode"] == "auto (legacy)"  # the simulated toolkit is 1.17.8
    assert record.software["cuda"] == "13.0"
    assert [gpu["uuid"] for gpu in record.gpus] == re.findall(r"UUID: ([^)]+)\)", lab.inside("nvidia-smi", "-L"))
    assert record.gpus[1]["vbios"]
    path = f"/nodes/{lab.machine.name}/lxc/920/config"
    config = json.loads(lab.node("pvesh", "get", path, "--output-format", "json"))
    assert {key: str(config[key]) for key in ("memory", "cores", "net0", "rootfs", "features")}.items() <= (
        record.container["config"].items()
    )
    assert record.simulated == ["GPU", "Proxmox VE node"]
    assert {check.verdict for check in record.checks} == {"passed", "inconclusive"}
    assert [one.answers[-1]["text"] for one in record.served] == ["The capital of France is Paris."] * 2


def test_build_leaves_no_secret(lab: Lab, built: Run) -> None:
    files = {path.name: path.read_bytes() for path in built.folder.iterdir()}
    logs = {name: gzip.decompress(content) for name, content in files.items() if name.endswith(".gz")}
    assert all(b"Application startup complete" in log for log in logs.values())
    everything = {**files, **logs, "terminal": built.output.encode()}
    found = [(name, key) for name, text in everything.items() for key in SECRETS.values() if key.encode() in text]
    assert found == []
    assert "--env-file /dev/stdin" in " ".join(record_of(built).served[0].command)
    assert record_of(built).settings["server_env"] == ["HUGGING_FACE_HUB_TOKEN", "VLLM_API_KEY"]


def test_second_run_finds_it_existing(lab: Lab, built: Run) -> None:
    before = lab.snapshots()
    with lab.noting() as calls:
        run = lab.build()
        found = calls()
    assert (run.status, run.outcome) == (0, "existing")
    assert (found.reading, found.changing, found.inside) == (0, "", 1), found.lines  # and all in one trip
    assert run.seconds < 10
    assert lab.snapshots() == before
    says(run, f"920@{SNAPSHOT} was built and accepted before; nothing was changed")
    schemas.check_folder(run.folder)
    record = record_of(run)
    assert record.outcome is Outcome.EXISTING
    assert record.image["digest"] == record_of(built).image["digest"]
    assert record.software == record_of(built).software


@pytest.mark.usefixtures("built")
def test_part_of_a_run_says_what_there_is(lab: Lab) -> None:
    run = lab.build("-k", "test_node_is_proxmox")
    assert (run.status, run.outcome) == (0, "partial")
    says(run, f"Only some of the checks ran; 920@{SNAPSHOT} is accepted, generation 1, as it was before this run")


@pytest.mark.usefixtures("built")
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


@pytest.mark.usefixtures("built")
def test_failed_run_leaves_all_files(lab: Lab) -> None:
    run = lab.build("--rebuild", "-o", "vllm_image=vllm/vllm-openai:no-such-tag")
    assert (run.status, record_of(run).outcome) == (1, Outcome.FAILED)
    assert names(run.folder) == FILES | {"record.intoto.json", "provenance.intoto.json", "evidence-image.txt"}
    schemas.check_folder(run.folder)
    assert record_of(run).software["docker"]
    (subject,) = record_of(run).subjects
    assert subject.name.startswith("run:")


FAULT = (TOP / "tests/faults/all_reduce/sitecustomize.py").read_text()
ENVIRONMENT = "TORCH_COMPILE_DISABLE=1 PYTHONPATH=/opt/faults ALL_REDUCE=own:wrong"


@pytest.mark.usefixtures("built")
def test_wrong_sums_of_vllm_are_found_and_avoided(lab: Lab) -> None:
    """The sums of several GPUs, with the real PyTorch and vLLM on the CPU."""
    stages = [f"tests_920/test_{name}.py" for name in ("030_inherited_stack", "040_image", "045_all_reduce")]
    lab.inside("sh", "-c", f"mkdir -p /opt/faults; cat > /opt/faults/sitecustomize.py <<\\EOF\n{FAULT}\nEOF")
    words = ("-o", f"server_env={ENVIRONMENT}", "-o", "server_mounts=/opt/faults:/opt/faults:ro", "--rebuild")
    run = lab.build(*stages, *words, checks="tests_920/test_010_preflight.py")
    assert run.failed() == set()
    found = json.loads((run.folder / "record.json").read_text())["all_reduce"]
    assert found["verdict"] == all_reduce.OWN_WRONG
    assert [way["state"] for way in found["ways"]] == ["right", "right", "wrong", "right"]
    assert found["fix"] == {"arguments": ["--disable-custom-all-reduce"], "environment": {}}
    assert "on the CPU only vLLM's own all-reduce is wrong" in run.checks()["test_gpus_add_up_together"]
    assert lab.servers() == ""
