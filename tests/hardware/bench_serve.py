"""The suite's own figures of speed beside those of `vllm bench serve`, of one server on this machine's GPU.

usage: python3 tests/hardware/bench_serve.py MODEL_FOLDER [PYTHON] [OPTION...]

PYTHON has vLLM and is this one if it is left out; the options are further ones of `vllm serve`. Both clients ask the
same question for 96 tokens: one request after another, 16 at once in bursts of 16 as the suite does, and 16 at once
for a minute's worth of requests, as the field does. Prints a table. What is in parentheses is the spread of three.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).parents[2]))

from fixtures.base.errors import BuildError
from fixtures.serving.client import Client
from fixtures.serving.performance import STEADY, measure
from fixtures.serving.served_model import ONE_REQUEST
from tests.hardware.server import KEY, NAME, started

QUESTION = "What is the capital of France?"
TIMES = 3


def ours(port: int) -> dict[str, float]:
    """What the suite measures."""
    settings: Any = SimpleNamespace(
        test_model=NAME, test_prompt=QUESTION, answer_tokens=64, answer_deadline=300.0, variables={"VLLM_API_KEY": KEY}
    )
    client = Client(f"http://127.0.0.1:{port}", settings)
    server: Any = SimpleNamespace(ready=SimpleNamespace(answered=0.0), client=client)
    return {figure.name: figure.value for figure in measure(cast(Any, server), STEADY)}


def field(python: str, model: str, port: int, requests: int, at_once: int) -> dict[str, Any]:
    """What `vllm bench serve` measures of some requests."""
    with tempfile.TemporaryDirectory() as folder:
        questions = Path(folder, "questions.jsonl")
        questions.write_text("".join(json.dumps({"prompt": QUESTION}) + "\n" for _ in range(requests)))
        words = [python, "-m", "vllm.entrypoints.cli.main", "bench", "serve", "--backend", "openai-chat"]
        words += ["--base-url", f"http://127.0.0.1:{port}", "--endpoint", "/v1/chat/completions", "--model", NAME]
        words += ["--tokenizer", model, "--dataset-name", "custom", "--dataset-path", str(questions)]
        words += ["--custom-output-len", str(STEADY.tokens), "--skip-chat-template", "--ignore-eos"]
        words += ["--extra-body", json.dumps({"min_tokens": STEADY.tokens}), "--temperature", "0"]
        words += ["--num-prompts", str(requests), "--max-concurrency", str(at_once), "--num-warmups", "2"]
        words += ["--header", f"Authorization=Bearer {KEY}", "--disable-tqdm"]
        words += ["--save-result", "--result-dir", folder, "--result-filename", "result.json"]
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=300)
        if done.returncode:
            sys.exit(done.stdout[-2000:] + done.stderr[-3000:])
        return cast(dict[str, Any], json.loads(Path(folder, "result.json").read_text()))


def line(name: str, mine: float, theirs: list[float]) -> None:
    """A row of the table."""
    value = statistics.median(theirs)
    spread = f"({min(theirs):.1f} to {max(theirs):.1f})"
    print(f"| {name} | {mine:.1f} | {value:.1f} {spread} | {mine / value:.3f} |", flush=True)


def main() -> int:
    """Print the table."""
    model, python, options = sys.argv[1], (sys.argv[2:] or [sys.executable])[0], sys.argv[3:]
    with started(python, model, *options) as (process, port, log):
        client = Client(f"http://127.0.0.1:{port}", cast(Any, SimpleNamespace(variables={"VLLM_API_KEY": KEY})))
        while process.poll() is None:
            with contextlib.suppress(OSError, BuildError):  # not there yet; requests' errors are OSErrors
                if client.is_healthy():
                    break
            time.sleep(1)
        else:
            sys.exit(log.read_text(errors="replace")[-3000:])
        mine = ours(port)
        one = [field(python, model, port, STEADY.repeats, 1) for _ in range(TIMES)]
        bursts = [field(python, model, port, STEADY.at_once, STEADY.at_once) for _ in range(TIMES)]
        steady = [field(python, model, port, 20 * STEADY.at_once, STEADY.at_once)]
        again = ours(port)
    print("| figure | the suite | `vllm bench serve` | ratio |\n|---|---|---|---|")
    line("first token, ms", mine["first token"], [each["median_ttft_ms"] for each in one])
    line(f"{ONE_REQUEST}, tokens/s", mine[ONE_REQUEST], [1000 / each["median_tpot_ms"] for each in one])
    many = f"{STEADY.at_once} requests at once, {STEADY.tokens} tokens each"
    line(f"{many}, tokens/s", mine[many], [each["output_throughput"] for each in bursts])
    line(f"{many} without a pause, tokens/s", mine[many], [each["output_throughput"] for each in steady])
    print("the suite again:", {name: round(value, 1) for name, value in again.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
