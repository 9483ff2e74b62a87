"""The fault lab: puts every fault for real and says what the suite made of it.

`python -m tests.faults [--only NAME ...] [--node NODE] [--results FILE] [--write FILE]`; `make faults` runs all of
them and writes docs/faults.md. With `--results` the table tells of the faults of earlier runs too. Exits with 1 if a
line is not as it must be.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
from pathlib import Path

from lab import vllm
from lab.__main__ import up
from lab.machine import Machine
from tests.faults import results, table
from tests.faults.catalogue import BY_NAME, FAULTS
from tests.faults.fault import Fault
from tests.faults.trial import WORDS, Line, try_fault
from tests.lab.harness import Lab


def main() -> int:
    """Try the faults one after the other; one that breaks does not stop the others."""
    parser = argparse.ArgumentParser(prog="faults", description="Put faults, and see what the suite makes of them.")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=BY_NAME, help="only these")
    parser.add_argument("--node", default="pve-faults", help="name of the lab node; erased at the end")
    parser.add_argument("--keep", action="store_true", help="use the node if it is up, and leave it up")
    parser.add_argument("--results", type=Path, metavar="FILE", help="faults that the table tells of too; added to")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--verbose", action="store_true", help="show what the suite prints")
    words = parser.parse_args()
    faults = [BY_NAME[name] for name in words.only] if words.only else list(FAULTS)
    machine = Machine(words.node)
    try:
        with tempfile.TemporaryDirectory() as folder:
            lab = ready(machine, Path(folder), fresh=not words.keep)
            lines = try_all(lab, faults, words.results, verbose=words.verbose)
    finally:
        if not words.keep:
            machine.erase()
    text = table.text(lines)
    print(text)
    if words.write:
        words.write.write_text(text)
    return 1 if any(line.wrong for line in lines) else 0


def ready(machine: Machine, reports: Path, *, fresh: bool) -> Lab:
    """A lab node that serves the stand-in too."""
    if fresh:
        machine.erase()
    up(machine)
    machine.serve_stand_in(vllm.made() / "registry")
    return Lab(machine, reports)


def try_all(lab: Lab, faults: list[Fault], file: Path | None, *, verbose: bool) -> list[Line]:
    """Try faults; for each kind of state that they leave, try once that the next normal run is green.

    Returns:
        What came of them and, if there is such a file, of those in it that are not tried again.
    """
    lines = earlier(file, faults) if file else []
    begun = time.monotonic()
    for number, fault in enumerate(faults, 1):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            line = _try_one(lab, fault, {each.state for each in lines if each.green == "yes"})
        line.occasion = results.occasion()
        lines.append(line)
        if file:
            results.add(file, {**vars(line), "fault": fault.name})
        if verbose or line.wrong:
            print(printed.getvalue())
        said = (
            f"WRONG: {'; '.join(line.wrong)}"
            if line.wrong
            else f"{line.stage}, {line.diagnoses or 'no diagnosis'}, left {line.state}"
        )
        print(
            f"{time.monotonic() - begun:6.0f} s {number:3}/{len(faults)} {fault.name}: {line.seconds:.1f} s, {said}",
            flush=True,
        )
    return sorted(lines, key=lambda line: FAULTS.index(line.fault))


def earlier(file: Path, faults: list[Fault]) -> list[Line]:
    """What came last of each other fault."""
    last = {facts["fault"]: facts for facts in results.read(file) if facts["fault"] in BY_NAME}
    return [Line(**{**facts, "fault": BY_NAME[name]}) for name, facts in last.items() if BY_NAME[name] not in faults]


def _try_one(lab: Lab, fault: Fault, shown: set[str]) -> Line:
    try:
        line = try_fault(lab, fault)
        if line.state not in shown:
            run = lab.build(*WORDS, "--no-clone")
            line.green = "yes" if run.status == 0 else "no"
            if run.status:
                line.wrong.append(f"the next run failed: {sorted(run.failed())}")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        line = Line(fault, wrong=[f"{type(error).__name__}: {error}"])
    if line.wrong:
        with contextlib.suppress(Exception):
            lab.node("sh", "-c", "rm -f /etc/pve/lab-faults /etc/pve/lxc/951.conf /lxc-disks/ballast")
            lab.destroy()
    return line


if __name__ == "__main__":
    sys.exit(main())
