"""All-reduce: what tensor parallel does for every token, over all GPUs, compared with the CPU."""

import pytest

from fixtures.base.errors import Simulated, Unseen, unexpected
from fixtures.base.warning import warn
from fixtures.proxmox.container import Container
from fixtures.run.build import Build
from fixtures.run.stages import SIMULATED
from fixtures.serving import all_reduce
from fixtures.serving.all_reduce import Trial

pytestmark = [pytest.mark.stage("serving"), pytest.mark.order(45), pytest.mark.deep]


@pytest.mark.usefixtures("serving_memory")
def test_gpus_add_up_together(build: Build, container: Container, all_reduce_trial: Trial) -> None:
    """All-reduce over all GPUs gives the CPU's sums: NCCL with and without peer-to-peer, and vLLM's own."""
    if len(build.template.declared.gpus) < 2:
        return  # a GPU alone has nobody to add up with
    all_reduce_trial.begin(cuda=not build.simulated, at_once=False)  # unless it goes on since PyTorch was tried
    found = build.all_reduce = all_reduce_trial.result()
    assert found.verdict != all_reduce.NOTHING_RIGHT, unexpected(
        found,
        "the CPU's sums by at least one method that vLLM can use",
        cause="tensor parallel cannot work on these GPUs; check IOMMU, ACS and the driver's peer-to-peer",
        run=container.pasteable("nvidia-smi", "topo", "-m"),
    )
    if found.fix != all_reduce.NO_FIX:
        warn(f"{found.verdict}, so servers are started with {found.fix}: {'; '.join(map(str, found.ways))}")
    if build.simulated:
        raise Simulated(f"{SIMULATED}; on the CPU {found}")
    if found.verdict == all_reduce.NOT_KNOWN:
        raise Unseen(f"unknown: {found}")
