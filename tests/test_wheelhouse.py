"""The suite as a package: made as one file, installed without a network, and run from any folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.base.declaration import load
from tests.test_other_plugins import installed as plugin

TOP = Path(__file__).parents[1]
NOWHERE = "ssh://nobody@127.0.0.1:1"
ALONE = ("unshare", "--net") if os.geteuid() == 0 else ()


def run(*argv: str | Path, cwd: Path, status: int = 0) -> str:
    """What a command prints; it must end with that status."""
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an installation that was made without a network."""
    work = tmp_path_factory.mktemp("wheelhouse")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run("env", f"PATH={path}", TOP / ".ci/wheelhouse", work, cwd=work)
    (made,) = work.glob("*.tar")
    run("tar", "--extract", "--file", made, cwd=work)
    run(*ALONE, work / made.stem / "install", work / "here", cwd=work)
    return work / "here"


def packages(installed: Path) -> Path:
    return next(installed.glob("lib/python3*/site-packages"))


def test_it_brings_nothing_of_a_common_name(installed: Path) -> None:
    names = {path.name for path in packages(installed).iterdir()}
    assert "phoenix_920" in names
    assert not names & {"fixtures", "conftest.py", "tests_920", "lab", "tests", "docs"}


def test_it_brings_no_tool_of_development(installed: Path) -> None:
    names = {path.name.partition("-")[0] for path in packages(installed).glob("*.dist-info")}
    assert "pytest" in names
    assert not names & {"mypy", "ruff", "selenium", "hypothesis", "uv"}


@pytest.fixture(scope="module")
def beside_fixtures(installed: Path) -> Path:
    """The same installation, into which PyPI's package `fixtures` was installed after ours."""
    other = "fixtures==4.3.2"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*pip, "--target", packages(installed), other], capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode:
        pytest.skip(f"{other} can't be installed: {done.stderr.strip()[-200:]}")
    assert (packages(installed) / "fixtures/fixture.py").is_file()
    return installed


def test_it_runs_beside_pypi_s_fixtures(beside_fixtures: Path, tmp_path: Path) -> None:
    """Which of the two is imported does not depend on who was installed last."""
    said = run(beside_fixtures / "bin/phoenix-920", "--collect-only", "--quiet", cwd=tmp_path)
    assert "tests_920/test_010_preflight.py::test_node_is_proxmox" in said


def test_it_does_nothing_for_other_tests(beside_fixtures: Path, tmp_path: Path) -> None:
    """Their `fixtures` is the other package, and they have no option of ours."""
    (tmp_path / "test_other.py").write_text(
        "import sys, fixtures.fixture\ndef test_other():\n    assert 'phoenix_920.plugins' not in sys.modules\n"
    )
    assert "1 passed" in run(beside_fixtures / "bin/pytest", "test_other.py", cwd=tmp_path)
    assert "unrecognized arguments: --plan" in run(beside_fixtures / "bin/pytest", "--plan", cwd=tmp_path, status=4)


@pytest.fixture
def own(beside_fixtures: Path, tmp_path: Path) -> Path:
    """A suite that `phoenix-920 new` has written into a folder of the user's."""
    said = run(beside_fixtures / "bin/phoenix-920", "new", "930", "--parent", "920", cwd=tmp_path)
    assert f"{tmp_path}/tests_930" in said
    return tmp_path / "tests_930"


