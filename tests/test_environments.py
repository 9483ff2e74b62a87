"""The suite where nobody sits before it: cron, systemd, an empty environment; and with pytest's options in a variable.

Each run and each plan ends as one from a terminal does: same status, same verdicts, same files.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from fixtures.record.model import from_json
from tests.suite_run import TOP, Suite

BARE = {"PATH": "/usr/bin:/bin", "LANG": "C"}  # as cron(8) and systemd.exec(5) give it: no HOME, no TERM
ENVIRONMENTS = {
    "cron": ({**BARE, "LOGNAME": "root", "SHELL": "/bin/sh"}, "<&-"),
    "systemd": ({**BARE, "INVOCATION_ID": "0" * 32, "JOURNAL_STREAM": "8:1", "PYTHONSAFEPATH": "1"}, "</dev/null"),
    "empty": ({}, "<&-"),
    "no UTF-8": ({**BARE, "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, ""),
    "nothing is right": ({**BARE, "HOME": "/nonexistent", "TMPDIR": "/no", "TERM": "unknown", "COLUMNS": "1"}, ""),
    "development": ({**BARE, "PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error"}, ""),
    "telling": ({**os.environ, "PYTEST_ADDOPTS": "-vv --tb=long -rA --durations=0 --log-cli-level=DEBUG -s"}, ""),
    "strict": ({**os.environ, "PYTEST_ADDOPTS": "-q -q -W error --strict -o xfail_strict=true --runxfail"}, ""),
    "no autoload": ({**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, ""),
    "importlib": ({**os.environ, "PYTEST_ADDOPTS": "--import-mode=importlib --assert=rewrite"}, ""),
}


@dataclass(frozen=True)
class Place:
    """A suite that is called in the folder / of a process without a terminal."""

    suite: Suite
    env: dict[str, str]
    redirected: str

    def run(self, *words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "pytest", "-c", str(TOP / "pytest.ini"), "--rootdir", str(TOP), *words]
        command += [str(TOP / "tests_920"), "--node=lab:stub", "-p", "no:cacheprovider"]
        command += [f"-oreport_folder={self.suite.reports}"]
        done = subprocess.run(
            ["/bin/sh", "-c", f'exec "$@" {self.redirected}', "sh", *command],
            cwd="/",
            env={**self.env, "PHOENIX_LAB_STATE": str(self.suite.top / "labs")},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
            start_new_session=True,
        )
        return done.returncode, done.stdout + done.stderr

    def made(self) -> tuple[list[tuple[str, str, str]], list[str]]:
        """The verdicts of the record, and the files beside it."""
        folder = self.suite.reports / "latest"
        record = from_json((folder / "record.json").read_text())
        files = sorted(path.name for path in folder.iterdir())
        place = str(self.suite.reports)  # named by the command of a failure
        return [(check.name, check.verdict, check.reason.replace(place, "")) for check in record.checks], files


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(Suite(tmp_path_factory.mktemp("usual")), dict(os.environ), "")
    assert place.run()[0] == 1
    return place


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_verdict_is_the_same_everywhere(name: str, usual: Place, tmp_path: Path) -> None:
    place = Place(Suite(tmp_path), *ENVIRONMENTS[name])
    status, output = place.run()
    assert (status, place.made()) == (1, usual.made()), output


def test_plan_is_the_same_everywhere(tmp_path: Path) -> None:
    """Its text, but for the words of pytest around it; and nothing is left."""
    said = {}
    for name, (env, redirected) in {**ENVIRONMENTS, "usual": (dict(os.environ), "")}.items():
        if name in ("cron", "importlib", "usual"):
            place = Place(Suite(tmp_path / name), env, redirected)
            status, output = place.run("--plan")
            assert not place.suite.reports.exists()
            said[name] = (
                status,
                [line for line in output.splitlines() if line.startswith(("template:", "node:", "ERROR:"))],
            )
    assert said["usual"] == said["cron"] == said["importlib"]


@pytest.mark.parametrize(
    ("words", "env", "said"),
    [
        (["--trace"], {}, "--trace: a check that is left in the debugger would count as passed"),
        (["-p", "no:terminal"], {}, "pytest has not loaded 'terminal'"),
        (["-p", "no:html"], {}, "pytest has not loaded 'html', which the suite needs; leave out -p no:html"),
    ],
)
def test_what_would_change_a_verdict_is_refused(
    words: list[str], env: dict[str, str], said: str, tmp_path: Path
) -> None:
    place = Place(Suite(tmp_path), {**os.environ, **env}, "</dev/null")
    status, output = place.run(*words)
    assert (status, place.suite.reports.exists()) == (4, False), output
    assert said in output
    assert "Traceback" not in output
