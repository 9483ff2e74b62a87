"""vllm.distributed: its functions come from modules of it, as the real one's do."""

from vllm.distributed.communication_op import tensor_model_parallel_all_reduce

__all__ = ["tensor_model_parallel_all_reduce"]
