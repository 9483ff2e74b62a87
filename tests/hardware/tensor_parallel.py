"""A model that two GPUs of this machine share, beside the same one on each GPU alone: answers, speed, and starting.

usage: python3 tests/hardware/tensor_parallel.py MODEL_FOLDER [PYTHON] [OPTION...]

The model is one of the Llama family in bfloat16, such as SmolLM2. Its odd number of heads can't be shared, so a copy
gets further heads of zeros, which change nothing. PYTHON has vLLM and is this one if it is left out; the options are
further ones of `vllm serve`. Prints a line for each server, as soon as it is known.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.fingerprints import Outcome, apart, ask
from fixtures.serving import performance
from fixtures.serving.client import Client
from tests.hardware.even_heads import with_even_heads
from tests.hardware.server import KEY, NAME, started

QUICK = performance.Effort(tokens=128, at_once=16, repeats=3, warm_up=2, settle=0)
TOGETHER = ("--tensor-parallel-size", "2")


def serve(python: str, model: str, gpus: str, *options: str) -> tuple[Outcome, float, dict[str, float]]:
    """What a server on these GPUs answers, the seconds until it had, and how fast it is."""
    begun = time.monotonic()
    with started(python, model, *options, CUDA_VISIBLE_DEVICES=gpus) as (process, port, log):
        one = ask(process, port, log, NAME)
        seconds = time.monotonic() - begun
        if one.died:
            print(log.read_text(errors="replace")[-3000:], flush=True)
            return one, seconds, {}
        settings: Any = SimpleNamespace(
            test_model=NAME, test_prompt="?", answer_tokens=64, answer_deadline=300.0, variables={"VLLM_API_KEY": KEY}
        )
        client = Client(f"http://127.0.0.1:{port}", settings)
        server: Any = SimpleNamespace(ready=SimpleNamespace(answered=seconds), stream=client.stream)
        return one, seconds, {figure.name: figure.value for figure in performance.measure(server, QUICK)}


def main() -> int:
    """Print a line for each server."""
    model, python, options = Path(sys.argv[1]), (sys.argv[2:] or [sys.executable])[0], sys.argv[3:]
    first: Outcome | None = None
    wrong = 0

    def tell(name: str, found: tuple[Outcome, float, dict[str, float]]) -> None:
        nonlocal first, wrong
        one, seconds, figures = found
        first = first or one
        away = apart(one.fingerprint, [first.fingerprint]) if one.fingerprint.replies else None
        wrong += away is None or away.exact
        print(
            f"{name}: {one.died or one.fingerprint.wrong or one.fingerprint.refused or one.lacks or 'Paris'}; "
            f"from the first {away and round(away.nats, 6)} nats per token{f', {away.parts}' if away else ''}, "
            f"perplexity {one.fingerprint.perplexity}; answered after {seconds:.1f} s; "
            f"{', '.join(f'{name} {value:.1f}' for name, value in figures.items())}",
            flush=True,
        )

    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as pool:
        with_even_heads(model, Path(name))
        tell("GPU 0 alone", serve(python, name, "0", *options))
        both = [pool.submit(serve, python, name, gpu, *options) for gpu in ("0", "1")]
        for gpu, each in enumerate(both):
            tell(f"GPU {gpu}, both started at once", each.result())
        tell("both GPUs together", serve(python, name, "0,1", *TOGETHER, *options))
        own = ("--disable-custom-all-reduce", *TOGETHER)
        tell("both, without vLLM's own all-reduce", serve(python, name, "0,1", *own, *options))
        os.environ["NCCL_P2P_DISABLE"] = "1"
        tell("both, and without peer-to-peer", serve(python, name, "0,1", *own, *options))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
