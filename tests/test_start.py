"""A run starts soon: what is slow to load is loaded by those runs only that need it."""

import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.base.lazily import lazily

TOP = Path(__file__).parent.parent
SLOW = [
    "cryptography",
    "docutils",
    "hypothesis",
    "jsonschema.validators",
    "rich.console",
    "securesystemslib",
    "urllib3.connection",
]
COLLECT = """
import sys, pytest
status = pytest.main(["tests_920", "--collect-only", "--quiet", "-W", "error"])
print("loaded:", *(name for name in sys.argv[1:] if name in sys.modules))
sys.exit(status)
"""


def test_collecting_loads_nothing_slow_and_warns_of_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COLLECT, *SLOW], cwd=TOP, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize("name", ["requests", "jsonschema"])
def test_library_is_loaded_when_it_is_used(name: str) -> None:
    script = f"""
import sys
from fixtures.base.lazily import lazily
library = lazily({name!r})
assert not hasattr(library, "__wrapped__")
assert {name!r} not in sys.modules
assert library.__version__
assert {name!r} in sys.modules
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=TOP, check=True, timeout=60)


def test_library_that_is_not_installed_is_missed_at_once() -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named 'phoenix_is_no_library'"):
        lazily("phoenix_is_no_library")


def test_ctrl_c_while_a_library_is_loaded_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "phoenix_inner.py").write_text("raise KeyboardInterrupt")
    (tmp_path / "phoenix_outer.py").write_text("import phoenix_inner\nloaded = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    lazily("phoenix_inner")
    with pytest.raises(KeyboardInterrupt):
        _ = lazily("phoenix_outer").loaded
