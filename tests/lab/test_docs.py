"""What the documentation tells to do in the lab, done there: its commands, and a template of one's own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.recording.record import Outcome, from_json
from tests.docs import TOP, blocks
from tests.lab.harness import Lab
from tests.test_docs import run

pytestmark = pytest.mark.lab

DECLARATION = TOP / "lab/phoenix_lxc_configs.json"


@pytest.fixture(scope="module")
def environment(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A user's who has the options of the lab set, and has declared 930 as well; 930 is gone in the end."""
    declared = json.loads(DECLARATION.read_text())
    entry = json.loads((TOP / "docs/example/930.json").read_text())["930"]
    here = {key: declared["lxc_configs"]["920"][key] for key in ("template", "storage_pool")}
    declared["lxc_configs"]["930"] = {**entry, **here}
    path = tmp_path_factory.mktemp("declared") / "phoenix_lxc_configs.json"
    path.write_text(json.dumps(declared))
    options = [f"--override-ini=report_folder={lab.reports}", f"--override-ini=lxc_configs={path}"]
    options = [f"@{TOP}/lab/options", f"--node=lab:{lab.machine.name}", "-p no:cacheprovider", *options]
    yield {**os.environ, "PYTEST_ADDOPTS": " ".join(options)}
    lab.destroy(930)


def test_template_of_ones_own(lab: Lab, environment: dict[str, str]) -> None:
    """The example of docs/extending.md is built, found and compared, and its clones' service answers."""
    (block,) = blocks("930")
    said = run(block, TOP, **environment)
    assert [line.split()[2] for line in said.splitlines() if "outcome: " in line] == ["built", "existing", "verified"]
    record = from_json((lab.reports / "latest/record.json").read_text())
    assert record.outcome is Outcome.VERIFIED
    assert lab.inside("bash", "-c", "cat < /dev/tcp/127.0.0.1/9930", ctid=930).count("(UUID: ") == 2


def test_commands_of_the_pages(lab: Lab, environment: dict[str, str], tmp_path: Path) -> None:
    """The commands that only ask, on the report of that template instead of 920's."""
    (tmp_path / "reports").symlink_to(lab.reports)
    for name in ("fixtures", "tests_920", "conftest.py", "pytest.ini", "docs", "lab"):
        (tmp_path / name).symlink_to(TOP / name)
    for block in blocks("lab"):
        run(block, tmp_path, **environment)
