"""Lets a ledger hear what pytest would report."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from fixtures.run.ledger import Ledger
from fixtures.run.stages import WAIVED, CheckResult


def hear(
    ledger: Ledger,
    name: str,
    outcome: str = "passed",
    error: BaseException | None = None,
    *,
    when: str = "call",
    simulated: bool = False,
) -> None:
    """One phase of a check; an outcome "waived" is pytest's form of an expected failure."""
    known = "skipped" if outcome == WAIVED else outcome
    report = pytest.TestReport(name, (name, 0, name), {}, known, str(error or ""), when)  # type: ignore[arg-type]
    if outcome == WAIVED:
        report.wasxfail = "known"
    ledger.expect(report, error, simulated=simulated)
    ledger.hear(report)


def has_heard(ledger: Ledger, verdicts: Mapping[str, str], blocked: Mapping[str, str] | None = None) -> Ledger:
    """The same ledger with these verdicts, whatever the order."""
    stages = {check.name: check.stage for check in ledger.checks}
    for name, verdict in verdicts.items():
        cause = (blocked or {}).get(name, "")
        ledger._results[name] = CheckResult(name, stages.get(name, ""), name, verdict, blocked_by=cause)
    return ledger
