"""A run starts soon: what is slow to load is loaded by those runs only that need it."""

import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parent.parent
SLOW = [
    "cryptography",
    "docutils",
    "fixtures.diagnosis.failure_modes",
    "hypothesis",
    "jsonschema.validators",
    "rich.console",
    "securesystemslib",
    "ssl",
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
