"""The command blocks of the documentation, and who runs each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).parent.parent
FURTHER = ("README.md", "CONTRIBUTING.md", "reports/README.md", "docs/hardware/h100/README.md")
PAGES = sorted(
    [*(TOP / name for name in FURTHER), *(TOP / "docs").glob("*.md"), *(TOP / "docs/troubleshooting").glob("*.md")]
)
KINDS = ("fast", "install", "lab", "parent", "930")
BLOCK = re.compile(r"(?:<!-- (run|not run): (.*?) -->\n)?```sh\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A command block.

    Attributes:
        kind: Who runs it, one of KINDS; empty if no test can.
        reason: Why no test can.
    """

    page: Path
    line: int
    kind: str
    reason: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(*kinds: str) -> list[Block]:
    """The blocks of those kinds; all if none is named."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start(3))
            kind, reason = (match[2], "") if match[1] == "run" else ("", match[2] or "")
            found.append(Block(page, line, kind, reason, match[3]))
    return [block for block in found if not kinds or block.kind in kinds]
