"""Which container a run builds: the one that its suite's folder is named after."""

from pathlib import Path

import pytest

from fixtures.base.errors import BuildError
from fixtures.run.suite import named
from tests.test_usage import run

TOP = Path(__file__).parent.parent


def test_no_name_means_920() -> None:
    assert named([], TOP, "tests_920").ctid == 920
    assert named(["tests_920/test_040_image.py::test_image_is_pulled"], TOP, "tests_920").folder == TOP / "tests_920"


def test_folder_names_the_container(tmp_path: Path) -> None:
    folder = tmp_path / "tests_930"
    folder.mkdir()
    with pytest.raises(BuildError, match="CHECKS does not exist"):
        named([str(folder)], TOP, "tests_920")
    (folder / "CHECKS").touch()
    suite = named([f"{folder}/test_some.py"], TOP, "tests_920")
    assert (suite.ctid, suite.folder) == (930, folder)


def test_two_suites_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tests_930").mkdir()
    done = run("--node", "local", str(tmp_path / "tests_930"))
    assert done.returncode == 4
    assert "one run builds one container" in done.stderr
