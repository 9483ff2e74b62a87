"""What may be sealed and what may not, in the lab: waived failures, and a run that has lost its lock."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.faults.moments import BEFORE_SNAPSHOT, BOUNDARIES, REACHED, reached
from tests.lab.harness import SNAPSHOT, STAND_IN, Lab, Run, says

pytestmark = pytest.mark.lab

WORDS = (*STAND_IN, "--no-clone")
CHECK = "test_050_serving.py::TestServer::test_server_answers"
WRONG = ("-o", "expected_word=Berlin")  # so the check fails, on each GPU
WAIVER = """[[waiver]]
check = "{}[gpu]"
reason = "Berlin it shall be"
until = 2999-12-31
seals = {}
"""


def waived(folder: Path, seals: str) -> tuple[str, ...]:
    path = folder / "waivers.toml"
    path.write_text(WAIVER.format(CHECK, seals))
    return (*WORDS, *WRONG, "-o", f"waivers={path}")


def description(lab: Lab) -> str:
    return str(lab.snapshots()[SNAPSHOT]["description"])


def test_waived_failure_is_not_sealed(lab: Lab, tmp_path: Path) -> None:
    run = lab.build(*waived(tmp_path, "false"))
    assert (run.status, run.failed()) == (1, {"test_everything_passed"})
    says(run, "not sealed, because of earlier checks: 2 waived (GPU 0: ", f"{CHECK}[gpu0]", "(seals = true allows it)")
    assert lab.snapshots() == {}


def test_run_that_has_lost_its_lock_does_not_seal(lab: Lab) -> None:
    """Its holder on the node is killed when all has passed: another run may have begun meanwhile."""
    (moment,) = [each for each in BOUNDARIES if each.name == "before the stage seal"]
    with reached(lab, moment) as (process, file):
        assert process.poll() is None
        lab.node("pkill", "--full", "phoenix-920/920.loc[k]")  # not the shell that runs it
        file.unlink()
        run = lab.finish(process, 120)
    assert (run.status, run.outcome) == (1, "failed")
    says(run, "not sealed: this run has lost its lock on the container, so another one may have begun")
    assert lab.snapshots() == {}
    assert "running" in lab.node("pct", "status", "920")


def test_interrupts_wait_while_the_template_is_sealed(lab: Lab) -> None:
    """However often: then the run ends, says that it has sealed, and the next one goes on from there."""
    with reached(lab, BEFORE_SNAPSHOT) as (process, _):
        for _ in range(3):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        lab.node("rm", "-f", REACHED)
        run = lab.finish(process, 60)
    assert (run.status, run.outcome) == (2, "aborted")
    says(run, "the template is being sealed; the run ends after that", "was sealed but not accepted")
    assert run.checks()["test_everything_passed"] == "passed"
    assert [verdict for name, verdict in run.checks().items() if name.startswith("sealing[")] == ["passed"] * 6
    assert "running" in lab.node("pct", "status", "920")
    assert " accepted " not in description(lab)
    again = lab.build(*WORDS, "-k", "test_070_sealed")
    says(again, "was sealed but not accepted")
    assert lab.build(*WORDS).outcome == "built"
    lab.destroy()


@pytest.fixture(scope="module")
def sealed(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A template that was sealed in spite of a failure on each GPU."""
    return lab.build(*waived(tmp_path_factory.mktemp("waivers"), "true"))


def test_waived_failure_is_sealed_if_its_waiver_says_so(lab: Lab, sealed: Run) -> None:
    assert (sealed.status, sealed.outcome) == (0, "built")
    assert " in spite of 2 waived failures, " in description(lab)


def test_waived_failure_is_told_everywhere(lab: Lab, sealed: Run) -> None:
    """In the terminal, the report, the record, the one in the template, the one on the node, and the summary."""
    names = [f"{CHECK}[gpu{index}]" for index in (0, 1)]
    says(sealed, f"Waived: {', '.join(names)}.", "waived until 2999-12-31, the template may be sealed: Berlin it shall")
    assert "Berlin it shall be" in sealed.report
    assert "Berlin it shall be" in (sealed.folder / "summary.md").read_text()
    texts = {
        "report": (sealed.folder / "record.json").read_text(),
        "920": lab.inside("cat", "/etc/phoenix/record.json"),
        "node": lab.node("sh", "-c", "cat /var/lib/phoenix-920/records/*/record.json"),
    }
    for where, text in texts.items():
        record = json.loads(text)
        assert [each["name"] for each in record["checks"] if each["verdict"] == "waived"] == names, where
    assert json.loads(texts["report"])["verdict"] == "WARNED"
