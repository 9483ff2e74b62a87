"""GPU faults: what NVIDIA's driver logged to the kernel while the servers ran."""

import pytest

from fixtures.base.errors import unexpected
from fixtures.gpu import node_gpus
from fixtures.proxmox.node import Node
from fixtures.run.build import Build

pytestmark = [pytest.mark.stage("serving"), pytest.mark.order(55), pytest.mark.deep]


def test_no_gpu_fault_was_logged(node: Node, build: Build) -> None:
    """The kernel has logged no new GPU fault (Xid) since the run began."""
    if build.xids is None:
        pytest.skip("the kernel's log was not read when the run began")
    new = [line for line in node_gpus.xid_lines(node) if line not in build.xids]
    cards = dict.fromkeys(str(gpu) for gpu in (*build.node_gpus.values(), *build.gpus) if gpu.is_in("; ".join(new)))
    assert not new, unexpected(
        f"{len(new)} new GPU faults{' of ' * bool(cards)}{', '.join(cards)}: {new[-3:]}",
        "none",
        cause="for the Xid numbers see docs.nvidia.com/deploy/xid-errors",
        run="dmesg | grep -i xid",
    )
