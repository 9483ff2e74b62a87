"""The fault lab: injects every fault and says what the suite makes of it; `make faults` writes docs/faults.md.

`python -m tests.faults [--only NAME] [--sample MINUTES --seed N] [--background | --status | --stop] [--write FILE]`:
see `tests.faults.campaign`. A second call resumes. Exits with 1 if a fault was not reported as expected.
"""

from __future__ import annotations

import contextlib
import sys

from tests.faults import campaign, table
from tests.faults.campaign import Campaign, Facts
from tests.faults.catalogue import BY_NAME, FAULTS
from tests.faults.grounds import Grounds
from tests.faults.trial import WORDS, Line, try_fault


def try_one(grounds: Grounds, name: str, found: list[Facts]) -> Facts:
    """Try a fault; for each kind of state that faults leave, try once that the next normal run is green."""
    fault = BY_NAME[name]
    line = try_fault(grounds.use(fault.ground), fault)
    if line.state not in {facts.get("state") for facts in found if facts.get("green") == "yes"}:
        run = grounds.lab.build(*WORDS, "--no-clone")
        line.green = "yes" if run.status == 0 else "no"
        line.wrong += [f"the next run failed: {sorted(run.failed())}"] if run.status else []
    if line.wrong or fault.outcome == "built":  # then what stands there was proved with the fault in it
        grounds.spoil()
    line.said = f"{line.stage}, {line.diagnoses or 'no diagnosis'}, left {line.state}"
    return {**vars(line), "fault": name, "verdict": line.seconds}


def lines(found: list[Facts]) -> list[Line]:
    """What came of the faults, in the catalogue's order."""
    by_name = {facts["id"]: facts for facts in found}
    return [Line.from_facts(fault, by_name[fault.name]) for fault in FAULTS if fault.name in by_name]


def main() -> int:
    """Try faults one after the other; one that breaks does not stop the others."""
    words = campaign.parser("faults", "Inject faults, and see what the suite makes of them.").parse_args()
    names = [fault.name for fault in FAULTS]
    return campaign.main(
        Campaign("faults", "tests.faults", names, try_one, lambda found: table.text(lines(found))), words
    )


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
