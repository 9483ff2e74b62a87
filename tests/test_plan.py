"""`--plan` says what would be done on this node and does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import pve_files
from tests.suite_run import TOP, Suite
from tests.test_pending import CONFIG

# a node that answers questions and writes down whatever else it is asked to do
NODE = """#!/bin/sh
case "$1 $2 $3" in
  python3*) exit 127 ;;
  hostname*) echo stub ;;
  "ip -brief"*) echo 'vmbr0 UP aa:bb' ;;
  pveversion*) echo pve-manager/9.0.0/stub ;;
  "sh -c cd "*) [ "$5" = 920 ] && echo 'hostname: BaseTemplateVLLM' || exit 3 ;;
  "sh -c say"*) cat {folder}/files ;;
  "sh -c sed"*) cat {folder}/sockets ;;
  *) echo "$@" >> {folder}/done; exit 1 ;;
esac
"""
MARKED = "phoenix-920: sealed 2026-11-25T00:00:00Z manifest sha256:1"


def plan(
    tmp_path: Path, *words: str, description: str | None = None, exists: bool = True, others: tuple[int, ...] = ()
) -> tuple[str, int]:
    suite, log = Suite(tmp_path), tmp_path / "done"
    own = "".join(f"{key}: {value}\n" for key, value in CONFIG.items())
    taken = "" if description is None else f"\n[vllm-base-snapshot]\n#{description}\n{own}snaptime: 1\n"
    confs = {**({920: own + taken} if exists else {}), **dict.fromkeys(others, "hostname: other\n")}
    (tmp_path / "files").write_text(pve_files.files(confs, "stub"))
    (tmp_path / "sockets").write_text(pve_files.sockets(*confs))
    (suite.top / "labs/stub/node").write_text(NODE.format(folder=tmp_path))
    run = suite.run("--plan", *words)
    assert not log.exists(), log.read_text()
    assert not suite.folders(), "a plan leaves no report"
    return run.output, run.status


@pytest.mark.parametrize(
    ("words", "state", "said"),
    [
        ((), {"exists": False}, ("to build", "makes 920, a full clone of 903@docker-gpu-snapshot, with 4096 MB")),
        (
            (),
            {},
            (
                "adopts 920 if it is as declared",
                "pulls vllm/vllm-openai:latest",
                "takes vllm-base-snapshot-gN and vllm-base-snapshot, starts",
            ),
        ),
        (
            (),
            {"description": f"{MARKED} accepted now"},
            (
                "existing",
                "image             5 checks   skipped: already accepted",
                "  changed:\n    memory 2048 → 4096\n",
                "    --rebuild applies it: it changes the container",
                "      " + sys.executable + " -m pytest tests_920 --node=lab:stub ",
            ),
        ),
        ((), {"description": MARKED}, ("not yet accepted", "skipped: already sealed", 'adds "accepted"')),
        (
            ("--rebuild",),
            {"description": MARKED},
            ("takes vllm-base-snapshot-gN and vllm-base-snapshot, replacing the existing one",),
        ),
        (("--rebuild-clone",), {}, ("destroys 920 if this suite made it and all its snapshots; makes 920",)),
        (("--verify",), {"description": f"{MARKED} accepted now"}, ("recorded          9 checks   read-only",)),
        (("--verify-deep",), {"description": f"{MARKED} accepted now"}, ("starts, queries and removes a test server",)),
        (
            ("--accept", "950", "--keep"),
            {},
            ("clones 950 from vllm-base-snapshot as declared, runs a server in it, leaves it",),
        ),
        (
            ("--accept", "950"),
            {"others": (950,)},
            ("950 exists and is not changed; a test server runs next to its own if there is space",),
        ),
        (("--verify-parent",), {}, ("creates a throw-away clone of 903@docker-gpu-snapshot, proves it, destroys it",)),
        (("-k", "storage"), {"exists": False}, ("Only some checks are selected, so nothing would be sealed",)),
    ],
)
def test_plan(tmp_path: Path, words: tuple[str, ...], state: dict[str, object], said: tuple[str, ...]) -> None:
    output, status = plan(tmp_path, *words, **state)  # type: ignore[arg-type]
    assert status == 0, output
    for each in said:
        assert each in output, output
    assert "Nothing was changed." in output
    assert "changed since it was sealed" not in output, "it is said once, above the stages"


def test_bridge_that_the_node_lacks_fails_the_plan(tmp_path: Path) -> None:
    configs = (TOP / "phoenix_lxc_configs.json").read_text(encoding="utf-8").replace("vmbr0", "vmbr9")
    (tmp_path / "configs.json").write_text(configs, encoding="utf-8")
    output, status = plan(tmp_path, "-o", f"lxc_configs={tmp_path}/configs.json", exists=False)
    assert status == 1
    assert (
        "preflight would fail: stub has no bridge vmbr9, only the interfaces vmbr0; expected the declared bridge; "
        in output
    )
    assert "makes 920, a full clone of 903@docker-gpu-snapshot" in output, "the rest of the plan is shown"


def test_folder_that_can_not_be_made_is_refused_as_by_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    suite = Suite(tmp_path)
    for words in ((), ("--plan",)):
        run = suite.run(*words, "-o", f"report_folder={tmp_path}/file/reports")
        assert (run.status, "can't be written: " in run.output) == (4, True)


@pytest.mark.parametrize("words", [(), ("--plan",)])
def test_login_that_is_not_root_is_one_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    """The ssh hands its last word to a shell, as sshd does; on the node `id` says who that is."""
    for name, script in {
        "ssh": 'for word; do line=$word; done; exec sh -c "$line"',
        "id": "echo 'uid=1000(admin) gid=1'",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests_920",
        "--node=ssh://admin@pve",
        f"--override-ini=report_folder={tmp_path}/r",
    ]
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    run = subprocess.run(
        [*command, *words], cwd=TOP, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    said = (
        "ERROR: --node ssh://admin@pve: the login is uid=1000(admin), but `pct` works for root alone: ssh://root@HOST"
    )
    assert (run.returncode, (run.stdout + run.stderr).strip()) == (4, said)
    assert not (tmp_path / "r").exists()


def test_node_that_does_not_answer_is_one_line_without_secrets(tmp_path: Path) -> None:
    run = Suite(tmp_path, told=": hf_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789").run("--plan")
    assert (run.status, "hf_" in run.output) == (4, False), run.output
    assert "ERROR: --plan: can't query the node: " in run.output
    assert "Traceback" not in run.output
