"""The table as a page of documentation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from tests.mutations.mutate import WHOLE
from tests.mutations.table import Cell
from tests.mutations.trial import checks

WAYS = (*WHOLE, "stale")
HEAD = """# Checks with wrong facts

Each check of the build and of `--family` is called with the suite's own code on a modelled node on which it passes.
Then each fact that it reads (the answer of a command, a file, an HTTP answer, nvidia-smi's report) is
mutated in each of these ways:

| way | the answer |
|---|---|
| empty | is empty |
| without fields | has rows, but no fields in them |
| empty list | is `[]` or `{}` |
| missing | is that of a missing command or file (exit status 127, HTTP 503) |
| unknown | has `[Unknown Error]` or null instead of each value |
| not a number | has NaN instead of each number |
| swapped | has the other GPU's or container's number, name, PCI address and UUID |
| doubled | has everything twice |
| stale | is from before the clone, the seal or the acceptance |

`FACT: FIELD` mutates one field of a structured answer; only fields that the check reads are listed. `-` means that the
mutated answer is equivalent to the true one. A number refers to a reason below the tables why the check may pass.
"inconclusive" does not prevent sealing, but record and description name it. Failed and skipped checks prevent it.

`make mutations` rewrites this page. No check passes without a reason.
"""


def page(cells: Iterable[Cell]) -> str:
    """The page."""
    by_row: dict[tuple[str, str, str], dict[str, str]] = defaultdict(dict)
    notes: dict[str, int] = {}
    asked = set()
    for cell in cells:
        if cell.way != "true":
            asked.add(cell.check.name)
            by_row[cell.check.stage, cell.check.short, cell.fact][cell.way] = _word(cell, notes)
    rows: dict[tuple[str, str, tuple[str, ...]], list[str]] = defaultdict(list)
    for (stage, check, fact), words in by_row.items():
        rows[stage, fact, tuple(words.get(way, "") for way in WAYS)].append(check)
    lines = [HEAD]
    for stage in dict.fromkeys(check.stage for check in checks()):
        if found := [(fact, words, names) for (at, fact, words), names in rows.items() if at == stage]:
            lines += [
                f"## {stage.capitalize()}",
                "",
                f"| check | fact | {' | '.join(WAYS)} |",
                "|---" * (2 + len(WAYS)) + "|",
            ]
            lines += [
                f"| {', '.join(f'`{name}`' for name in names)} | {fact.replace('|', '&#124;')} | {' | '.join(words)} |"
                for fact, words, names in found
            ]
            lines.append("")
    without = [check.short for check in checks() if check.name not in asked]
    lines += ["## Why a check may pass", "", *(f"{number}. {note}" for note, number in notes.items()), ""]
    lines += [
        "## Checks that read no fact",
        "",
        "They judge what earlier checks have found, or what the run itself knows:",
    ]
    lines += [f"{', '.join(f'`{name}`' for name in without)}.", ""]
    return "\n".join(lines)


def _word(cell: Cell, notes: dict[str, int]) -> str:
    if cell.outcome == "same":
        return "-"
    if cell.outcome == "passed" and cell.note:
        return f"[{notes.setdefault(cell.note, len(notes) + 1)}]"
    return cell.outcome
