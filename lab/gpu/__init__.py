"""A simulated NVIDIA GPU, for containers of the lab."""
