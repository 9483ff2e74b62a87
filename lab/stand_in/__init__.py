"""A stand-in for the vLLM server: an image that starts in a second, for faults and for runs where vLLM adds nothing."""
