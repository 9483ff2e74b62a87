"""Refusals: what can't work is refused with its reason before anything is copied; what is not known is not."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.base.declaration import Declared, load
from fixtures.proxmox.pmxcfs import Guest
from fixtures.template import admission

DECLARATION = load(Path(__file__).parent.parent / "phoenix_lxc_configs.json")
UPSTREAM, TEMPLATE = DECLARATION[950], DECLARATION[920]
GIB = 2**30


def clone(declared: Declared, monkeypatch: pytest.MonkeyPatch, **facts: Any) -> Any:
    monkeypatch.setattr(admission, "holders", lambda node: facts.get("holders", {}))
    monkeypatch.setattr(admission, "answers", lambda node, bridge, address: facts.get("answers", False))
    node = SimpleNamespace(
        cluster_files=SimpleNamespace(memory=64 * GIB),
        config=lambda ctid, snapshot=None: {
            "rootfs": "lxc-disks:subvol-920-disk-0,size=64G",
            "hostname": facts.get("hostname", declared.name),
        },
        guests=lambda: facts.get("guests", {}),
        free=lambda name: facts.get("avail", 200) * GIB,
    )
    return SimpleNamespace(
        node=node, declared=declared, ctid=declared.ctid, container=None, exists=facts.get("exists", False)
    )


def test_what_is_declared_upstream_can_be_cloned(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(admission.of_clone(clone(UPSTREAM, monkeypatch), TEMPLATE, 40 * GIB)) == []
    turned = replace(UPSTREAM, gpus=UPSTREAM.gpus[::-1])  # 1,0 are the same GPUs as 0,1
    assert UPSTREAM.gpus == (0, 1)
    assert list(admission.of_clone(clone(turned, monkeypatch), TEMPLATE, 40 * GIB)) == []


@pytest.mark.parametrize(
    ("change", "facts", "said"),
    [
        ({"parent": 903}, {}, "declared as a clone of 903"),
        ({"unprivileged": True}, {}, "otherwise privileged"),
        ({"gpus": (0,)}, {}, "gpu_assignment is (0,)"),
        ({"memory_mb": 131072}, {}, "memory_mb is 131072, the node has only 65536 MB"),
        ({"storage_size_gb": 32}, {}, "storage_size_gb is 32, its template's disk has 64"),
        ({}, {"guests": {950: Guest("qemu", "pve", "x")}}, "number 950 is taken by qemu 'x'"),
        ({}, {"holders": {"10.0.0.150": 101}}, "10.0.0.150 is the address of container 101 too"),
        ({}, {"answers": True}, "a machine answers there"),
        ({}, {"avail": 41}, "41.0 GiB free, the copy takes 40.0"),
    ],
)
def test_impossible_clone_is_refused(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], facts: dict[str, Any], said: str
) -> None:
    (reason,) = admission.of_clone(clone(replace(UPSTREAM, **change), monkeypatch, **facts), TEMPLATE, 40 * GIB)
    assert said in reason


def test_throw_away_clone_has_the_disk_of_its_template(monkeypatch: pytest.MonkeyPatch) -> None:
    """A template with a larger disk than declared was built with a warning, and then refused by its own clone."""
    monkeypatch.setattr(admission, "EphemeralClone", SimpleNamespace)
    assert not list(admission.of_clone(clone(replace(UPSTREAM, storage_size_gb=32), monkeypatch), TEMPLATE, 40 * GIB))


def test_place_of_a_clone_that_is_there_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    there = clone(UPSTREAM, monkeypatch, exists=True, answers=True, avail=0, guests={950: Guest("lxc", "pve", "x")})
    assert list(admission.of_clone(there, TEMPLATE, 40 * GIB)) == []


def test_container_of_another_name_may_be_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    (reason,) = admission.of_clone(clone(UPSTREAM, monkeypatch, exists=True, hostname="mail"), TEMPLATE, 0)
    assert "is called 'mail'" in reason


@pytest.mark.parametrize(
    ("model", "ways", "said"),
    [
        ("lmstudio-community/Qwen3-Coder-30B-A3B-Instruct-MLX-5bit", 2, "Apple's MLX"),
        ("mlx-community/Qwen3-0.6B-4bit", 1, "Apple's MLX"),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", 2, "take about 56 GiB, 2 GPUs have 32"),
        ("Qwen/Qwen2.5-Coder-32B-Instruct-GPTQ-Int8", 1, "take about 30 GiB, 1 GPUs have 16"),
        ("Qwen/Qwen2.5-Coder-0.5B", 4, "tensor_parallel_size is 4, but it has only 2 GPUs"),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct-AWQ", 2, ""),
        ("Qwen/Qwen2.5-Coder-0.5B-Instruct-GPTQ-Int8", 1, ""),
        ("someone/emlxir-7B", 1, ""),
        ("someone/unknown", 2, ""),
        ("/models/mlx-70B", 1, ""),
    ],
)
def test_model_that_cannot_be_served_is_refused(model: str, ways: int, said: str) -> None:
    declared = replace(UPSTREAM, vllm_model=model, tensor_parallel=ways)
    reasons = list(admission.of_model(declared, [16 * 1024] * 2))
    assert [said in reason for reason in reasons] == ([True] if said else [])


def test_size_is_not_held_against_unknown_gpus() -> None:
    assert list(admission.of_model(replace(UPSTREAM, vllm_model="x/y-70B"), [])) == []


@pytest.mark.parametrize(
    ("model", "gib"),
    [
        *(("a/b-8B-FP8", 7.45), ("a/b-8b", 14.9), ("a/b-1.5B-w4a16", 0.7), ("a/b", 0)),
        # of huggingface.co, published with four bits; gpt-oss-20b has 12.8 GiB, as some of it has more
        *(("TheBloke/Llama-2-7B-GPTQ", 3.26), ("Intel/Qwen3-32B-AutoRound", 14.9), ("openai/gpt-oss-20b", 9.31)),
    ],
)
def test_weights_are_read_from_the_name(model: str, gib: float) -> None:
    assert admission.weights_gib(model) == pytest.approx(gib, rel=0.01)
