"""Runs commands on this machine for the lab."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from lab.errors import LabError


def execute(
    argv: Sequence[str], *, seconds: float, check: bool = True, environment: Mapping[str, str] | None = None
) -> str:
    """Run a command to its end.

    Args:
        argv: The command.
        seconds: Its deadline.
        check: Whether a failure is an error; if not, what it printed is returned all the same.
        environment: Its whole environment, if not ours.

    Returns:
        Its standard output.

    Raises:
        LabError: It failed or took longer; with the end of what it printed.
    """
    shown = " ".join(argv)
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
            env=environment,
        )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed; run `make lab-tools`") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"`{shown[:300]}` took longer than {seconds:.0f} s") from error
    if done.returncode and check:
        tail = (done.stderr.strip() or done.stdout.strip())[-1000:]
        raise LabError(f"`{shown[:300]}` ended with {done.returncode}: {tail}")
    return done.stdout
