"""The content manifest: the same for the same content, named by its digest, kept whole or not at all."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.proxmox.channel import Channel
from fixtures.proxmox.container import Container, ContainerError
from fixtures.proxmox.node import Node, NodeError
from fixtures.proxmox.volume import Volume
from fixtures.remote import container_probe, verify
from fixtures.serving.image import inspect
from fixtures.template import comparison, manifest, record_store

PACKAGES = {"bash": "5.2", "libc6:amd64": "2.36"}
DIGEST = "a" * 64
TEXT = st.text(st.characters(max_codepoint=0xD7FF))
VALUES = st.recursive(
    TEXT | st.integers(-(2**53), 2**53), lambda each: st.lists(each) | st.dictionaries(TEXT, each), max_leaves=10
)


def made() -> manifest.Manifest:
    found = {
        "template": {"image": {"name": "i"}, "packages": {"count": 2, "sha256": container_probe.digest(PACKAGES)}},
        "around": {"kernel": "6.8", "driver": "580", "gpus": {}},
        "packages": PACKAGES,
    }
    node: Any = SimpleNamespace(version="pve-manager/9.0.3/abc (running kernel: 6.8)")
    return manifest.make(node, {"memory": 4096, "digest": "x", "snaptime": 7}, found, {"caches": []})


def test_canonical_form_is_that_of_the_rfc() -> None:
    """Sorted, without spaces, not escaped but where it must be (RFC 8785, 3.2.2 and 3.2.3)."""
    value = {"\u20ac": "Euro", "b": [1, '\n\x0f"\\'], "a": {"z": "", "y": "ö"}}
    assert container_probe.canonical(value).decode() == '{"a":{"y":"ö","z":""},"b":[1,"\\n\\u000f\\"\\\\"],"€":"Euro"}'


@given(VALUES)
def test_canonical_form_loses_nothing(value: Any) -> None:
    assert json.loads(container_probe.canonical(value)) == value


def test_float_is_refused() -> None:
    with pytest.raises(TypeError, match="no float"):
        container_probe.canonical({"a": [1.5]})


def test_only_the_template_makes_the_digest() -> None:
    one, other = made(), made()
    other["around"]["kernel"] = "6.9"
    assert manifest.digest(one) == manifest.digest(other)
    other["template"]["config"]["memory"] = "8192"
    assert manifest.digest(one) != manifest.digest(other)


def test_configuration_is_content_only() -> None:
    assert made()["template"]["config"] == {"memory": "4096"}
    assert manifest.content({"lxc": [["lxc.cap", 1]], "lock": "x", "description": "y"}) == {"lxc": [["lxc.cap", "1"]]}


@pytest.mark.parametrize("off", [0, "0"])
def test_what_is_off_by_default_is_no_content(off: object) -> None:
    """`pct set --protection 0` writes a line that says the same as none; it was drift from none to 0."""
    assert manifest.content({"protection": off, "onboot": off, "swap": off}) == {"swap": "0"}
    assert manifest.content({"protection": 1}) == {"protection": "1"}


def test_secret_of_a_configuration_is_in_no_manifest() -> None:
    """By its form: what one run knows to be secret another does not, and both must come to the same digest."""
    found = manifest.content({"lxc": [["lxc.environment", "HUB_TOKEN=abcdefgh123"]], "dev0": "/dev/nvidia0"})
    assert found == {"lxc": [["lxc.environment", "HUB_TOKEN=[redacted: NAME=VALUE]"]], "dev0": "/dev/nvidia0"}


def test_kept_manifest_comes_back() -> None:
    assert manifest.from_json(manifest.to_json(made())) == made()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda document: document["packages"].update(bash="6"), "list of packages"),
        (lambda document: document.pop("around"), "without around"),
        (lambda document: document.update(schema="other"), "not a manifest"),
    ],
)
def test_spoiled_manifest_is_refused(spoil: Callable[[Any], None], said: str) -> None:
    document = made()
    spoil(document)
    with pytest.raises(ValueError, match=said):
        manifest.from_json(manifest.to_json(document))


def test_hub_cache_is_looked_for_where_it_is_mounted_from() -> None:
    settings: Any = SimpleNamespace(
        vllm_image="i", test_model="a/b", server_mounts=("/srv/hf:/root/hf:ro", "volume:/x"), keep_model="/var/hub"
    )
    assert manifest.wanted(settings) == {"image": "i", "model": "a/b", "caches": ["/srv/hf", "/var/hub"]}


# --- inside -------------------------------------------------------------------------------------------


def test_model_in_a_folder(tmp_path: Path) -> None:
    notes = tmp_path / ".cache/huggingface/download"
    notes.mkdir(parents=True)
    (notes / "weights.metadata").write_text("c0ffee\nrest\n")
    (tmp_path / "weights").write_bytes(b"abc")
    assert container_probe._model(str(tmp_path), [], {})[0] == {
        "name": str(tmp_path),
        "folder": str(tmp_path),
        "revision": "c0ffee",
        "files": {"weights": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    }


def test_model_of_the_hub(tmp_path: Path) -> None:
    repository = tmp_path / "hub/models--org--name"
    for folder in ("refs", "snapshots/c0ffee"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs/main").write_text("c0ffee")
    (repository / "snapshots/c0ffee/weights").write_bytes(b"abc")
    model, _ = container_probe._model("org/name", [str(tmp_path)], {})
    assert (model["revision"], list(model["files"])) == ("c0ffee", ["weights"])


def test_model_that_is_not_there_has_no_files(tmp_path: Path) -> None:
    assert container_probe._model("org/name", [str(tmp_path)], {})[0]["files"] == {}
    assert container_probe._model("/no/such/folder", [], {})[0]["folder"] == ""


def answers(monkeypatch: pytest.MonkeyPatch, said: dict[str, list[str]]) -> None:
    monkeypatch.setattr(container_probe, "run", lambda *argv: "\n".join(said.get(" ".join(argv[:2]), [])))


def test_packages_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    components = [
        {"Name": "Engine", "Version": "26.1"},
        {"Name": "runc", "Version": "1.1"},
        {"Name": "x", "Version": ""},
    ]
    said = {
        "dpkg-query --show": ["bash\t5.2\tii ", "held\t2\thi ", "gone\t1\trc "],
        "docker version": [json.dumps({"Components": components})],
        "nvidia-ctk --version": ["NVIDIA Container Toolkit CLI version 1.17.8", "commit: x"],
    }
    answers(monkeypatch, said)
    assert container_probe.installed() == {"bash": "5.2", "held": "2"}
    assert container_probe._software() == {"docker": "26.1", "containerd": "", "runc": "1.1", "toolkit": "1.17.8"}


@pytest.mark.parametrize("name", ["r:5000/vllm/openai:latest", "r:5000/vllm/openai@sha256:1", "r:5000/vllm/openai"])
def test_image_has_the_digest_of_its_repository(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    found = [{"Id": "sha256:2", "RepoDigests": ["other@sha256:9", "r:5000/vllm/openai@sha256:1"]}]
    answers(monkeypatch, {"docker image": [json.dumps(found)]})
    assert container_probe._image(name) == {"name": name, "id": "sha256:2", "digest": "r:5000/vllm/openai@sha256:1"}


def saying(document: object) -> Container:
    """A container whose programs print a document."""
    container = Container(SimpleNamespace(), 920)  # type: ignore[arg-type]
    container.ask = lambda *_, **__: json.dumps(document)  # type: ignore[method-assign]
    return container


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("docker.io/vllm/vllm-openai:latest", "vllm/vllm-openai"),
        ("index.docker.io/library/debian", "debian"),
        ("library/debian:12", "debian"),
        ("host.io/library/debian:12", "host.io/library/debian"),
    ],
)
def test_image_is_known_by_the_name_that_docker_lists(monkeypatch: pytest.MonkeyPatch, name: str, listed: str) -> None:
    found = [{"Id": "sha256:2", "RepoDigests": [f"{listed}@sha256:1"], "Config": {}, "Size": 1}]
    answers(monkeypatch, {"docker image": [json.dumps(found)]})
    assert container_probe._image(name)["digest"] == f"{listed}@sha256:1"
    assert inspect(saying(found), name).digest == f"{listed}@sha256:1"


def test_missing_tools_are_facts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, {})
    facts = container_probe.facts("i", "/none", [])
    assert facts["template"]["image"] == {"name": "i", "id": "", "digest": ""}
    assert facts["around"]["gpus"] == {}


def test_script_says_what_a_clone_came_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers(monkeypatch, {})
    monkeypatch.setattr(verify, "FOLDER", tmp_path)
    monkeypatch.setattr(verify, "run", lambda *_: "")
    assert verify.main() == 2
    facts = container_probe.facts("i", "/none", [])
    node: Any = SimpleNamespace(version="pve")
    content = manifest.make(node, {"net0": "name=eth0,ip=10.0.0.220/24"}, facts, {"caches": []})
    lines, same = verify.report(content, {"subjects": [{"name": "pve:n/lxc/920@s"}], "generation": 3}, facts)
    assert same
    assert "changed since: nothing" in lines
    assert lines[0].startswith("came from pve:n/lxc/920@s, generation 3, manifest sha256:")
    assert "  address: 10.0.0.220/24 -> none" in lines
    facts["packages"] = {"new": "1"}
    lines, same = verify.report(content, {}, facts)
    assert not same
    assert lines[0].startswith("came from a template, manifest sha256:"), "sealed by a version that did not name it"
    assert "  packages new: none -> 1" in lines


def test_record_that_was_made_huge_is_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers(monkeypatch, {})
    monkeypatch.setattr(container_probe, "FOLDER", tmp_path)
    with (tmp_path / "manifest.json").open("w") as file:
        file.truncate(2**40)
    (tmp_path / "record.json").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "verify")
    assert container_probe.facts("i", "/none", [])["kept"] == {"manifest.json": "unreadable"}


def test_devices_that_may_be_used_have_their_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia-uvm", "null"):
        (tmp_path / name).symlink_to("/dev/null")
    (tmp_path / "nvidia-caps").mkdir()
    monkeypatch.setattr(container_probe, "DEV", tmp_path)
    assert container_probe._devices() == {"nvidia-uvm": 1, "nvidia0": 1}
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert container_probe._devices() == {}


# --- kept ---------------------------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(record_store, "FOLDER", f"{tmp_path}/a folder/records")
    return Node(Channel("local"))


def test_record_is_kept_and_found(node: Node) -> None:
    files = {"record.json": "$(touch /tmp/x) 'ö'\n", "manifest.json": "{}"}
    record_store.keep(node, DIGEST, files)
    kept = record_store.read(node, DIGEST)
    assert {name: kept[name] for name in files} == files
    assert record_store.changed(kept) == []
    assert record_store.read(node, "b" * 64) == {}
    place = Path(record_store.FOLDER, DIGEST)
    subprocess.run(["sha256sum", "--check", "--status", "SHA256SUMS"], cwd=place, check=True, timeout=20)
    assert (place / "record.json").stat().st_mode & 0o777 == 0o644


def test_newer_record_replaces_the_older_one(node: Node) -> None:
    record_store.keep(node, DIGEST, {"record.json": "old", "manifest.json": "{}"})
    record_store.add(node, DIGEST, {"record.json": "new"})
    kept = record_store.read(node, DIGEST)
    assert (kept["record.json"], kept["manifest.json"]) == ("new", "{}")
    assert len(list(Path(record_store.FOLDER).iterdir())) == 2  # the link and what it leads to


def test_half_a_record_never_replaces_a_whole_one(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    record_store.keep(node, DIGEST, {"record.json": "old" * 10_000})
    whole = record_store._archive
    monkeypatch.setattr(record_store, "_archive", lambda files: whole(files)[:1000])
    with pytest.raises(NodeError, match="was not stored"):
        record_store.keep(node, DIGEST, {"record.json": "new" * 10_000})
    assert record_store.read(node, DIGEST)["record.json"].startswith("old")
    assert len(list(Path(record_store.FOLDER).iterdir())) == 2


@pytest.mark.parametrize("name", ["record.json", "SHA256SUMS"])
def test_edited_file_is_named_and_not_built_upon(node: Node, name: str) -> None:
    record_store.keep(node, DIGEST, {"record.json": "one line\n"})
    file = Path(record_store.FOLDER, DIGEST, name)
    file.write_text(file.read_text().replace("e", "f"))
    ((changed, was, now),) = [
        each for each in record_store.changed(record_store.read(node, DIGEST)) if each[0] == "record.json"
    ]
    assert was != now
    assert changed == "record.json"
    with pytest.raises(NodeError, match="was changed after it was stored"):
        record_store.add(node, DIGEST, {"record.json": "new"})


# --- storage ------------------------------------------------------------------------------------------


def marks(kind: str, printed: str, rootfs: str = "pool:subvol-920-disk-0,size=64G") -> Any:
    """What is noted of the snapshot "s" on a storage of some type, whose commands print this; and the last of them."""
    commands: list[tuple[str, ...]] = []

    def ask(*argv: str) -> str:
        commands.append(argv)
        return printed.rstrip("\n")

    node: Any = SimpleNamespace(
        config=lambda ctid, snapshot: {"rootfs": rootfs},
        storage=lambda name: {"type": kind, "pool": "rpool/data", "path": "/pool", "vgname": "pve"},
        ask=ask,
    )
    snapshot = SimpleNamespace(name="s", taken=7, description="d")
    root = lambda snapshot: {"rootfs": Volume(node, rootfs)}  # noqa: E731
    one: Any = SimpleNamespace(node=node, ctid=920, snapshot_name="s", snapshot=lambda: snapshot, volumes=root)
    return comparison.snapshot_facts(one).storage, commands[-1][-1]


def test_zfs_says_guid_and_transaction() -> None:
    found, asked = marks("zfspool", "rpool/data/subvol-920-disk-0@s\t123456789\t42\t-\n")
    assert found == {"type": "zfspool", "guid": "123456789", "createtxg": "42"}
    assert asked == "rpool/data/subvol-920-disk-0"


def test_btrfs_says_uuid_and_generation_of_the_right_snapshot() -> None:
    row = "ID 257 gen 30 cgen {} top level 5 otime 2026-11-25 02:14:31 uuid {} path {}"
    names = ("disks/subvol-920-disk-0@s", "disks/subvol-920-disk-0@s-old", "x/subvol-1920-disk-0@s")
    table = "\n".join(row.format(number, f"u{number}", name) for number, name in enumerate(names))
    assert marks("btrfs", table)[0] == {"type": "btrfs", "uuid": "u0", "generation": "0"}
    with pytest.raises(NodeError, match="lists no snapshot s of pool:subvol-921-disk-0"):
        marks("btrfs", table, "pool:subvol-921-disk-0")
    with pytest.raises(NodeError, match="does not say which snapshot s"):
        marks("btrfs", f"{table}\n{table}")


def test_btrfs_snapshot_of_a_disk_with_a_size_is_that_of_its_folder() -> None:
    """The disk is an image; the folder that holds it is the subvolume."""
    row = "ID 257 gen 30 cgen 5 top level 5 otime 2026-11-25 02:14:31 uuid u path images/920/vm-920-disk-0@s"
    found = marks("btrfs", row, "pool:920/vm-920-disk-0.raw,size=64G")
    assert found == ({"type": "btrfs", "uuid": "u", "generation": "5"}, "/pool/images/920/vm-920-disk-0")


def test_other_storage_says_only_its_type() -> None:
    assert marks("lvmthin", "  snap_subvol-920-disk-0_s\n")[0] == {"type": "lvmthin"}


def test_file_is_read_again_only_if_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time can be set back; when that was done can't (inode(7))."""
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    again, real = list[str](), container_probe.file_digest

    def digest(path: str) -> str:
        again.append(path[-1])
        return real(path)

    monkeypatch.setattr(container_probe, "file_digest", digest)
    _, young = container_probe._model(str(tmp_path), [], {})
    assert not any(each.partition(" ")[0] for each in young.values()), "it may change again in the same moment"
    monkeypatch.setattr(container_probe, "SETTLED", -1)
    model, read = container_probe._model(str(tmp_path), [], young)
    digests, again[:] = model["files"], []
    assert container_probe._model(str(tmp_path), [], read) == (model, read)
    assert again == []
    was = (tmp_path / "b").stat()
    while (tmp_path / "b").stat().st_ctime_ns == was.st_ctime_ns:
        (tmp_path / "b").write_text("x")
        os.utime(tmp_path / "b", ns=(was.st_atime_ns, was.st_mtime_ns))
    (tmp_path / "other").write_text("c")
    (tmp_path / "other").rename(tmp_path / "c")
    model, _ = container_probe._model(str(tmp_path), [], read)
    assert sorted(again) == ["b", "c"]
    assert {**model["files"], "b": ""} == {**digests, "b": ""}
    assert model["files"]["b"] != digests["b"]


