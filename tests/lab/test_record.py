"""The record of a real build: all files are there, valid, true to the node, and without secrets."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from fixtures.record.attestation import changed_files, verify_envelope
from fixtures.record.model import Record, from_json
from fixtures.run.mode import Outcome
from fixtures.template import manifest
from tests import schemas
from tests.lab.harness import SNAPSHOT, Lab, Run
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
def built(lab: Lab, keys: tuple[Path, Path]) -> Run:
    """A green build that was given secrets and a key."""
    words = [
        "--rebuild",
        "--no-clone",
        "-o",
        "server_env=HUGGING_FACE_HUB_TOKEN VLLM_API_KEY",
        "-o",
        f"signing_key={keys[0]}",
    ]
    lab.forget_images()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        run = lab.build(*words)
    assert (run.status, run.outcome) == (0, "built")
    return run


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


def test_existing_run_leaves_all_files(lab: Lab, built: Run) -> None:
    run = lab.build()
    assert run.outcome == "existing"
    schemas.check_folder(run.folder)
    record = record_of(run)
    assert record.outcome is Outcome.EXISTING
    assert record.image["digest"] == record_of(built).image["digest"]
    assert record.software == record_of(built).software


def test_failed_run_leaves_all_files(lab: Lab) -> None:
    run = lab.build("--rebuild", "-o", "vllm_image=vllm/vllm-openai:no-such-tag")
    assert (run.status, record_of(run).outcome) == (1, Outcome.FAILED)
    assert names(run.folder) == FILES | {"record.intoto.json", "provenance.intoto.json", "evidence-image.txt"}
    schemas.check_folder(run.folder)
    assert record_of(run).software["docker"]
    (subject,) = record_of(run).subjects
    assert subject.name.startswith("run:")
