"""`phoenix-920 [pytest options]`: pytest with the suite's own ini file; reports go to the folder it is called in.

Everything of the suite lies below this package, so nothing named `fixtures` or `conftest` gets to the top of
site-packages, where another distribution has a package `fixtures`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

SUITE = Path(__file__).parent / "suite"


def main() -> int:
    """Run pytest, and return its exit status."""
    here = Path.cwd()
    words = ["-c", f"{SUITE / 'pytest.ini'}", "--rootdir", f"{SUITE}", "-p", "phoenix_920.front", "-o", f"home={here}"]
    words += ["-o", f"cache_dir={here / 'reports' / '.pytest_cache'}"]
    if not (here / "phoenix_lxc_configs.json").exists():
        words += ["-o", f"lxc_configs={SUITE / 'phoenix_lxc_configs.json'}"]
    return int(pytest.main([*words, *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