def test_name_of_a_file_that_is_no_utf8_is_escaped(tmp_path: Path) -> None:
    """A model's folder may come from a machine with Latin-1 names; half a surrogate pair has no digest."""
    (tmp_path / os.fsdecode(b"caf\xe9.json")).write_text("x")
    found, read = container_probe._model(str(tmp_path), [], {})
    assert list(found["files"]) == ["caf\\xe9.json"]
    assert len(container_probe.digest(json.loads(json.dumps(found)))) == 64
    assert json.loads(json.dumps(read)) == read


@pytest.mark.parametrize(
    "change",
    [
        *(
            {"template": {"image": None}},
            {"template": {"packages": {"count": 1.5}}},
            {"template": {"files": {"/x": 1}}},
        ),
        *({"template": {"model": {"name": "\ud800"}}}, {"around": {"driver": None}}, {"around": {"gpus": []}}),
        *({"packages": {"x": 1}}, {"kept": {"x": None}}, {"packages": {"\ud800": ""}}),
    ],
)
def test_answer_of_which_no_manifest_can_be_made_is_said(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    answers(monkeypatch, {})
    right = json.loads(json.dumps(container_probe.facts("i", "/none", [])))
    assert manifest.look_inside(saying(right), {}, 60) == right
    with pytest.raises(ContainerError, match=r"`python3 -` in container 920 printed .*it\.\w+.* is .*; expected"):
        manifest.look_inside(saying(right | {name: right[name] | each for name, each in change.items()}), {}, 60)
