"""Templates with one GPU and with eight: each GPU is proved, and all of them together where there are several."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fixtures.proxmox.docker import RUNS
from tests.faults.fault import stand_in
from tests.lab.harness import STAND_IN, TOP, Lab

pytestmark = pytest.mark.lab

CONF = "/etc/pve/lxc/903.conf"


@pytest.fixture(params=[1, 8])
def count(lab: Lab, request: pytest.FixtureRequest) -> Iterator[int]:
    """A number of GPUs that the node has and the parent is passed; afterwards it is two, as before."""
    number, before = int(request.param), lab.node("cat", CONF)
    devices = "".join(f"dev{20 + gpu}: /dev/nvidia{gpu}\n" for gpu in range(number))
    made = before.replace("dev1: /dev/nvidia1\n", "").replace("dev0: /dev/nvidia0\n", devices)
    nodes = "for n in 2 3 4 5 6 7; do [ -e /dev/nvidia$n ] || mknod --mode 666 /dev/nvidia$n c 195 $n; done"
    lab.node("sh", "-ec", f"{nodes}; cat > {CONF} <<\\EOF\n{made}EOF")
    yield number
    if 920 in lab.containers():
        lab.destroy()
    lab.node("sh", "-ec", f"rm /dev/nvidia[2-7]; cat > {CONF} <<\\EOF\n{before}EOF")


def wait_for(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not happened():
        assert time.monotonic() < end, process.args
        time.sleep(0.2)


def test_each_gpu_is_proved_and_all_of_them_together(lab: Lab, count: int, tmp_path: Path) -> None:
    document = json.loads((TOP / "lab/phoenix_lxc_configs.json").read_text())
    for entry in document["lxc_configs"].values():
        ways = min(count, entry.get("vllm_tensor_parallel_size", 1))
        entry |= {"gpu_assignment": ",".join(map(str, range(count))), "vllm_tensor_parallel_size": ways}
    (tmp_path / "configs.json").write_text(json.dumps(document))
    run = lab.build(*STAND_IN, "--no-clone", "-o", f"lxc_configs={tmp_path}/configs.json", seconds=900)
    assert (run.status, run.outcome, run.failed()) == (0, "built", set())
    record = json.loads((run.folder / "record.json").read_text())
    assert len(record["gpus"]) == count
    assert [one["gpus"] for one in record["served"]] == ["all", *(f"device={gpu}" for gpu in range(1, count))]
    assert all(one["answered"] for one in record["served"])
    assert bool(record["all_reduce"]) == (count > 1)
    # how much memory one takes was known when the first had run
    assert [one["together"] for one in record["served"]] == [1, *[count - 1] * (count - 1)]
    assert all(one["memory_mib"] > 0 for one in record["served"])
    assert lab.servers() == ""
    if count > 1:
        deep = (*STAND_IN, "--verify-deep", "-o", f"lxc_configs={tmp_path}/configs.json")
        killed = lab.start(*deep, *stand_in("silent"))
        wait_for(killed, lambda: len(lab.servers("--filter", "label=phoenix-920=test-server").split()) == count)
        killed.kill()
        killed.wait()
        wait_for(killed, lambda: lab.servers() == "")  # before the next run cleans up
        run = lab.build(*deep, seconds=900)
        assert (run.status, run.failed()) == (0, set())
        served = json.loads((run.folder / "record.json").read_text())["served"]
        assert [one["together"] for one in served] == [count] * count
        assert lab.servers() == lab.inside("sh", "-c", f"cat {RUNS} || true") == ""
