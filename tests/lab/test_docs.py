"""The commands of the documentation, run in the lab: those of its pages, of a new template and of a new parent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.record.model import from_json
from fixtures.run.mode import Outcome
from lab import rootfs
from tests.docs import TOP, blocks
from tests.lab.harness import Lab, says, until
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


def test_new_template_is_built_at_the_first_try(lab: Lab, tmp_path: Path) -> None:
    """What `phoenix-920 new` writes is built as it is, outside the checkout; 931 is gone in the end."""
    (tmp_path / DECLARATION.name).write_text(DECLARATION.read_text())
    program = [sys.executable, "-m", "phoenix_920"]
    for words in (
        ["new", "931", "--parent", "903", "--folder", str(tmp_path)],
        [str(tmp_path / "tests_931"), f"--node=lab:{lab.machine.name}", "-p", "no:cacheprovider"],
    ):
        done = subprocess.run([*program, *words], cwd=TOP, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    try:
        record = from_json((tmp_path / "reports/latest/record.json").read_text())
        assert record.outcome is Outcome.BUILT
        assert lab.inside("cat", "/etc/motd", ctid=931).strip() == "Template931"
    finally:
        lab.destroy(931)


def test_commands_of_the_pages(lab: Lab, environment: dict[str, str], tmp_path: Path) -> None:
    """The commands that only ask, on the report of that template instead of 920's."""
    (tmp_path / "reports").symlink_to(lab.reports)
    for name in ("fixtures", "tests_920", "conftest.py", "pytest.ini", "docs", "lab"):
        (tmp_path / name).symlink_to(TOP / name)
    for block in blocks("lab"):
        run(block, tmp_path, **environment)


SIMULATED_STACK = (
    "from pathlib import Path; from lab.gpu.install import install; install(Path('/lxc-disks/subvol-904-disk-0'))"
)


def test_parent_page_makes_a_parent(lab: Lab, tmp_path: Path) -> None:
    """docs/parent.md makes a parent, here 904, that `--verify-parent` proves; the lab brings what it can't download."""
    own = {
        "/var/lib/vz/template/cache/ubuntu-24.04-standard_24.04-2_amd64.tar.zst": str(rootfs.parent()),
        "903": "904",
        "10.0.0.203": "10.0.0.204",
        "52:54:00:AA:BB:CF": "52:54:00:AA:BB:CE",
    }
    document = (TOP / "lab/phoenix_lxc_configs.json").read_text()
    for known, here in own.items():
        document = document.replace(known, here)
    (tmp_path / "declared.json").write_text(document)
    python = ("env", "PYTHONPATH=/usr/share/pve-lab", "PYTHONDONTWRITEBYTECODE=1", "python3", "-c")
    try:
        *commands, proof = blocks("parent")
        said = {}
        for block in commands:
            text = block.text
            for known, here in own.items():
                text = text.replace(known, here)
            said[block.text.split()[1]] = lab.node("bash", "-euc", text, seconds=300)
            if "pct create" in text:
                lab.node(*python, SIMULATED_STACK)
            if "pct start" in text:  # a person needs longer for the next command than systemd for its start
                lab.node("sh", "-c", until("pct exec 904 -- systemctl is-active docker"))
        assert said["exec"].count("(UUID: ") == 2
        assert "overlay2 cgroupfs" in said["exec"]
        assert '"nvidia"' in said["exec"]
        assert proof.text.split() == ["venv/bin/pytest", "tests_920", "--verify-parent"]
        run = lab.build("--verify-parent", "-o", f"lxc_configs={tmp_path}/declared.json")
        assert (run.status, run.outcome) == (0, "verified")
        says(run, "904@docker-gpu-snapshot works")
    finally:
        lab.destroy(904)
