"""Templates with one GPU and with eight: each GPU is proved, and all of them together where there are several."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fixtures.proxmox.docker import RUNS
from tests.faults.fault import stand_in
from tests.lab.harness import STAND_IN, TOP, Lab, Run, says

pytestmark = pytest.mark.lab

CONF = "/etc/pve/lxc/903.conf"
LOOPS = "nvidia-sm[i]|docker (logs|wai[t])"


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


def declared_with(count: int, folder: Path) -> list[str]:
    """Words that declare all containers with a number of GPUs, in a file of a folder."""
    document = json.loads((TOP / "lab/phoenix_lxc_configs.json").read_text())
    for entry in document["lxc_configs"].values():
        ways = min(count, entry.get("vllm_tensor_parallel_size", 1))
        entry |= {"gpu_assignment": ",".join(map(str, range(count))), "vllm_tensor_parallel_size": ways}
    (folder / "configs.json").write_text(json.dumps(document))
    return ["-o", f"lxc_configs={folder}/configs.json"]


def assert_only_gpu_1_fails(lab: Lab, run: Run, said: str, *failed: str) -> None:
    """A finding of this GPU's server for each of its checks that failed; all others are proved, nothing is left."""
    assert (run.status, run.failed()) == (1, {f"{check}[gpu1]" for check in failed})
    assert len(re.findall(r"^\d+\. ", run.output, re.MULTILINE)) == len(failed)
    says(run, said)
    checks = run.checks()
    passed = {name for name, verdict in checks.items() if verdict == "passed"}
    others = {name for name in checks if name.startswith("test_server_") and not name.endswith("[gpu1]")}
    assert others - passed == {name for name in others if "fast_enough" in name}, "of a simulated GPU"
    assert lab.servers() == lab.inside("sh", "-c", f"cat {RUNS} || true") == ""
    assert lab.inside("sh", "-c", f"pgrep --full --list-full '{LOOPS}' || true") == ""
    assert len(lab.inside("docker", "network", "ls", "--quiet").split()) == 3


def test_each_gpu_is_proved_and_all_of_them_together(lab: Lab, count: int, tmp_path: Path) -> None:
    words = (*STAND_IN, *declared_with(count, tmp_path))
    run = lab.build(*words, "--no-clone", seconds=900)
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
        killed = lab.start(*words, "--verify-deep", *stand_in("silent"))
        wait_for(killed, lambda: len(lab.servers("--filter", "label=phoenix-920=test-server").split()) == count)
        killed.kill()
        killed.wait()
        wait_for(killed, lambda: lab.servers() == "")  # before the next run cleans up
        run = lab.build(*words, "--verify-deep", *stand_in("dies@1"), seconds=900)
        assert_only_gpu_1_fails(lab, run, "the server died while", "test_server_gets_ready")
        served = json.loads((run.folder / "record.json").read_text())["served"]
        assert [one["together"] for one in served] == [count] * count
