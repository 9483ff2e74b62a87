"""What a fingerprint finds: faults of model and server, what "Paris" says of each, and what the fingerprint says.

`python -m bench.fingerprints [--only FAULT] [--unchanged N] [--folder FOLDER] [--write FILE]`, as root; `make
fingerprints` calls it. Each fault is injected into a copy of the lab's model, or into the arguments of the lab's vLLM,
which runs on the CPU in the root of its image. The reference is made of unchanged starts; further unchanged starts
show whether there are alarms. What is in FOLDER from an earlier call is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from fixtures.base.errors import BuildError
from fixtures.base.number import write_json
from fixtures.base.text import beginning
from fixtures.serving.agreement import COARSE, Difference, difference, limits
from fixtures.serving.client import Client
from fixtures.serving.fingerprint import take
from fixtures.serving.served_model import Fingerprint, fingerprint_of
from lab import vllm
from lab.errors import LabError

UNCHANGED = "unchanged"
REFERENCE = 3  # unchanged starts that the reference is made of
FLOAT32 = ("--dtype", "float32")
MODEL = "/models/test-model"
READY = 600  # seconds
SCRIPT = """
mkdir -p "$1/models/test-model"
mount --bind "$2" "$1/models/test-model"; mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"; mount --rbind /sys "$1/sys"
root=$1 port=$3; shift 3
exec chroot "$root" env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/root HF_HUB_OFFLINE=1 VLLM_API_KEY=any \
  VLLM_CPU_KVCACHE_SPACE=1 VLLM_NO_USAGE_STATS=1 TORCH_COMPILE_DISABLE=1 \
  vllm serve /models/test-model --host 127.0.0.1 --port "$port" --enforce-eager --max-model-len 2048 "$@"
"""


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with the model's folder or the server's arguments."""

    name: str
    spoil: Callable[[Path], None] = lambda _: None
    arguments: Sequence[str] = FLOAT32


@dataclass(frozen=True)
class Outcome:
    """What came of one start.

    Attributes:
        died: What the log says of a server that did not become ready; empty if it did.
        lacks: Why the answer to the test question does not have its word; empty if it has.
    """

    died: str = ""
    lacks: str = ""
    fingerprint: Fingerprint = field(default_factory=Fingerprint)

    @classmethod
    def read(cls, path: Path) -> Outcome:
        """One that was written."""
        document = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**document, "fingerprint": fingerprint_of(document["fingerprint"])})


# --- faults -------------------------------------------------------------------------------------------


@contextmanager
def weights(folder: Path, name: str) -> Iterator[bytearray]:
    """The bytes of one tensor of a model, two for each weight, which are written back."""
    with (folder / "model.safetensors").open("r+b") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        begin, end = json.loads(file.read(length))[name]["data_offsets"]
        file.seek(8 + length + begin)
        data = bytearray(file.read(end - begin))
        yield data
        file.seek(8 + length + begin)
        file.write(data)


def names(folder: Path) -> list[str]:
    """The names of all tensors."""
    with (folder / "model.safetensors").open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        return sorted(set(json.loads(file.read(length))) - {"__metadata__"})


def flipped(bit: int) -> Callable[[Path], None]:
    """One bit of one weight flipped: of a bfloat16, bits 7 to 14 are the exponent."""

    def spoil(folder: Path) -> None:
        with weights(folder, "model.layers.12.mlp.down_proj.weight") as data:
            place = 2 * 100_000
            value = struct.unpack_from("<H", data, place)[0] ^ 1 << bit
            struct.pack_into("<H", data, place, value)

    return spoil


def many_bits(folder: Path) -> None:
    """100 random bits of the weights flipped."""
    chance, all_names = random.Random(1), names(folder)
    for name in chance.choices(all_names, k=100):
        with weights(folder, name) as data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def zeroed(folder: Path) -> None:
    """One of 30 layers passes on what it is given."""
    for part in ("mlp.down_proj", "self_attn.o_proj"):
        with weights(folder, f"model.layers.15.{part}.weight") as data:
            data[:] = bytes(len(data))


