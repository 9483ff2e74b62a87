"""vllm.config."""

from contextlib import nullcontext


class VllmConfig:
    """The configuration that vLLM has by itself."""


def set_current_vllm_config(_: VllmConfig) -> nullcontext[None]:
    """Use it."""
    return nullcontext()