@pytest.mark.parametrize("program", ["phoenix-920", "pytest"])
def test_suite_outside_the_checkout_runs(beside_fixtures: Path, own: Path, program: str, tmp_path: Path) -> None:
    """From any folder, with the console script and with pytest: its record is of 930 and lies beside it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    said = run(beside_fixtures / "bin" / program, own, "--node", NOWHERE, cwd=elsewhere, status=1)
    (record,) = own.parent.glob("reports/*-930*/record.json")
    checks = json.loads(record.read_text())["checks"]
    assert [check["name"] for check in checks if check["stage"] == "greeting"] == [
        "test_040_greeting.py::test_greeting_is_there"
    ]
    assert "930@template-930-snapshot" in said
    assert "../tests_930" in said.partition("next:")[2], "the command that is shown names this suite"
    assert not [*elsewhere.iterdir()]


def test_new_suite_has_a_name_address_and_mac_of_its_own(own: Path) -> None:
    entries = load(own.parent / "phoenix_lxc_configs.json")
    assert entries[930].parent == 920
    others = [each for number, each in entries.containers.items() if number != 930]
    for key in ("name", "mac_address", "snapshot"):
        assert getattr(entries[930], key) not in [getattr(each, key) for each in others]
    assert entries[930].network.ip not in [each.network.ip for each in others]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("930",), "container 930 is declared already"),
        (("931", "--parent", "1"), "the parent 1 is not declared; declared are 930, 903, 920, 950"),
        (("931", "--parent", "950"), "container 950 has no template_snapshot_name"),
        (("no",), "invalid int value: 'no'"),
    ],
)
def test_new_suite_that_can_t_be_is_refused(
    beside_fixtures: Path, own: Path, words: tuple[str, ...], said: str
) -> None:
    before = sorted(own.parent.rglob("*"))
    assert said in run(beside_fixtures / "bin/phoenix-920", "new", *words, cwd=own.parent, status=4)
    assert sorted(own.parent.rglob("*")) == before


def test_second_suite_leaves_the_first_as_it_is(beside_fixtures: Path, own: Path) -> None:
    (own.parent / "pytest.ini").write_text("[pytest]\ntestpaths = mine\n")
    declared = own.parent / "phoenix_lxc_configs.json"
    before = declared.read_text()
    run(beside_fixtures / "bin/phoenix-920", "new", "931", "--parent", "930", "--address=10.0.0.77/24", cwd=own.parent)
    assert (own.parent / "pytest.ini").read_text() == "[pytest]\ntestpaths = mine\n"
    assert load(declared)[931].network.ip == "10.0.0.77/24"
    assert [line for line in before.splitlines() if line not in declared.read_text().splitlines()] == []


def test_folder_without_checks_is_named(installed: Path, tmp_path: Path) -> None:
    said = run(installed / "bin/phoenix-920", "tests_940", cwd=tmp_path, status=4)
    assert "tests_940/CHECKS does not exist" in said


def test_help_begins_with_our_options(installed: Path, tmp_path: Path) -> None:
    said = run(installed / "bin/phoenix-920", "--help", cwd=tmp_path)
    assert 0 < said.index("phoenix-920:") < said.index("--rebuild") < said.index("general:")


def test_shell_completes_our_options(installed: Path, tmp_path: Path) -> None:
    """As docs/install.md says, with argcomplete beside it: pytest has its hook, and ours are in its parser."""
    line, answer = "phoenix-920 --rebu", tmp_path / "answer"
    variables = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    variables |= {"PYTHONPATH": plugin("argcomplete==3.7.2"), "_ARGCOMPLETE_STDOUT_FILENAME": str(answer)}
    run("env", *(f"{key}={value}" for key, value in variables.items()), installed / "bin/phoenix-920", cwd=tmp_path)
    assert {word.strip() for word in answer.read_text().splitlines()} == {"--rebuild", "--rebuild-clone"}


def test_a_mistake_ends_as_in_a_checkout(installed: Path, tmp_path: Path) -> None:
    said = run(installed / "bin/phoenix-920", "--node", NOWHERE, "-o", "server_port=none", cwd=tmp_path, status=4)
    assert "server_port" in said
    assert not [*tmp_path.iterdir()], "a mistake leaves nothing"


def test_reports_and_declaration_are_the_caller_s(installed: Path, tmp_path: Path) -> None:
    """The declaration that lies in the caller's folder counts; the suite's own does where there is none."""
    declared = json.loads((TOP / "phoenix_lxc_configs.json").read_text())
    declared["lxc_configs"]["920"]["memory_mb"] = "much"
    (tmp_path / "phoenix_lxc_configs.json").write_text(json.dumps(declared))
    said = run(installed / "bin/phoenix-920", "--plan", "--node", NOWHERE, cwd=tmp_path, status=4)
    assert f"{tmp_path}/phoenix_lxc_configs.json" in said
    (tmp_path / "phoenix_lxc_configs.json").unlink()
    run(installed / "bin/phoenix-920", "--node", NOWHERE, cwd=tmp_path, status=1)
    assert [*tmp_path.glob("reports/*/record.json")]
