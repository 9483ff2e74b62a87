"""Renews the sample reports of the repository, a green and a red build, and README's picture.

`python -m tests.lab.samples [NODE]`, in a lab of its own; `make samples` calls it.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

from lab.__main__ import up
from lab.machine import Machine
from tests.browser import browser
from tests.faults.catalogue import BY_NAME
from tests.lab.harness import TOP, Lab, Run

SAMPLES = TOP / "reports/samples"
PICTURE = TOP / "docs/report.png"
LEFT_OUT = ".warnings"  # long, and said once on the first screen
ANSWERS = "return document.querySelector('#served').getBoundingClientRect().top + scrollY"


def keep(run: Run, name: str) -> None:
    """Keep the files of a run that people read."""
    folder = SAMPLES / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in ("report.html", "junit.xml"):
        text = (run.folder / file).read_text(encoding="utf-8")
        text = re.sub(r'<span class="files">.*?</span>', "", text)  # they are not kept
        (folder / file).write_text(text.replace(f"{TOP}/", ""), encoding="utf-8")


def photograph() -> None:
    """Take README's picture of the green sample: its first screen, the stages and the timeline."""
    with tempfile.TemporaryDirectory() as profile, browser(Path(profile)) as chromium:
        chromium.look(width=1280)
        chromium.open(SAMPLES / "green/report.html")
        chromium.run(f"document.querySelectorAll('{LEFT_OUT}').forEach(e => e.remove())")
        chromium.picture(PICTURE, height=int(chromium.run(ANSWERS)) - 20)


def main(name: str) -> None:
    """Build twice, in the lab node of that name, which is removed at the end."""
    machine = Machine(name)
    machine.erase()
    try:
        up(machine)
        with tempfile.TemporaryDirectory() as reports:
            lab = Lab(machine, Path(reports))
            fault = BY_NAME["gpu-missing"]
            with fault.put(lab):
                red = lab.build(*fault.words)
            green = lab.build()
            keep(red, "red")  # not before: the second run would record uncommitted changes
            keep(green, "green")
        photograph()
    finally:
        machine.erase()


if __name__ == "__main__":
    main(*sys.argv[1:] or ["pve-samples"])
