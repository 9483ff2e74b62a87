"""Spoils the sums of several GPUs: Python imports this when it starts, if PYTHONPATH names its folder.

ALL_REDUCE=WHERE:HOW says which, and how. WHERE is "own" (vLLM's, unless its custom all-reduce is off), "peer" (all,
unless peer-to-peer is off) or "all". HOW is "wrong", "hang", or "die" (every process but the first).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

WHERE, _, HOW = os.environ.get("ALL_REDUCE", "").partition(":")
ENGINE = "tensor_model_parallel_all_reduce"
FUNCTIONS = {"torch.distributed.distributed_c10d": "all_reduce", "vllm.distributed.communication_op": ENGINE}


def struck(name: str) -> bool:
    """Whether the sums of a function are spoilt now."""
    if WHERE == "own":
        return name == ENGINE and sys.modules["vllm.distributed.parallel_state"]._ENABLE_CUSTOM_ALL_REDUCE
    return WHERE == "all" or (WHERE == "peer" and "NCCL_P2P_DISABLE" not in os.environ)


def spoilt(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The function, or what is put in its place."""

    def call(tensor: Any, *more: Any, **options: Any) -> Any:
        if struck(name) and HOW == "hang":
            time.sleep(3600)
        if struck(name) and HOW == "die" and sys.modules["torch.distributed"].get_rank() != 0:
            print("RuntimeError: an illegal memory access was encountered", flush=True)
            os._exit(3)
        found = function(tensor, *more, **options)
        if struck(name) and HOW == "wrong":
            (found if name == ENGINE else tensor)[-1] += 1
        return found

    return call


class Spoiler(MetaPathFinder):
    """Finds the modules of `FUNCTIONS` where they are, and spoils them when they have been run."""

    def find_spec(self, name: str, path: Sequence[str] | None, _: ModuleType | None = None) -> ModuleSpec | None:
        """The module's own, with another end."""
        spec = PathFinder.find_spec(name, path) if name in FUNCTIONS else None
        if spec and spec.loader:
            execute, function = spec.loader.exec_module, FUNCTIONS[name]

            def exec_module(module: ModuleType) -> None:
                execute(module)
                setattr(module, function, spoilt(getattr(module, function), function))

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if HOW:
    sys.meta_path.insert(0, Spoiler())
