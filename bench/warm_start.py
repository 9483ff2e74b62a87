"""Warm start: how much sooner a clone answers whose template has the caches of an earlier server.

`python -m bench.warm_start [--rounds N] [--write FILE]`, as root; `make warm-start` calls it. One template is
built in a lab node of its own, with the image that can compile (lab/compiling.py). Then clones of its snapshot
are made, started, asked and removed, by turns with its caches and with none (`-o warm_caches=`); all figures are
the records'.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from fixtures.record.model import from_json
from lab import compiling
from lab.__main__ import up
from lab.errors import LabError
from lab.machine import Machine
from tests.lab.harness import Lab

AIM = 0.4  # of the time without
WORDS = (
    *("-o", f"vllm_image=vllm/vllm-openai:{compiling.TAG}", "-o", "ready_deadline=900"),
    "--override-ini=server_args=--max-model-len 2048 --dtype float32",  # without the lab's --enforce-eager
    "--override-ini=server_env=",  # and without its TORCH_COMPILE_DISABLE
)
CACHES = "/lxc-disks/.snapshots/subvol-920-disk-0@vllm-base-snapshot/var/lib/phoenix/caches"


@dataclass(frozen=True)
class Start:
    """One clone's first start.

    Attributes:
        boot: Seconds from `pct start` until systemd had started everything.
        answer: Seconds from `docker run` until the first answer.
    """

    boot: float
    answer: float

    @property
    def seconds(self) -> float:
        """From the clone's start to its first answer."""
        return self.boot + self.answer


def start_clone(lab: Lab, *words: str) -> Start:
    """Make a clone of the template, let it answer, and remove it.

    Raises:
        LabError: It did not answer.
    """
    run = lab.build("--accept", "951", *WORDS, *words, seconds=1800)
    if run.status:
        raise LabError(f"the clone did not answer: {sorted(run.failed())}\n{run.output}")
    clone = from_json((run.folder / "record.json").read_text()).clone
    return Start(clone["boots_in_seconds"], clone["first_answer_seconds"])


def measure(lab: Lab, rounds: int) -> tuple[list[Start], list[Start], int]:
    """Build the template, and start clones of it by turns.

    Returns:
        The starts without caches, those with, and the bytes that the caches take.

    Raises:
        LabError: The template could not be built, or a clone did not answer.
    """
    run = lab.build("--no-clone", *WORDS, seconds=2400)
    if run.status:
        raise LabError(f"the template was not built: {sorted(run.failed())}\n{run.output}")
    size = int(lab.node("du", "--summarize", "--bytes", CACHES).split()[0])
    cold, warm = [], []
    for _ in range(rounds):
        cold.append(start_clone(lab, "-o", "warm_caches="))
        warm.append(start_clone(lab))
    return cold, warm, size


def text(cold: list[Start], warm: list[Start], size: int) -> str:
    """The figures, as a page in Markdown."""
    middle = [median(start.seconds for start in starts) for starts in (cold, warm)]
    rows = "\n".join(
        f"| {number} | {a.boot:.1f} + {a.answer:.1f} | {b.boot:.1f} + {b.answer:.1f} | {b.seconds / a.seconds:.2f} |"
        for number, (a, b) in enumerate(zip(cold, warm, strict=True), 1)
    )
    return f"""# Warm start, measured in the lab

{datetime.now(UTC):%Y-%m-%d}: clones of one template, started alternately without and with its caches, with vLLM's CPU
build and torch.compile. Seconds from the clone's start to its boot, plus seconds from there to its first answer.

| round | without caches | with caches | ratio |
|---|---|---|---|
{rows}
| median | {middle[0]:.1f} | {middle[1]:.1f} | **{middle[1] / middle[0]:.2f}** |

The caches take {size / 2**20:.1f} MiB of the template. The target is {AIM}. The machine's load at the end was
{os.getloadavg()[2]:.0f} on {os.cpu_count()} cores.
"""


def main() -> int:
    """Measure in a lab node of its own, which is erased at the end; 1 if it can't be measured."""
    parser = argparse.ArgumentParser(prog="warm_start", description="Start clones with and without caches.")
    parser.add_argument("--rounds", type=int, default=3, help="clones of each kind")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the figures there")
    words = parser.parse_args()
    machine = Machine("pve-warm")
    machine.erase()
    try:
        up(machine)
        machine.serve_registry(compiling.made() / "registry")
        with tempfile.TemporaryDirectory() as reports:
            page = text(*measure(Lab(machine, Path(reports)), words.rounds))
    except LabError as error:
        print(f"warm start: {error}", file=sys.stderr)
        return 1
    finally:
        machine.erase()
    print(page)
    if words.write:
        words.write.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
