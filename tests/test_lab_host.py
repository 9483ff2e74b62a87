"""The machine's own GPU stack for the lab's containers: found where it is, and copied with the parts that are there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fixtures.base.declaration import load
from lab.errors import LabError
from lab.gpu import host

CACHE = "\tlibcuda.so.1 (libc6,x86-64) => {0}/libcuda.so.1\n\tlibcuda.so.1 (libc6) => /usr/lib32/libcuda.so.1\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose loader knows nothing; its driver is a mount of its own."""
    monkeypatch.setattr(host, "execute", lambda words, **_: "" if words == ["ldconfig", "-p"] else str(words))
    monkeypatch.setattr(host, "MOUNT", tmp_path / "nvidia")
    monkeypatch.setattr(host, "FOLDERS", (tmp_path / "nvidia/lib64",))
    monkeypatch.setattr(host, "CONFIG", tmp_path / "config.toml")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    for folder in ("nvidia/lib64", "nvidia/bin", "bin", "root/usr/bin", "root/usr/lib/x86_64-linux-gnu"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def program(path: Path) -> None:
    path.write_text(f"#!/bin/sh\n# {path.name}\n")
    path.chmod(0o755)


def driver(folder: Path) -> None:
    """The driver's libraries, each with its version."""
    for name in host.NEEDED:
        (folder / f"{name[:-2]}.580.1").write_text(name)
        (folder / name).symlink_to(f"{name[:-2]}.580.1")


def test_driver_in_a_mount_of_its_own_is_found(machine: Path) -> None:
    driver(machine / "nvidia/lib64")
    program(machine / "nvidia/bin/nvidia-smi")
    host.install(machine / "root")
    libraries = machine / "root/usr/lib/x86_64-linux-gnu"
    assert (libraries / "libcuda.so.1").readlink() == Path("libcuda.so.580.1")
    assert (libraries / "libcuda.so.580.1").read_text() == "libcuda.so.1"
    assert "nvidia-smi" in (machine / "root/usr/bin/nvidia-smi").read_text()
    assert "of the phoenix-920 lab" in (machine / "root/usr/bin/nvidia-ctk").read_text()


def test_loader_counts_before_the_mount(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(machine / "nvidia/lib64")
    driver(machine / "bin")
    assert host.libraries(("libcuda.so.1",)) == {"libcuda.so.1": machine / "nvidia/lib64/libcuda.so.1"}
    monkeypatch.setenv("LD_LIBRARY_PATH", f":{machine / 'bin'}")
    assert host.libraries(("libcuda.so.1",)) == {"libcuda.so.1": machine / "bin/libcuda.so.1"}
    monkeypatch.delenv("LD_LIBRARY_PATH")
    monkeypatch.setattr(host, "execute", lambda *_, **__: CACHE.format(machine / "bin"))
    assert host.libraries(("libcuda.so.1",)) == {"libcuda.so.1": machine / "bin/libcuda.so.1"}


def test_toolkit_without_its_legacy_parts_is_taken(machine: Path) -> None:
    driver(machine / "nvidia/lib64")
    program(machine / "nvidia/bin/nvidia-smi")
    parts = ("nvidia-container-runtime", "nvidia-ctk", "nvidia-cdi-hook")
    for name in parts:
        program(machine / "bin" / name)
    host.CONFIG.write_text('mode = "auto"\n')
    host.install(machine / "root/../root")
    taken = {path.name: path.read_text() for path in (machine / "root/usr/bin").iterdir()}
    assert taken == {name: f"#!/bin/sh\n# {name}\n" for name in (*parts, "nvidia-smi")}


def test_driver_that_is_not_whole_is_told(machine: Path) -> None:
    with pytest.raises(LabError, match=r"libcuda\.so\.1, .*nvidia-smi not found by ldconfig -p, LD_LIBRARY_PATH and "):
        host.install(machine / "root")


@pytest.mark.parametrize("cards", [["nvidia0"], ["nvidia0", "nvidia1"], ["nvidia2", "nvidia3", "nvidia4"]])
def test_declaration_of_a_machine_is_one_that_the_suite_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cards: list[str]
) -> None:
    """950 shares its model between two GPUs, and a machine may have one."""
    monkeypatch.setattr(host, "device_nodes", lambda: [*cards, "nvidiactl", "nvidia-uvm"])
    lab = Path(__file__).parents[1] / "lab/phoenix_lxc_configs.json"
    file = tmp_path / "phoenix_lxc_configs.json"
    file.write_text(host.text(host.declaration(json.loads(lab.read_text()))))
    found = load(file)
    assert [len(found[ctid].gpus) for ctid in (903, 920, 950)] == [len(cards)] * 3
    assert found[950].tensor_parallel == min(2, len(cards))
