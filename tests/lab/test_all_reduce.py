"""The sums of several GPUs, with the real PyTorch and vLLM on the CPU: a fault in the image is found and avoided."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fixtures.serving import all_reduce
from tests.lab.harness import TOP, Lab

pytestmark = pytest.mark.lab

FAULT = (TOP / "tests/faults/all_reduce/sitecustomize.py").read_text()
ENVIRONMENT = "TORCH_COMPILE_DISABLE=1 PYTHONPATH=/opt/faults ALL_REDUCE=own:wrong"


def test_wrong_sums_of_vllm_are_found_and_avoided(lab: Lab) -> None:
    stages = [f"tests_920/test_{name}.py" for name in ("030_inherited_stack", "040_image", "045_all_reduce")]
    lab.build(checks="tests_920/test_020_clone.py")
    lab.inside("sh", "-c", f"mkdir -p /opt/faults; cat > /opt/faults/sitecustomize.py <<\\EOF\n{FAULT}\nEOF")
    words = ("-o", f"server_env={ENVIRONMENT}", "-o", "server_mounts=/opt/faults:/opt/faults:ro")
    run = lab.build(*stages, *words, checks="tests_920/test_010_preflight.py")
    assert run.failed() == set()
    record = json.loads(Path(lab.reports, "latest/record.json").read_text())
    found = record["all_reduce"]
    assert found["verdict"] == all_reduce.OWN_WRONG
    assert [way["state"] for way in found["ways"]] == ["right", "right", "wrong", "right"]
    assert found["fix"] == {"arguments": ["--disable-custom-all-reduce"], "environment": {}}
    assert "on the CPU only vLLM's own all-reduce is wrong" in run.checks()["test_gpus_add_up_together"]
    assert lab.servers() == ""
