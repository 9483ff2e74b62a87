"""`phoenix-920 [pytest options]` runs pytest for 920 or the suite that it names; `new` writes one, `nightly` a timer.

Everything of the suite lies below this package, so nothing named `fixtures` or `conftest` gets to the top of
site-packages, where another distribution has a package `fixtures`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from phoenix_920 import front, new, nightly
from phoenix_920.front import SUITE


def main() -> int:
    """Run pytest, and return its exit status."""
    words, here = sys.argv[1:], Path.cwd()
    if words[:1] == ["new"]:
        return new.main(words[1:])
    if words[:1] == ["nightly"]:
        return nightly.main(words[1:])
    for word in words:
        if why := _unreadable(Path(word[1:])) if word.startswith("@") else "":
            print(f"{word}: can't be read: {why}", file=sys.stderr)
            return int(pytest.ExitCode.USAGE_ERROR)
    found = front.suites(words, here)
    if missing := [folder for folder in found if not (folder / "CHECKS").is_file()]:
        print(f"{missing[0]}/CHECKS does not exist: a suite lists its checks there, stage by stage", file=sys.stderr)
        return int(pytest.ExitCode.USAGE_ERROR)
    return int(pytest.main([*(_for_920(here) if not found else ()), "-p", "phoenix_920.front", *words]))


def _unreadable(options: Path) -> str:
    """Why a file of options can't be read, at which pytest would end with a traceback or wait; empty if it can."""
    if options.is_fifo():
        return "Is a named pipe"
    try:
        options.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return str(getattr(error, "strerror", error))
    return ""


def _for_920(here: Path) -> list[str]:
    """The suite that is installed, with its own ini file, and with reports and declaration in the caller's folder."""
    words = ["-c", f"{SUITE / 'pytest.ini'}", "--rootdir", f"{SUITE}", "-o", f"home={here}"]
    words += ["-o", f"cache_dir={here / 'reports' / '.pytest_cache'}"]
    if not (here / "phoenix_lxc_configs.json").exists():
        words += ["-o", f"lxc_configs={SUITE / 'phoenix_lxc_configs.json'}"]
    return [*words, str(SUITE / "tests_920")]


if __name__ == "__main__":
    sys.exit(main())
