"""As much of vLLM as `fixtures/remote/all_reduce_probe.py` uses, on the stub of PyTorch beside it."""
