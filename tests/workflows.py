"""The workflow files of CI servers, as these read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

TOP = Path(__file__).parent.parent
GITHUB = sorted((TOP / ".github/workflows").glob("*.yml"))
GITLAB = TOP / ".gitlab-ci.yml"


def read(path: Path) -> dict[str, Any]:
    """A YAML file of version 1.2, in which `on` is a word."""
    return dict(YAML(typ="safe").load(path.read_text(encoding="utf-8")))


def steps(path: Path, job: str) -> list[str]:
    """The shell lines of a GitHub job, step by step."""
    return [step["run"] for step in read(path)["jobs"][job]["steps"] if "run" in step]


def scripts() -> list[tuple[str, str]]:
    """All shell lines of all workflows, with a name each."""
    github = [
        (f"{path.name}:{job}", line) for path in GITHUB for job in read(path)["jobs"] for line in steps(path, job)
    ]
    jobs = {name: job for name, job in read(GITLAB).items() if isinstance(job, dict)}
    words = ("before_script", "script", "after_script")
    return github + [
        (f"gitlab:{name}", line) for name, job in jobs.items() for word in words for line in job.get(word, ())
    ]
