"""The usual pytest plugins beside the suite, one by one: same checks, same order, same verdict, or exit status 4."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.suite_run import Suite, SuiteRun

CACHE = Path(os.environ.get("PHOENIX_CACHE", "~/.cache/phoenix-920")).expanduser()
# What is installed, without what pytest needs anyway; the first is the plugin's package.
PACKAGES = {
    name.partition("==")[0]: (name, *more)
    for name, *more in (
        ("anyio==4.16.0",),
        ("flaky==3.8.1",),
        ("pytest-check==3.0.3",),
        ("pytest-custom-exit-code==0.3.0",),
        ("pytest-dependency==0.6.1",),
        ("pytest-fail-slow==0.6.0",),
        ("pytest-forked==1.7.5",),
        ("pytest-ignore-flaky==2.2.1",),
        ("pytest-only==2.1.2", "setuptools==80.9.0"),  # Python 3.12 brings no pkg_resources
        ("pytest-ordering==0.6",),
        ("pytest-quarantine==2.0.0", "attrs==25.4.0"),
        ("pytest-reverse==1.9.0",),
        ("pytest-run-parallel==0.10.0",),
        ("pytest-stress==1.0.1",),
        ("pytest-subtests==0.15.0", "attrs==25.4.0"),
        ("pytest-asyncio==1.5.0",),
        ("pytest-cov==7.1.0", "coverage==7.17.5"),
        ("pytest-flakefinder==1.1.0",),
        ("pytest-instafail==0.5.0",),
        ("pytest-picked==0.5.1",),
        ("pytest-random-order==1.2.0",),
        ("pytest-randomly==5.1.0",),
        ("pytest-repeat==0.9.4",),
        ("pytest-rerunfailures==16.7",),
        ("pytest-retry==1.7.0",),
        ("pytest-split==0.11.0",),
        ("pytest-sugar==1.1.1", "termcolor==3.3.0"),
        ("pytest-testmon==2.2.0", "coverage==7.17.5"),
        ("pytest-timeout==2.4.0",),
    )
}


def installed(name: str) -> str:
    """The folder of a plugin, or of another package, installed once for all tests."""
    packages = PACKAGES.get(name, (name,))
    folder = CACHE / f"plugin-{hashlib.sha256(' '.join(packages).encode()).hexdigest()[:12]}"
    if not folder.exists():
        new = folder.with_name(f"{folder.name}.{os.getpid()}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*pip, "--target", str(new), *packages], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{name} can't be installed: {done.stderr.strip()[-200:]}")
        new.rename(folder)
    return str(folder)


def told(run: SuiteRun) -> list[tuple[str, str]]:
    return [(check.name, check.verdict) for check in run.record.checks]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> SuiteRun:
    return Suite(tmp_path_factory.mktemp("alone")).run()


BUILT_IN = ("pytest-subtests",)  # pytest has it itself, and does not load the plugin
# The options by which one does the most that is not refused
TOLD = {
    "pytest-custom-exit-code": ("--suppress-tests-failed-exit-code", "--suppress-no-test-exit-code"),
    "pytest-ignore-flaky": ("--ignore-flaky",),
    "pytest-instafail": ("--instafail",),
    "pytest-random-order": ("--random-order",),
    "pytest-randomly": ("--randomly-seed=3",),
    "pytest-reverse": ("--reverse",),
    "pytest-split": ("--splits=1", "--group=1"),
}


@pytest.mark.parametrize(("name", "words"), [(name, TOLD.get(name, ())) for name in PACKAGES])
def test_verdict_is_the_same(tmp_path: Path, alone: SuiteRun, name: str, words: tuple[str, ...]) -> None:
    suite = Suite(tmp_path)
    run = suite.run(*words, beside=installed(name))
    assert (run.status, told(run)) == (alone.status, told(alone)), run.output
    loaded = run.output.partition("plugins: ")[2].partition("\n")[0]
    assert f"{name.removeprefix('pytest-')}-" in loaded or name in BUILT_IN, "it was not loaded"


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("flaky", "--force-flaky"),
        ("pytest-cov", "--cov-fail-under=85"),
        ("pytest-fail-slow", "--fail-slow=0.00001"),
        ("pytest-flakefinder", "--flake-finder"),
        ("pytest-forked", "--forked"),
        ("pytest-quarantine", "--quarantine=README.md"),
        ("pytest-repeat", "--count=2"),
        ("pytest-rerunfailures", "--reruns=2"),
        ("pytest-rerunfailures", "--reruns=0"),  # it reports a check after its teardown, which is where the seal is
        ("pytest-retry", "--retries=2"),
        ("pytest-run-parallel", "--parallel-threads=2"),
        ("pytest-stress", "--seconds=1"),
        ("pytest-timeout", "--timeout=60"),
    ],
)
def test_plugin_that_is_told_to_repeat_or_to_end_checks_is_refused(tmp_path: Path, name: str, word: str) -> None:
    run = Suite(tmp_path).run(word, beside=installed(name))
    assert run.status == 4, run.output
    assert name in run.output.strip().splitlines()[-1]


def test_timeout_of_the_environment_is_refused(tmp_path: Path) -> None:
    suite = Suite(tmp_path)
    run = suite.run(beside=installed("pytest-timeout"), PYTEST_TIMEOUT="60")
    assert (run.status, "pytest-timeout: timeout is 60" in run.output) == (4, True), run.output
    assert "run: unset PYTEST_TIMEOUT" in run.output
    run = suite.run("--timeout=0", beside=installed("pytest-timeout"), PYTEST_TIMEOUT="60")
    assert run.status != 4, "as the plugin takes it: what is typed counts before the environment"
