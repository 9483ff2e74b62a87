"""A run starts soon: what is slow to load is loaded by those runs only that need it."""

import subprocess
import sys
from pathlib import Path

import pytest

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
status = pytest.main(["tests_920", "--collect-only", "--quiet"])
print("loaded:", *(name for name in sys.argv[1:] if name in sys.modules))
sys.exit(status)
"""


def test_collecting_loads_nothing_slow() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COLLECT, *SLOW], cwd=TOP, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize("name", ["requests", "jsonschema"])
def test_library_is_loaded_when_it_is_used(name: str) -> None:
    script = f"""
import sys
from fixtures.lazily import lazily
library = lazily({name!r})
before = len(sys.modules)
assert library.__version__
assert len(sys.modules) > before
assert lazily({name!r}) is library
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=TOP, check=True, timeout=60)
