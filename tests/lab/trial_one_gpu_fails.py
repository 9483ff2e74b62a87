"""A server of one of two or eight GPUs fails, in each way and moment: exactly its checks are red, all others green.

It takes a quarter of an hour and is no part of the suite: venv/bin/python -m pytest tests/lab/trial_one_gpu_fails.py
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults.fault import stand_in
from tests.lab.harness import STAND_IN, Lab
from tests.lab.test_gpu_numbers import assert_only_gpu_1_fails, count, declared_with

pytestmark = pytest.mark.lab
__all__ = ["count"]

FAULTS = {
    "dies": ("the server died while", "test_server_gets_ready"),
    "silent": ("timed out after", "test_server_gets_ready"),
    "garbled": ("again and again", "test_server_answers"),
    "eats": ("exit status 137", "test_server_gets_ready"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("count", [2, 8], indirect=True)
def test_one_gpu_fails_alone(lab: Lab, count: int, fault: str, tmp_path: Path) -> None:
    deadline = 15 if fault == "silent" else 60  # 4 GB are not eaten at once
    words = [*STAND_IN, *declared_with(count, tmp_path), "--no-clone"]
    # the memory of one is not known before the first has run
    for together, more in (([1, *[count - 1] * (count - 1)], ()), ([count] * count, ("--verify-deep",))):
        if more:
            assert lab.build(*words, seconds=900).outcome == "built"
        spoilt = (*stand_in(f"{fault}@1"), "-o", f"ready_deadline={deadline}")
        run = lab.build(*words, *more, *spoilt, seconds=900)
        served = json.loads((run.folder / "record.json").read_text())["served"]
        assert [one["together"] for one in served if one["gpus"] != "all together"] == together
        assert_only_gpu_1_fails(lab, run, *FAULTS[fault])
