"""What several GPUs of this machine add up to together, in each way that vLLM knows.

usage: python3 tests/hardware/together.py [PYTHON] [SECONDS]

PYTHON has PyTorch and vLLM and is this one if it is left out; each way ends after SECONDS, 180 if left out. Needs the
packages of requirements.txt. The environment is handed on (NCCL_NVLS_ENABLE and so on). With ALL_REDUCE=own:wrong (or
peer:hang, all:die and so on) sums are spoilt as by tests/faults/all_reduce. Ends with 1 if no way is right.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from fixtures.serving import all_reduce
from fixtures.serving.all_reduce import Way

FAULTS = Path(__file__).parents[1] / "faults/all_reduce"


def main() -> int:
    """Print the verdict, each way, and how long it took."""
    python, seconds = [*sys.argv[1:], "", ""][:2]
    topology = subprocess.run(["nvidia-smi", "topo", "-m"], stdout=subprocess.PIPE, text=True, check=False).stdout
    listed = subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.PIPE, text=True, check=True).stdout
    gpus, limit = len(listed.splitlines()), float(seconds or 180)
    spoilt = {"PYTHONPATH": f"{FAULTS}:{os.environ.get('PYTHONPATH', '')}"} if "ALL_REDUCE" in os.environ else {}

    def attempt(ways: Sequence[dict[str, Any]]) -> list[Way]:
        asked = {"ranks": gpus, "cuda": True, "deadline": limit, "environment": spoilt, "ways": ways}
        asked |= {"dtypes": all_reduce.DTYPES, "sizes": all_reduce.SIZES}
        with tempfile.NamedTemporaryFile(suffix=".py") as probe:
            probe.write(all_reduce.PROBE)
            probe.flush()
            words = [python or sys.executable, probe.name]
            done = subprocess.run(words, input=json.dumps(asked), stdout=subprocess.PIPE, text=True, check=True)
        found = all_reduce.read(json.loads(done.stdout))
        for way in found:
            print(f"{way}; {way.seconds:.1f} s; reach each other's memory: {way.peers}", flush=True)
        return found

    print(f"{listed}{topology}")
    found = all_reduce.judged(attempt, topology)
    print(f"verdict on {gpus} GPUs: {found.verdict}; servers are started with: {found.fix or 'nothing more'}")
    held = subprocess.run(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader"], check=False)
    return held.returncode or found.verdict == all_reduce.NOTHING_RIGHT


if __name__ == "__main__":
    sys.exit(main())
