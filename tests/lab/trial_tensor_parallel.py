"""The real vLLM whose model two processes share on the CPU, in a build and in a clone that declares it.

It takes five minutes and is no part of the suite: venv/bin/python -m pytest tests/lab/trial_tensor_parallel.py
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.lab.harness import TOP, Lab

pytestmark = pytest.mark.lab

MODEL = "/models/even-heads"  # the test model has 9 heads; a copy of it with heads of zeros has 12
SCRIPT = (TOP / "tests/hardware/wider.py").read_text()
# vLLM gives each process a NUMA node of its own, and this machine has one; each process takes 1 GB of KV cache
ENVIRONMENT = "TORCH_COMPILE_DISABLE=1 VLLM_CPU_OMP_THREADS_BIND=nobind OMP_NUM_THREADS=1"
MEMORY = 8192


def test_two_processes_serve_as_one_does_in_the_template_and_in_a_clone(lab: Lab, tmp_path: Path) -> None:
    document = json.loads((TOP / "lab/phoenix_lxc_configs.json").read_text())
    document["lxc_configs"]["920"] |= {"vllm_model": MODEL}
    document["lxc_configs"]["951"] |= {"vllm_model": MODEL, "vllm_tensor_parallel_size": 2, "memory_mb": MEMORY}
    (tmp_path / "configs.json").write_text(json.dumps(document))
    words = ["-o", f"lxc_configs={tmp_path}/configs.json", "-o", f"test_model={MODEL}"]
    words += ["-o", f"server_env={ENVIRONMENT}", "-o", f"server_memory_mb={MEMORY}"]
    with lab.changed_parent(f"python3 -c {shlex.quote(SCRIPT)} models/test-model {MODEL.strip('/')}"):
        run = lab.build(*words, "--no-clone", seconds=900)
        assert (run.status, run.outcome, run.failed()) == (0, "built", set())
        served = json.loads((run.folder / "record.json").read_text())["served"]
        assert [one["gpus"] for one in served] == ["all", "device=1", "all together"]
        alone, _, together = served
        for one, ways in ((alone, "1"), (together, "2")):
            assert one["command"][one["command"].index("--tensor-parallel-size") + 1] == ways
            assert one["answers"][-1]["text"] == "The capital of France is Paris."
        (agreed,) = together["fingerprint"]["agreements"]
        print("two processes and one:", agreed, [one["memory_mib"] for one in served])
        assert not agreed["contradicts"]
        assert "(all)" in agreed["other"]
        run = lab.build(*words, "--accept", "951", seconds=600)
        assert (run.status, run.failed()) == (0, set())
        clone = json.loads((run.folder / "record.json").read_text())["clone"]
        assert clone["answer"] == "The capital of France is Paris."
        assert "those of one GPU" in clone["answers"]
        print(clone["answers"], clone["first_answer_seconds"])
        lab.destroy()
