"""A SIMULATED NVIDIA GPU stack: nvidia-smi, libcuda, libnvidia-ml and the container runtime; nothing is behind it."""
