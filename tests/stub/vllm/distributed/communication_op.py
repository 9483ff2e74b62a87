"""vllm.distributed.communication_op."""

from typing import Any

from torch.distributed import distributed_c10d


def tensor_model_parallel_all_reduce(tensor: Any) -> Any:
    """The sum over all processes."""
    distributed_c10d.all_reduce(tensor)
    return tensor
