"""torch.distributed: its functions come from a module of it, as the real one's do."""

from torch.distributed.distributed_c10d import all_reduce, barrier, get_rank, init_process_group

__all__ = ["all_reduce", "barrier", "get_rank", "init_process_group"]
