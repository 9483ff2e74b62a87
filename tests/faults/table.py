"""The table of the fault lab, for docs/faults.md."""

from __future__ import annotations

from collections import Counter

from tests.faults.catalogue import FAULTS
from tests.faults.trial import NEVER, Line, declared, short

HEAD = """# Injected faults

`make faults` writes this page: it injects these faults in the lab, one at a time. *Sealed* is "not accepted" if
the fault occurs after the snapshot was taken; such a snapshot does not count as done. *Next run* is filled in for
the first fault that left this state. Faults marked with * concern a GPU, which the lab simulates.
"""


def text(lines: list[Line]) -> str:
    """The whole page: the result of each fault."""
    wrong = [line for line in lines if line.wrong]
    slowest = max(lines, key=lambda line: line.seconds)
    came = f"{len(wrong)} unexpected" if wrong else "all as expected"
    occasions = [f"{count} on {when}" for when, count in Counter(line.occasion for line in lines).most_common()]
    said = (
        f"{len(lines)} of {len(FAULTS)} faults, {came}; {'; '.join(occasions)}. "
        f"The longest time to a verdict was {slowest.seconds:.0f} s: {slowest.fault.what}."
    )
    rows = [
        "| fault | found by | seconds | diagnosis | sealed | leftovers | state | next run |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(line) for line in lines),
    ]
    problems = [f"- **{line.fault.name}**: {'; '.join(line.wrong)}" for line in wrong]
    return "\n".join([HEAD, said, "", *rows, "", *problems, *([""] if problems else []), *mutations(lines)]) + "\n"


def _row(line: Line) -> str:
    fault = line.fault
    cells = (
        f"{fault.what}{' *' if fault.simulated else ''}",
        line.stage,
        f"{line.seconds:.0f}",
        ", ".join(line.diagnoses) or "none",
        line.sealed,
        ", ".join(line.left) or "nothing",
        line.state,
        "green" if line.green == "yes" else line.green,
    )
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def mutations(lines: list[Line]) -> list[str]:
    """Which fault turns each check red, alone where that is possible."""
    found = {short(check.name): _turns_red(short(check.name), lines) for check in declared((0, 1))}
    rows = [f"| `{name}` | {fault} |" for name, fault in found.items()]
    return ["## Each check can fail", "", "| check | turned red by |", "|---|---|", *rows]


def _turns_red(check: str, lines: list[Line]) -> str:
    red = [line.fault for line in lines if not line.wrong and check in line.fault.checks()]
    alone = [fault for fault in red if {name.partition("[")[0] for name in fault.failed} == {check.partition("[")[0]}]
    if alone:
        return alone[0].what
    if red:
        return f"{red[0].what} ({red[0].paired or 'with others'})"
    tried = not any(check in fault.checks() for fault in FAULTS)
    return NEVER.get(check.partition("[")[0], "nothing" if tried else "its fault was not tried, or not as expected")
