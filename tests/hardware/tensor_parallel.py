"""A model that two GPUs of this machine share, beside the same one on each GPU alone: answers, speed, and starting.

usage: python3 tests/hardware/tensor_parallel.py MODEL_FOLDER [PYTHON] [OPTION...]

The model is one of the Llama family in bfloat16, such as SmolLM2. Its odd number of heads can't be shared, so a copy
gets further heads of zeros, which change nothing. PYTHON has vLLM and is this one if it is left out; the options are
further ones of `vllm serve`. Prints a line for each server, as soon as it is known; what would not end within nine
minutes, as long as a lent machine may be held, is not begun, and said.
"""

from __future__ import annotations

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
from tests.hardware.server import KEY, NAME, started
from tests.hardware.wider import wider

QUICK = performance.Effort(tokens=128, at_once=16, repeats=3, warm_up=2, settle=0)
LIMIT = 540.0  # seconds
TOGETHER = ("--tensor-parallel-size", "2")


def serve(
    python: str, model: str, gpus: str, *options: str, **environment: str
) -> tuple[Outcome, float, dict[str, float]]:
    """What a server on these GPUs answers, the seconds until it had, and how fast it is."""
    begun = time.monotonic()
    with started(python, model, *options, CUDA_VISIBLE_DEVICES=gpus, **environment) as (process, port, log):
        one = ask(process, port, log, NAME)
        seconds = time.monotonic() - begun
        if one.died:
            print(log.read_text(errors="replace")[-3000:], flush=True)
            return one, seconds, {}
        settings: Any = SimpleNamespace(
            test_model=NAME, test_prompt="?", answer_tokens=64, answer_deadline=300.0, variables={"VLLM_API_KEY": KEY}
        )
        client = Client(f"http://127.0.0.1:{port}", settings)
        server: Any = SimpleNamespace(ready=SimpleNamespace(answered=seconds), client=client)
        return one, seconds, {figure.name: figure.value for figure in performance.measure(server, QUICK)}


def main() -> int:
    """Print a line for each server."""
    model, python, options = Path(sys.argv[1]), (sys.argv[2:] or [sys.executable])[0], sys.argv[3:]
    first: Outcome | None = None
    wrong, begun, longest = 0, time.monotonic(), 0.0

    def fits(name: str) -> bool:
        nonlocal wrong
        if (over := time.monotonic() - begun) + longest <= LIMIT:
            return True
        print(f"{name}: not run, as {over:.0f} s are over and one server took {longest:.0f} s", flush=True)
        wrong += 1
        return False

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
        wider(model, Path(name))

        own = ("--disable-custom-all-reduce", *TOGETHER)
        for text, gpus, words, environment in (
            ("GPU 0 alone", "0", (), {}),
            ("both GPUs together", "0,1", TOGETHER, {}),
            ("both, without vLLM's own all-reduce", "0,1", own, {}),
            ("both, and without peer-to-peer", "0,1", own, {"NCCL_P2P_DISABLE": "1"}),
        ):
            if fits(text):
                started_at = time.monotonic()
                tell(text, serve(python, name, gpus, *words, *options, **environment))
                longest = max(longest, time.monotonic() - started_at)
        if fits("each alone, both started at once"):
            both = [pool.submit(serve, python, name, gpu, *options) for gpu in ("0", "1")]
            for gpu, each in enumerate(both):
                tell(f"GPU {gpu}, both started at once", each.result())
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
