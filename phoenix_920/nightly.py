"""`phoenix-920 nightly install`: a systemd service and timer that verify the template and ask its family every night.

Both runs are made, whatever the first one says, and the service fails if one of them does: `systemctl --failed`, the
journal of the service and reports/index.html show it. `phoenix-920 nightly remove` removes both.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

NAME = "phoenix-920-nightly"
UNITS = Path("/etc/systemd/system")
SERVICE = """[Unit]
Description=Verify the template and ask the containers that descend from it
Documentation=file:{docs}
After=pve-guests.service network-online.target

[Service]
Type=oneshot
WorkingDirectory={here}
ExecStart=/bin/sh -c {script}
Nice=10
TimeoutStartSec=2h
"""
TIMER = """[Unit]
Description=The same, every night

[Timer]
OnCalendar={at}
RandomizedDelaySec=10min
Persistent=true

[Install]
WantedBy=timers.target
"""


def units(here: Path, at: str, words: list[str]) -> dict[str, str]:
    """The text of both units; the words of the command line go to both runs."""
    verify, family = map(shlex.join, runs(here, words))
    script = f"{verify}; first=$?; {family} && exit $first"
    quoted = '"' + script.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$").replace("%", "%%") + '"'
    docs = Path(__file__).parent.parent / "docs/day-two.md"
    service = SERVICE.format(docs=docs, here=str(here).replace("%", "%%"), script=quoted)
    return {f"{NAME}.service": service, f"{NAME}.timer": TIMER.format(at=at)}


def runs(here: Path, words: list[str]) -> list[list[str]]:
    """The two command lines. A module's file, by which `python -m` names itself, is no program."""
    script = Path(sys.argv[0]).absolute()
    installed = script.name == "phoenix-920" and not (here / "phoenix_920").is_dir()
    front = [str(script)] if installed else [sys.executable, "-m", "phoenix_920"]
    return [[*front, *words, option] for option in ("--verify", "--family")]


def main(words: list[str]) -> int:
    """Install or remove the units; one line and 4 if that can't be done."""
    parser = argparse.ArgumentParser(
        prog="phoenix-920 nightly",
        description="Verify the template and its family every night; further words go to both runs.",
        allow_abbrev=False,
    )
    parser.add_argument("do", metavar="install|remove|show", choices=("install", "remove", "show"))
    parser.add_argument("--at", default="*-*-* 03:00", help="when, as systemd.time(7) writes it; default: %(default)s")
    try:
        given, more = parser.parse_known_args(words)
    except SystemExit as end:
        return 4 if end.code else 0
    if bad := [word for word in (given.at, str(Path.cwd()), *more) if not word.isprintable()]:
        print(f"phoenix-920 nightly: {bad[0]!r} can't stand in a line of a unit", file=sys.stderr)
        return 4
    made = units(Path.cwd(), given.at, more)
    if given.do == "show":
        print("\n".join(f"# {UNITS / name}\n{text}" for name, text in made.items()), end="")
        return 0
    try:
        if given.do == "install":
            subprocess.run(["systemd-analyze", "calendar", given.at], check=True, capture_output=True, timeout=60)
            for command in runs(Path.cwd(), more):  # which says what each night would
                subprocess.run([*command, "--collect-only", "-qq"], check=True, capture_output=True, timeout=60)
            for name, text in made.items():
                (UNITS / name).write_text(text, encoding="utf-8")
            _systemctl("daemon-reload")
            _systemctl("enable", "--now", f"{NAME}.timer")
        else:
            if (UNITS / f"{NAME}.timer").exists():
                _systemctl("disable", "--now", f"{NAME}.timer")
            for name in made:
                (UNITS / name).unlink(missing_ok=True)
            _systemctl("daemon-reload")
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip() or error.returncode
        print(f"phoenix-920 nightly: {shlex.join(error.cmd)}: {said}", file=sys.stderr)
        return 4
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"phoenix-920 nightly: {error}", file=sys.stderr)
        return 4
    print(
        f"systemctl list-timers {NAME}.timer; journalctl --unit {NAME}.service" if given.do == "install" else "removed"
    )
    return 0


def _systemctl(*words: str) -> None:
    subprocess.run(["systemctl", *words], check=True, capture_output=True, timeout=60)
