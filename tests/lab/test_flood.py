"""A container that floods every channel at once: the run ends by its deadlines, in bounded memory and disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fixtures.record.model import Verdict, from_json
from tests import schemas
from tests.faults.fault import Ground, inside, stand_in
from tests.faults.trial import prepare
from tests.lab.harness import Lab
from tests.peaks import DISK, MEMORY, Peaks

pytestmark = pytest.mark.lab

LONGEST = 240  # seconds: the deadlines below, for each of the checks that meet the flood
WORDS = (
    *stand_in("floods"),
    *("-o", "vllm_image=vllm/vllm-openai:stand-in-large"),
    *("-o", "ready_deadline=20", "-o", "answer_deadline=5", "-o", "command_deadline=20", "-o", "pull_deadline=90"),
)
LINE = "\\033]0;x\\007::error::owned ##[group]x hf_abcdefghij0123456789 1e999 nan \\302\\233 "
DOCKER = r"""#!/bin/sh
case "$*" in
  pull*) yes "0123456789ab: Downloading [====>    ]  1.2MB/3.4MB" | head -c 20000000;;
  *logs*)
    for last; do :; done # of the test server; other checks read the logs of their probes
    case $(/usr/bin/docker inspect --format '{{.Name}}' "$last") in
      /vllm_test_container*) exec yes "$(printf 'LINE%s' "$(head -c 5000 /dev/zero | tr '\0' x)")";;
    esac;;
  run*vllm_test_container*) cp -a /usr/local/sbin/later /usr/local/sbin/nvidia-smi;; # checks before need the real one
  *info*) yes "$(printf 'LINE')" | head -c 2000000 >&2;;
esac
exec /usr/bin/docker "$@"
""".replace("LINE", LINE)
SMI = """#!/bin/sh
case "$*" in *--loop-ms*) exec yes "0, 1011, 56, 145.06, 1815";; esac
exec /usr/bin/nvidia-smi "$@"
"""
JOURNAL = r"""#!/bin/sh
exec yes "$(printf 'LINE')"
""".replace("LINE", LINE)
PROGRAMS = {"docker": DOCKER, "later": SMI, "journalctl": JOURNAL}
PUT = "\n".join(
    f"cat > /usr/local/sbin/{name} <<\\EOF\n{text}EOF\nchmod 755 /usr/local/sbin/{name}"
    for name, text in PROGRAMS.items()
)
IMAGE = "vllm/vllm-openai:stand-in-large"
UNDO = f"cd /usr/local/sbin && rm -f nvidia-smi {' '.join(PROGRAMS)}; docker image rm --force {IMAGE}"


@contextmanager
def flooding(lab: Lab) -> Iterator[None]:
    with inside(PUT, UNDO)(lab):
        yield


def test_flood_on_every_channel_ends_the_run_within_its_bounds(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(lab, Ground.CLONE)
    lab.forget_images()
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    with flooding(lab):
        process = lab.start(*WORDS)
        peaks = Peaks(process, scratch, lab.reports)
        peaks.start()
        run = lab.finish(process, LONGEST)
        peaks.join()
        left = lab.inside("sh", "-c", "pgrep --full --list-full '[y]es ' || true")
    print(f"{run.seconds:.0f} s, {peaks.memory / 2**20:.0f} MiB of memory, {peaks.disk / 2**20:.1f} MiB of disk")
    assert run.status == 1
    assert 0 < peaks.memory < MEMORY
    assert 0 < peaks.disk < DISK
    assert left == ""
    schemas.check_folder(run.folder)
    record = from_json((run.folder / "record.json").read_text())
    assert record.verdict is Verdict.FAILED
    assert {"test_server_gets_ready[gpu0]"} <= run.failed()
    assert all(each.verdict == "passed" for each in record.checks if "image_is_pulled" in each.name)
    kept = {path.name: path.read_bytes() for path in run.folder.iterdir() if path.suffix != ".gz"}
    assert not [name for name, content in kept.items() if b"hf_abcdefghij0123456789" in content]
    spoken = [line for line in run.output.splitlines() if line.lstrip().startswith("::")]
    assert not [line for line in spoken if not line.startswith("::error file=tests_920/")]
    assert not list(scratch.iterdir())
