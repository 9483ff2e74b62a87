"""How near the answers of several starts are on this machine's GPU, and whether other arithmetic is told apart.

usage: python3 tests/hardware/fingerprint.py MODEL_FOLDER [PYTHON] [OPTION...]

PYTHON has vLLM and is this one if it is left out; the options are further ones of `vllm serve`. Needs the packages of
requirements.txt. Three starts make the reference, two more stand for two builds, then float16, an fp8 KV cache and fp8
weights are forced. Prints a table; ends with 1 if the builds contradict the reference, or other arithmetic does not.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.fingerprints import Outcome, alarmed, apart, ask
from fixtures.serving.agreement import limits
from fixtures.serving.served_model import Fingerprint
from tests.hardware.server import NAME, started

SAME = ("reference", "reference", "reference", "build", "build")
OTHER = {
    "float16": ("--dtype", "float16"),
    "fp8 KV cache": ("--kv-cache-dtype", "fp8"),
    "fp8 weights": ("--quantization", "fp8"),
}


def start(python: str, model: str, *options: str) -> Outcome:
    """Start a server, ask it, and end it."""
    with started(python, model, *options) as (process, port, log):
        return ask(process, port, log, NAME)


def main() -> int:
    """Print a line for each start."""
    model, python, options = sys.argv[1], (sys.argv[2:] or [sys.executable])[0], sys.argv[3:]
    reference: list[Fingerprint] = []
    wrong = 0
    for name, words in (*((each, ()) for each in SAME), *OTHER.items()):
        one = start(python, model, *options, *words)
        found = one.fingerprint
        if name == "reference":
            reference.append(found)
        elif not one.died:
            wrong += alarmed(found, reference) != (name in OTHER)
        nats = [apart(found, reference, forced=forced).nats for forced in (True, False)] if found.replies else []
        print(
            f"{name}: {one.died or found.wrong or found.refused or one.lacks or 'Paris'}; "
            f"scoring and chats {[round(each, 6) for each in nats]}, many at once {found.at_once}, perplexity "
            f"{found.perplexity}, {found.seconds:.1f} s, {'told apart' if alarmed(found, reference) else 'agrees'}",
            flush=True,
        )
    limit, at_once = limits(reference)
    print(f"limit {limit:.5f} nats per token, {at_once:.5f} when many are asked at once")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
