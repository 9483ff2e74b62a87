"""How near the answers of several starts are on this machine's GPU, and whether other arithmetic is told apart.

usage: python3 tests/hardware/fingerprint.py MODEL_FOLDER [PYTHON] [OPTION...]

PYTHON has vLLM and is this one if it is left out; the options are further ones of `vllm serve`. Needs the packages of
requirements.txt. Three starts make the reference, two more stand for two builds, then float16, an fp8 KV cache and fp8
weights are forced. Prints a table; ends with 1 if the builds contradict the reference, or other arithmetic does not.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.fingerprints import Outcome, alarmed, apart, ask
from fixtures.serving.agreement import limits
from lab.vllm import free_port

SAME = ("reference", "reference", "reference", "build", "build")
OTHER = {
    "float16": ("--dtype", "float16"),
    "fp8 KV cache": ("--kv-cache-dtype", "fp8"),
    "fp8 weights": ("--quantization", "fp8"),
}


def start(python: str, model: str, *options: str) -> Outcome:
    """Start a server, ask it, and end it."""
    port = free_port()
    words = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", "any"]
    words += ["--max-model-len", "2048", "--host", "127.0.0.1", "--port", str(port), "--api-key", "any", *options]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with log.open("wb") as sink:
            process = subprocess.Popen(words, stdout=sink, stderr=sink, start_new_session=True)
        try:
            return ask(process, port, log, "any")
        finally:
            process.terminate()
            process.wait(60)


def main() -> int:
    """Print a line for each start."""
    model, python, options = sys.argv[1], (sys.argv[2:] or [sys.executable])[0], sys.argv[3:]
    same = [start(python, model, *options) for _ in SAME]
    reference = [one.fingerprint for one in same[: SAME.count("reference")]]
    limit, at_once = limits(reference)
    print(f"limit {limit:.5f} nats per token, {at_once:.5f} when many are asked at once")
    wrong = 0
    other = [(name, start(python, model, *options, *words)) for name, words in OTHER.items()]
    for name, one in (*zip(SAME, same, strict=True), *other):
        found, expected = one.fingerprint, name in OTHER
        told = bool(one.died) or alarmed(found, reference)
        wrong += told != expected and not one.died
        nats = [apart(found, reference, forced=forced).nats for forced in (True, False)] if found.replies else []
        print(
            f"{name}: {one.died or found.wrong or found.refused or one.lacks or 'Paris'}; "
            f"scoring and chats {[round(each, 6) for each in nats]}, many at once {found.at_once}, "
            f"perplexity {found.perplexity}, {found.seconds:.1f} s, {'told apart' if told else 'agrees'}"
        )
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
