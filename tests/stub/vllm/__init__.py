"""As much of vLLM as `fixtures/remote/all_reduce_rank.py` uses, on the stub of PyTorch beside it."""
