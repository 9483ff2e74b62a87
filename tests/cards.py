"""The table of cards: what people's cards report, and what the suite's reader, rules and admission make of it.

    python -m tests.cards > docs/cards.md

Each file of tests/data/cards is the part of a posted report that the suite reads; cards.toml has its source.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from fixtures.gpu import fit, health, nvidia_smi
from fixtures.gpu.gpu import Gpu
from fixtures.gpu.node_gpus import NodeGpus, parse

HERE = Path(__file__).parent / "data"
IMAGE = tuple((HERE / "cases/03-t4-brand/image_env.txt").read_text().splitlines())  # vLLM 0.16.0, CUDA 12.9
HEAD = """# Cards

What GPUs report, from public sources, and how this suite judges them. The inputs are in `tests/data/cards/`.
`python -m tests.cards > docs/cards.md` writes this page; `tests/test_cards.py` feeds each report to the checks.

- **Health** is judged at idle, or under load if the card was under load. Failures are bold, warnings are not.
- **Image** is vLLM 0.16.0, built with CUDA 12.9 for the architectures 7.0 7.5 8.0 8.9 9.0 10.0 12.0. Compute
  capabilities are from [NVIDIA's list](https://developer.nvidia.com/cuda-gpus) and
  [its older cards](https://developer.nvidia.com/cuda-legacy-gpus).
- Some posts show only part of the report. The rest is unknown, and never a fault.

| card | driver | CUDA | differs by | health | image | source |
|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Card:
    """A row of the table.

    Attributes:
        shows: The part of the report that the post has; empty if the whole.
        free: Whether as much memory is free as a server takes; None if not posted.
        image: Why the image does not run on it: driver, kernels, or both; "compatibility" and "unknown" are warnings.
    """

    id: str
    source: str
    address: str
    capability: str
    differs: str
    image: str
    shows: str = ""
    loaded: bool = False
    cuda_library: str = ""
    free: bool | None = None
    fails: list[str] = field(default_factory=list)
    warns: list[str] = field(default_factory=list)

    @property
    def report(self) -> str:
        """What nvidia-smi printed."""
        return (HERE / f"cards/{self.id}.xml").read_text()

    @property
    def card(self) -> Gpu:
        """The card as the suite's reader has it."""
        return nvidia_smi.read(self.report).gpus[0]

    @property
    def node(self) -> NodeGpus:
        """A node with this card, as preflight sees it."""
        known = f"cuda={self.cuda_library}\n" if self.cuda_library else ""
        uuid = "<uuid>GPU-0</uuid><product_name>"
        report = self.report.replace("<product_name>", uuid, 1)
        return parse(f"{report}{known}capability=GPU-0, {self.capability}\n")


def cards() -> list[Card]:
    """All rows, in the order of their file."""
    rows = tomllib.loads((HERE / "cards/cards.toml").read_text())
    return [Card(id=name, **row) for name, row in rows.items()]


def _health(card: Card) -> str:
    failures, warnings = health.judge(card.card.values, loaded=card.loaded)
    said = [*(f"**{line.split(' is ')[0]}**" for line in failures), *(line.split(" is ")[0] for line in warnings)]
    return ", ".join(said) or "good"


def _image(card: Card) -> str:
    node = card.node
    (gpu,) = node.gpus.values()
    legacy = fit.branch(gpu.driver) < fit.CUDA_12
    cuda = node.cuda or (fit.cuda_of(gpu.driver) if legacy else "")
    lacks, *notes = fit.driver_lacks(IMAGE, cuda, gpu.driver, gpu.brand, gpu.capability)
    kernels = fit.kernels_lack(IMAGE, gpu.capability)
    said = [f"**needs {lacks}**"] if lacks else [note.split(" (")[0] for note in notes if note]
    return ", ".join([*said, *([f"**no kernels for {gpu.capability}**"] if kernels else [])]) or "runs"


def page() -> str:
    """docs/cards.md."""
    lines = []
    for row in cards():
        node = cast(Any, next(iter(row.node.gpus.values()), SimpleNamespace(driver="")))
        shows = f"; {row.shows}" if row.shows else ""
        cells = (
            row.card.name if row.card.name != "?" else "unnamed",
            node.driver or "not posted",
            row.node.cuda or "unknown",
            row.differs + shows,
            _health(row),
            _image(row),
            f"[{row.source}]({row.address})",
        )
        lines.append(f"| {' | '.join(cells)} |\n")
    return HEAD + "".join(lines)


if __name__ == "__main__":
    print(page(), end="")