def cut(folder: Path) -> None:
    """The file of the weights ends after two thirds."""
    file = folder / "model.safetensors"
    os.truncate(file, file.stat().st_size * 2 // 3)


def rounded(folder: Path) -> None:
    """Each weight of the layers keeps three bits of its mantissa's seven, as in an FP8 of type E4M3."""
    for name in names(folder):
        if "proj" in name:
            with weights(folder, name) as data:
                data[::2] = bytes(byte & 0xF0 for byte in data[::2])


def others(folder: Path) -> None:
    """Each layer has the MLP of the next one: the same shapes, other weights."""
    for number in range(10, 14, 2):
        pair = [f"model.layers.{each}.mlp.up_proj.weight" for each in (number, number + 1)]
        with weights(folder, pair[0]) as one, weights(folder, pair[1]) as other:
            one[:], other[:] = bytes(other), bytes(one)


def edited(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """A JSON file of the model, changed."""

    def spoil(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        change(document)
        (folder / name).write_text(json.dumps(document))

    return spoil


def fewer_merges(tokenizer: dict[str, Any]) -> None:
    """A tokenizer that has learned half as much."""
    merges = tokenizer["model"]["merges"]
    del merges[len(merges) // 2 :]


def rope(**parameters: object) -> Callable[[Path], None]:
    """Other positions."""
    return edited("config.json", lambda config: config["rope_parameters"].update(parameters))


def template(text: str) -> Callable[[Path], None]:
    """Another chat template."""

    def spoil(folder: Path) -> None:
        (folder / "chat_template.jinja").write_text(text)

    return spoil


INST = "{% for message in messages %}[INST] {{ message['content'] }} [/INST]{% endfor %}"
BARE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
FAULTS = (
    Fault("the highest bit of one weight's exponent is flipped", flipped(14)),
    Fault("the third bit of one weight's exponent is flipped", flipped(9)),
    Fault("100 random bits of the weights are flipped", many_bits),
    Fault("one of 30 layers is zero", zeroed),
    Fault("the weights of four layers are exchanged in pairs", others),
    Fault("the weights are rounded to 8 bits", rounded),
    Fault("the file of the weights is cut off", cut),
    Fault("the tokenizer is another one", edited("tokenizer.json", fewer_merges)),
    Fault("the chat template is another model's", template(INST)),
    Fault("the chat template has no roles", template(BARE)),
    Fault("the positions are scaled by 2 (rope)", rope(rope_type="linear", factor=2.0)),
    Fault("the base of the positions is 10,000, not 100,000 (rope)", rope(rope_theta=10_000.0)),
    Fault("float16 instead of float32", arguments=("--dtype", "float16")),
    Fault("bfloat16 instead of float32", arguments=("--dtype", "bfloat16")),
    Fault("a KV cache in fp8", arguments=(*FLOAT32, "--kv-cache-dtype", "fp8")),
)


# --- starts -------------------------------------------------------------------------------------------


def unpack(storage: Path, root: Path) -> None:
    """The root of the lab's image, from the storage of its registry."""
    blobs = storage / "docker/registry/v2"
    link = blobs / f"repositories/{vllm.NAME}/_manifests/tags/latest/current/link"

    def blob(digest: str) -> Path:
        sha = digest.removeprefix("sha256:")
        return blobs / "blobs/sha256" / sha[:2] / sha / "data"

    for layer in json.loads(blob(link.read_text().strip()).read_text())["layers"]:
        with tarfile.open(blob(layer["digest"])) as archive:
            archive.extractall(root, filter="tar")


def start(root: Path, model: Path, fault: Fault) -> Outcome:
    """Start a server with a fault, ask it, and end it."""
    with tempfile.TemporaryDirectory() as name:
        folder, log, port = Path(name, "model"), Path(name, "log"), vllm.free_port()
        shutil.copytree(model, folder)
        fault.spoil(folder)
        own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "nice", "-n", "15", "sh", "-ec", SCRIPT, "sh"]
        words = [*own, str(root), str(folder), str(port), *fault.arguments]
        with log.open("wb") as sink:
            process = subprocess.Popen(words, stdout=sink, stderr=sink, start_new_session=True)
        try:
            return ask(process, port, log)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def ask(process: subprocess.Popen[bytes], port: int, log: Path, model: str = MODEL) -> Outcome:
    """Wait for a server, ask it the test question, and take its fingerprint."""
    settings: Any = SimpleNamespace(
        **{"test_model": model, "answer_tokens": 64, "answer_deadline": 300.0, "variables": {"VLLM_API_KEY": "any"}}
    )
    client, deadline = Client(f"http://127.0.0.1:{port}", settings), time.monotonic() + READY
    while time.monotonic() < deadline:
        time.sleep(1)
        if process.poll() is not None:
            lines = re.findall(r"(?:\w+Error|\w+Exception): .{1,120}", log.read_text(errors="replace"))
            return Outcome(died=lines[0] if lines else f"exit status {process.returncode}")
        try:
            if client.is_healthy():
                break
        except (OSError, BuildError):  # requests' errors are OSErrors
            continue
    else:
        raise LabError(f"no server after {READY} s: {log.read_text(errors='replace')[-2000:]}")
    try:
        lacks = client.chat("What is the capital of France?").lacks("Paris")
    except BuildError as error:
        lacks = str(error)
    return Outcome(lacks=lacks, fingerprint=take(cast(Any, client), 300))


# --- the table ----------------------------------------------------------------------------------------


def apart(found: Fingerprint, reference: Sequence[Fingerprint], *, forced: bool | None = None) -> Difference:
    """How far a fingerprint is from the reference, in all of its replies, or in one of its two parts."""

    def part(one: Fingerprint) -> list[Any]:
        return [reply for reply in one.replies if forced in (None, reply.forced)]

    limit = limits(reference)[0] or COARSE
    return min(difference(part(run), part(found), limit) for run in reference)


def verdict(found: Difference, limit: float) -> str:
    """What a difference says."""
    told = "other tokens" if found.exact else f"{found.nats:.4f}"
    return f"**{told}**" if found.exact or found.nats > limit else told


def row(fault: Fault, outcome: Outcome, reference: Sequence[Fingerprint]) -> str:
    """A line of the table."""
    found, limit = outcome.fingerprint, limits(reference)[0] or COARSE
    if outcome.died:
        return f"| {fault.name} | does not start | | | | |"
    paris = f"found: {_cell(outcome.lacks)}" if outcome.lacks else "missed"
    if found.refused or not found.replies:
        return f"| {fault.name} | {paris} | | | | {_cell(found.refused or found.wrong)} |"
    both = apart(found, reference)
    said = "found without a reference" if found.wrong or both.exact or both.nats > COARSE else "found by the reference"
    if not (found.wrong or both.exact or both.nats > limit):
        said = "missed"
    parts = [verdict(apart(found, reference, forced=forced), limit) for forced in (True, False)]
    where = f"; {_cell(both.parts)}" if both.parts and said != "missed" else ""
    return f"| {fault.name} | {paris} | {' | '.join(parts)} | {found.perplexity:,.1f} | {said}{where} |"


def _cell(text: str) -> str:
    return beginning(" ".join(text.replace("|", "/").replace("<", "&lt;").split()), 120)


def page(rows: Sequence[str], reference: Sequence[Fingerprint], unchanged: Sequence[Outcome]) -> str:
    """The page of documentation."""
    limit, at_once = limits(reference)
    alarms = [one for one in unchanged if one.died or one.lacks or alarmed(one.fingerprint, reference)]
    far = [apart(one.fingerprint, reference).nats for one in unchanged if one.fingerprint.replies]
    seconds = [one.fingerprint.seconds for one in unchanged]
    lines = "\n".join(rows)
    return f"""{HEAD}
{datetime.now(UTC):%Y-%m-%d}, vLLM's CPU build {vllm.VLLM.partition("==")[2]} with SmolLM2-135M-Instruct in float32.
Nats per token are those of the prompt that differs most; bold where they are beyond the limit. The reference is made
of {len(reference)} starts. Its limit is {limit or COARSE:.4f} nats per token, and {at_once or COARSE:.4f} when many
are asked at once.

| fault | "Paris" | scoring | chats | perplexity | fingerprint |
|---|---|---|---|---|---|
{lines}

{len(unchanged)} unchanged starts: {len(alarms)} alarms. They were at most {max(far, default=0):.6f} nats per token
from the reference, with a perplexity of {reference[0].perplexity or 0:.2f}. A fingerprint took
{min(seconds, default=0):.0f} to {max(seconds, default=0):.0f} s, on {os.cpu_count()} cores that did other work too.
"""


def alarmed(found: Fingerprint, reference: Sequence[Fingerprint]) -> bool:
    """Whether a fingerprint of an unchanged server raises an alarm."""
    limit, at_once = limits(reference)
    away = apart(found, reference) if found.replies else None
    too_far = away is None or away.exact or away.nats > (limit or COARSE)
    return too_far or bool(found.wrong or found.refused) or (found.at_once or 0.0) > (at_once or COARSE)


HEAD = """# Fingerprints of answers

"Paris" proves that a server answers. It does not prove that its weights, tokenizer, chat template and kernels are the
ones that they should be. So each test server also gives its fingerprint, when its speed and the GPU's health are known:

- **Scoring**: eight fixed texts (plain English, numbers, German, Chinese, code, JSON), some 380 tokens. The server says
  how likely it holds each of their tokens (`prompt_logprobs` of `/v1/completions`). This sees weights, tokenizer and
  kernels.
- **Chats**: three questions, at most 16 tokens of an answer each, with the log probability of each token. They are
  compared up to the first token where they part. This sees the chat template, the decode kernels and the sampler.

16 of the short requests are then sent at once. Each request has a cache salt of its own, as a cached prefix changes
scores (vllm-project/vllm#42019). All of it is bounded by `answer_deadline`.

## What is compared

- the answers of one request with those of 16 at once,
- each further GPU with the first server of the run,
- a clone's server with its template's,
- each server with the snapshot's record, as far as image, arguments and GPU models are the same: after `--verify-deep`
  and `--rebuild`, that is the day of sealing,
- each server with the reference of its GPU model, image and model.

The measure is nats per token: the mean difference of the log probabilities, for the prompt where it is largest. The
record has all values and their sha256, so the template and its clones carry them in `/etc/phoenix/record.json`.

## The limit is measured

`--write-reference` adds a fingerprint to the reference, beside the speed. Two runs make a limit: twice as far as the
runs were apart, at least 0.001 nats per token. No limit holds for another GPU model, image or model. Without a
reference nothing agrees: the check is inconclusive and states the difference. Only what is no rounding to 16 bits fails
without one: other tokens of a text, another length of a chat's prompt, more than 0.3 nats per token, a perplexity of
plain English above 1,000, or probabilities that are no numbers.

A server that refuses the questions, or dies of them, as an engine may of `prompt_logprobs` (vllm-project/vllm#5907; the
lab's vLLM does, without a C++ compiler and without `TORCH_COMPILE_DISABLE=1`), makes the check inconclusive, with the
reason.

`-o fingerprint=off` turns it off; each view of the record then says so.

## What it finds

`make fingerprints` makes this table. The faults are injected into the model's folder or the server's arguments. What it
finds on a real GPU is in [hardware/h200](hardware/h200/README.md).
"""


def measure(folder: Path, only: str, unchanged: int, at_once: int) -> list[tuple[Fault, Outcome]]:
    """Start a server for each fault, and unchanged ones, as far as that was not done before.

    Args:
        folder: Keeps the root of the image, and what comes of each start.
        only: A part of the names of the faults.
        unchanged: Starts without a fault, besides the reference.
        at_once: Servers that run at the same time.
    """
    made, root = vllm.made(), folder / "root"
    if not root.exists():
        unpack(made / "registry", root)
    faults = [fault for fault in FAULTS if only in fault.name]
    every = [*[Fault(UNCHANGED)] * REFERENCE, *faults, *[Fault(UNCHANGED)] * unchanged]

    def run(numbered: tuple[int, Fault]) -> tuple[Fault, Outcome]:
        number, fault = numbered
        kept = folder / f"{re.sub('[^a-z0-9]+', '-', fault.name)}{number if fault.name == UNCHANGED else ''}.json"
        if not kept.exists():
            kept.write_text(write_json(start(root, made / "model", fault)), encoding="utf-8")
        outcome = Outcome.read(kept)
        found = outcome.fingerprint
        said = outcome.died or found.wrong or found.refused or f"perplexity {found.perplexity:.3f}, {found.sha256[:12]}"
        print(f"{datetime.now(UTC):%H:%M:%S} {fault.name}: {outcome.lacks or 'Paris'}; {said}", flush=True)
        return fault, outcome

    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(run, enumerate(every)))


def main() -> int:
    """Make the table."""
    parser = argparse.ArgumentParser(prog="fingerprints", description="What a fingerprint finds.")
    parser.add_argument("--only", default="", help="faults whose names have this in them")
    parser.add_argument("--unchanged", type=int, default=20, help="starts without a fault, besides the reference")
    parser.add_argument("--at-once", type=int, default=2, help="servers that run at the same time")
    parser.add_argument("--folder", type=Path, help="keep what comes of each start there, and go on with that")
    parser.add_argument("--write", type=Path, metavar="FILE", help="renew the table of this page")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        outcomes = measure(words.folder or Path(name), words.only, words.unchanged, words.at_once)
    faults = {fault: outcome for fault, outcome in outcomes if fault.name != UNCHANGED}
    plain = [outcome for fault, outcome in outcomes if fault.name == UNCHANGED]
    reference = [outcome.fingerprint for outcome in plain[:REFERENCE]]
    text = page([row(*pair, reference) for pair in faults.items()], reference, plain[REFERENCE:])
    print(text)
    if words.write:
        words.write.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
