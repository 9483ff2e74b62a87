"""vllm.distributed.parallel_state."""

from types import SimpleNamespace

from torch import distributed

_ENABLE_CUSTOM_ALL_REDUCE = True


def set_custom_all_reduce(enable: bool) -> None:
    """Whether vLLM may add up in its own way."""
    global _ENABLE_CUSTOM_ALL_REDUCE  # noqa: PLW0603 - as the real one has it
    _ENABLE_CUSTOM_ALL_REDUCE = enable


def init_distributed_environment(
    world_size: int, rank: int, distributed_init_method: str, local_rank: int, backend: str
) -> None:
    """Join."""
    assert local_rank == rank
    distributed.init_process_group(backend, distributed_init_method, world_size, rank)


def ensure_model_parallel_initialized(tensor: int, pipeline: int) -> None:
    """Share a model."""
    assert tensor > pipeline == 1


def get_tp_group() -> SimpleNamespace:
    """Those that share it."""
    return SimpleNamespace(device_communicator=None)
