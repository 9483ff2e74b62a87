"""What goes on beside the checks: the image comes while the GPUs are checked, and nothing of it is left."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator

import pytest

from tests.faults.serving import registry
from tests.faults.stack import gpus_say
from tests.lab.harness import STAND_IN, Lab, says

pytestmark = pytest.mark.lab

EARLY = ("-k", "preflight or room or gpus_and_model or 020_clone or inherited or lasting or 040_image", "--no-clone")
SLOW = ("-o", "vllm_image=vllm/vllm-openai:stand-in-large")


def pulls(lab: Lab) -> str:
    return lab.inside("sh", "-c", "pgrep --list-full --full 'docker pul[l]' || true")


@pytest.fixture
def slow(lab: Lab) -> Iterator[None]:
    """A registry that takes minutes; 920 is there."""
    with registry("slow")(lab):
        yield


def test_image_comes_while_the_gpus_are_checked(lab: Lab) -> None:
    run = lab.build(*STAND_IN, *EARLY)
    assert run.failed() == set()
    commands = [json.loads(line) for line in (run.folder / "commands.jsonl").read_text().splitlines()]
    (pull,) = [each for each in commands if any("docker pull" in word for word in each["argv"])]
    checks = json.loads((run.folder / "record.json").read_text())["checks"]
    begun = {check["name"].rpartition("::")[2]: check["started"] for check in checks}
    assert begun["test_nvidia_runtime_is_registered"] < pull["started"] < begun["test_gpus_survive_a_reload"]
    assert pull["started"] + pull["seconds"] < begun["test_entrypoint_is_known"]
    assert pulls(lab) == ""


@pytest.mark.usefixtures("slow")
def test_fault_of_the_stack_ends_the_pull(lab: Lab) -> None:
    with gpus_say("gpu1.memory.free = 4000")(lab):
        run = lab.build(*SLOW)
    assert run.failed() == {"test_gpu_has_room[gpu1]"}
    assert run.checks()["test_image_is_pulled"] == "blocked by inherited stack"
    assert pulls(lab) == ""
    assert lab.snapshots() == {}


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_pull_outlives_its_run(lab: Lab, number: signal.Signals) -> None:
    process = lab.start(*SLOW)
    for _ in range(300):
        if process.poll() is not None or pulls(lab):
            break
        time.sleep(0.2)
    process.send_signal(number)
    run = lab.finish(process, 60)
    if number is signal.SIGINT:
        assert (run.status, run.outcome) == (2, "aborted")
        says(run, "was not sealed")
    for _ in range(50):  # what is killed can't wait for it
        if not pulls(lab):
            break
        time.sleep(0.2)
    assert pulls(lab) == ""
