"""Verifying: each drift is named with its field, and nothing is where there is none."""

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.base.errors import BuildError
from fixtures.proxmox.channel import Channel
from fixtures.proxmox.conf import Snapshot
from fixtures.record.comparison import compare
from fixtures.record.exports import statements
from fixtures.record.model import Record, Subject, Verdict
from fixtures.remote import container_probe
from fixtures.remote.runner import CommandRequest, CommandResult
from fixtures.report import conclusion
from fixtures.run import mode, outcome
from fixtures.run.ledger import Ledger
from fixtures.run.mode import Outcome
from fixtures.run.stages import Check, CheckResult
from fixtures.session import verification
from fixtures.template import comparison, manifest, record_store
from fixtures.template.comparison import Comparison, Drift, Pending, SnapshotFacts
from fixtures.template.end_state import EndState
from fixtures.template.template import Situation
from tests.ledgers import has_heard
from tests.small_node import SETTINGS

TOP = Path(__file__).parent.parent
PACKAGES = {"bash": "5.2"}
FOUND: dict[str, Any] = {
    "template": {
        "image": {"name": "i", "id": "1", "digest": "i@sha256:1"},
        "model": {"name": "/m", "folder": "/m", "revision": "", "files": {"weights": "1"}},
        "packages": {"count": 1, "sha256": container_probe.digest(PACKAGES)},
        "files": {"/etc/docker/daemon.json": "1"},
        "software": {"docker": "26.1"},
    },
    "around": {"kernel": "6.8", "driver": "580", "gpus": {"0": "H100, GPU-0", "1": "H100, GPU-1"}},
    "packages": PACKAGES,
}


class World:
    """A sealed template with its record; each field can be spoiled."""

    def __init__(self) -> None:
        self.config: dict[str, Any] = {"memory": 4096, "hostname": "t"}
        self.snapshot_config = dict(self.config)
        self.version = "pve-manager/9 (running kernel: 6.8)"
        self.found = deepcopy(FOUND)
        self.running = True
        self.facts = SnapshotFacts("s", 7, "", {"type": "zfspool", "guid": "1", "createtxg": "2"})
        node: Any = self
        content = manifest.make(node, self.config, FOUND, {"caches": []})
        self.digest = manifest.digest(content)
        self.description = f"phoenix-920: sealed T image i@sha256:1 manifest sha256:{self.digest} accepted T"
        sealed = Record("1", 0.0, manifest=content).to_json()
        self.content = manifest.to_json(content)
        self.kept = record_store._summed(
            {
                "manifest.json": self.content,
                "record.json": sealed,
                "sealed-record.json": sealed,
                "snapshot.json": json.dumps(asdict(self.facts)),
            }
        )
        self.found["kept"] = {
            "manifest.json": record_store.sha256(self.content),
            "record.json": record_store.sha256(sealed),
        }
        self.name = "n"
        self.there = True

    def compare(self, monkeypatch: pytest.MonkeyPatch, *, accepted: bool = False) -> Comparison:
        return compare(self.template(monkeypatch), accepted=accepted)

    def template(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        node = SimpleNamespace(
            name="n",
            version=self.version,
            running=lambda ctid: self.running,
            config=lambda ctid, snapshot: self.snapshot_config if snapshot else self.config,
        )
        snapshot = Snapshot("s", self.description, 7, "") if self.there else None
        template: Any = SimpleNamespace(
            node=node,
            container=SimpleNamespace(),
            ctid=920,
            snapshot_name="s",
            subject="pve:n/lxc/920@s",
            snapshot=lambda: snapshot,
            again=lambda *more: " ".join(("pytest", *more)),
            settings=SETTINGS,
            inside=SimpleNamespace(look=lambda want: self.found),
        )
        monkeypatch.setattr(record_store, "read", lambda node, digest: self.kept if digest == self.digest else {})
        monkeypatch.setattr(record_store, "read_inside", lambda container, name: self.content)
        monkeypatch.setattr(manifest, "look_inside", lambda *asked: self.found)
        monkeypatch.setattr(comparison, "snapshot_facts", lambda template: self.facts)
        return template


def test_owners_clone_is_compared_with_the_generation_that_it_was_cloned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.description = world.description.replace(world.digest, "0" * 64)
    template = world.template(monkeypatch)
    with pytest.raises(BuildError):
        comparison.of_clone(template, template.container)
    found = comparison.of_clone(template, template.container, as_carried=True)
    assert (found.digest, found.drifts) == (world.digest, [])


def test_untouched_template_has_no_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    found = World().compare(monkeypatch)
    assert found.drifts == []
    assert found.looked_inside
    assert any("running container" in note for note in found.notes)
    assert any("guid 1, createtxg 2" in note for note in found.notes)


def test_secret_taken_out_of_a_record_is_no_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which known secrets a run has, its environment says; the record names its manifest all the same."""
    world = World()
    content = manifest.from_json(world.content)
    content["template"]["config"]["hostname"] = "[redacted: REGISTRY_PASSWORD]"
    for digest, drifts in ((world.digest, []), ("0" * 64, ["record.json manifest"])):
        text = Record("1", 0.0, manifest=content, subjects=[Subject("pve:n/lxc/920@s", digest)]).to_json()
        files = {name: kept for name, kept in world.kept.items() if name != record_store.SUMS}
        world.kept = record_store._summed({**files, "record.json": text})
        assert [drift.field for drift in world.compare(monkeypatch).drifts] == drifts


@pytest.mark.parametrize(
    ("outcome", "verdict", "confirmed", "drifts"),
    [
        (Outcome.BUILT, Verdict.WARNED, False, []),
        (Outcome.ABORTED, Verdict.FAILED, False, ["record record.json outcome: built -> aborted, FAILED"]),
        (Outcome.ABORTED, Verdict.FAILED, True, []),
        (Outcome.FAILED, Verdict.FAILED, True, ["record record.json outcome: built -> failed, FAILED"]),
        (Outcome.BUILT, Verdict.FAILED, True, ["record record.json outcome: built -> built, FAILED"]),
    ],
)
def test_record_of_an_accepted_template_says_that_its_run_has_built_it(
    monkeypatch: pytest.MonkeyPatch, outcome: Outcome, verdict: Verdict, confirmed: bool, drifts: list[str]
) -> None:
    """A record that was edited, its checksums redone; and one whose run was killed just after acceptance."""
    world = World()
    ended = Record("1", 0.0, outcome=outcome, verdict=verdict, manifest=manifest.from_json(world.content))
    files = {name: text for name, text in world.kept.items() if name != record_store.SUMS}
    files |= {"record.json": ended.to_json(), **({record_store.CONFIRMED: "{}"} if confirmed else {})}
    world.kept = record_store._summed(files)
    assert [str(drift) for drift in world.compare(monkeypatch, accepted=True).drifts] == drifts


@pytest.mark.parametrize(
    ("outcome", "invocation", "kept"),
    [
        (Outcome.ABORTED, "its run", True),
        (Outcome.BUILT, "its run", False),
        (Outcome.FAILED, "its run", False),
        (Outcome.ABORTED, "another run", False),
    ],
)
def test_run_that_was_killed_after_acceptance_is_confirmed_by_the_next(
    monkeypatch: pytest.MonkeyPatch, outcome: Outcome, invocation: str, kept: bool
) -> None:
    added: dict[str, str] = {}
    monkeypatch.setattr(
        record_store, "read", lambda *_: {"record.json": Record(invocation, 0.0, outcome=outcome).to_json()}
    )
    monkeypatch.setattr(record_store, "add", lambda node, digest, files: added.update(files))
    snapshot = Snapshot("s", "phoenix-920: sealed T accepted T", 7, "")
    made = SimpleNamespace(invocation="its run", manifest="d")
    template = SimpleNamespace(sealed_generation=lambda: made, snapshot=lambda: snapshot)
    build: Any = SimpleNamespace(node=None, template=template, invocation="this run")
    verification.confirm(build, "d")
    assert [*added] == ([record_store.CONFIRMED] if kept else [])
    if kept:
        said = json.loads(added[record_store.CONFIRMED])
        assert (said["invocation"], said["found_accepted_by"]) == ("its run", "this run")


def spoil_record(world: World) -> None:
    world.kept = {**world.kept, "record.json": world.kept["record.json"].replace('"operator": ""', '"operator": "x"')}


def other_snapshot(world: World) -> None:
    world.facts = SnapshotFacts("s", 8, "", {"type": "zfspool", "guid": "9", "createtxg": "2"})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda world: world.config.update(memory=8192), ["configuration memory: 4096 -> 8192"]),
        (lambda world: world.config.update(mp0="p:x,mp=/x"), ["configuration mp0: none -> p:x,mp=/x"]),
        (lambda world: world.snapshot_config.pop("hostname"), ["snapshot config hostname: t -> none"]),
        (other_snapshot, ["snapshot guid: 1 -> 9", "snapshot taken: 7 -> 8"]),
        (lambda world: world.found["packages"].update(bash="5.3"), ["packages bash: 5.2 -> 5.3"]),
        (lambda world: world.found["packages"].update(new="1"), ["packages new: none -> 1"]),
        (lambda world: world.found["template"]["image"].update(digest=""), ["image digest: i@sha256:1 -> none"]),
        (lambda world: world.found["template"]["model"]["files"].clear(), ["model files weights: 1 -> none"]),
        (
            lambda world: world.found["template"]["files"].update({"/etc/docker/daemon.json": "2"}),
            ["files /etc/docker/daemon.json: 1 -> 2"],
        ),
        (lambda world: world.found["template"]["software"].update(docker="27"), ["software docker: 26.1 -> 27"]),
        (lambda world: world.found["kept"].pop("manifest.json"), ["carried manifest.json: "]),
        (lambda world: world.found["kept"].update({"record.json": "0"}), ["carried record.json: "]),
        (spoil_record, ["record record.json: "]),
        (lambda world: world.kept.pop("sealed-record.json"), ["record sealed-record.json: "]),
        (lambda world: world.kept.clear(), ["record /var/lib/phoenix-920/records/", "snapshot taken: none"]),
    ],
)
def test_drift_in_the_template_is_named(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[World], None], said: list[str]
) -> None:
    world = World()
    spoil(world)
    found = world.compare(monkeypatch)
    lines = [str(drift) for drift in found.in_template]
    missing = [each for each in said if not any(line.startswith(each) for line in lines)]
    assert not missing, lines
    assert found.around == []
    assert len({drift.part for drift in found.drifts}) == len({each.split()[0] for each in said})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda world: world.found["around"]["gpus"].pop("1"), "around gpus 1: H100, GPU-1 -> none"),
        (lambda world: world.found["around"].update(driver="590"), "around driver: 580 -> 590"),
        (lambda world: setattr(world, "version", "pve-manager/10 x"), "around pve: pve-manager/9 -> pve-manager/10"),
    ],
)
def test_drift_around_the_template_is_named_apart(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[World], None], said: str
) -> None:
    world = World()
    spoil(world)
    found = world.compare(monkeypatch)
    assert [str(drift) for drift in found.around] == [said]
    assert found.in_template == []


def test_container_that_is_off_is_not_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.running = False
    world.config["memory"] = 8192
    found = world.compare(monkeypatch)
    assert not found.looked_inside
    assert found.lines("configuration") == "configuration memory: 4096 -> 8192"
    assert any("is off" in note for note in found.notes)


def foreign(world: World) -> None:
    world.description = f"by hand, manifest sha256:{world.digest}"


def unnamed(world: World) -> None:
    world.description = "phoenix-920: sealed T image i accepted T"


def lost(world: World) -> None:
    world.kept, world.content = {}, ""


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda world: setattr(world, "there", False), "does not exist"),
        (foreign, "names no manifest"),
        (unnamed, "names no manifest"),
        (lost, "no manifest with sha256"),
    ],
)
def test_nothing_to_compare_with_is_said(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[World], None], said: str
) -> None:
    world = World()
    spoil(world)
    with pytest.raises(BuildError, match=said):
        world.compare(monkeypatch)


# --- outcome and summary ------------------------------------------------------------------------------

AROUND = Drift("around", "kernel", "6.8", "6.9")
INSIDE = Drift("image", "digest", "1", "2")


def compared(*drifts: Drift) -> Comparison:
    return Comparison("pve:n/lxc/920@s", "a" * 64, "b" * 64, looked_inside=True, drifts=list(drifts))


@pytest.mark.parametrize(
    ("drifts", "deep", "passed", "status", "expected"),
    [
        ([], False, True, 0, Outcome.VERIFIED),
        ([AROUND], False, True, 0, Outcome.NOT_REPROVED),
        ([AROUND], True, True, 0, Outcome.VERIFIED),
        ([], False, False, 0, Outcome.PARTIAL),
        ([INSIDE], False, True, 1, Outcome.FAILED),
        ([], False, True, 2, Outcome.ABORTED),
        ([], True, True, 2, Outcome.ABORTED),
    ],
)
def test_outcome(drifts: list[Drift], deep: bool, passed: bool, status: int, expected: Outcome) -> None:
    build = ran(drifts, deep=deep, passed=passed)
    assert outcome.of(build, status) is expected
    words = conclusion.sentence(build, expected)
    assert words.startswith("920@s ") or "920@s" in words
    assert ("kernel changed" in words) == (expected is Outcome.NOT_REPROVED)
    if expected is Outcome.ABORTED:
        assert words == "The run was interrupted; 920@s is accepted, generation 1, as it was before this run."
    if expected in (Outcome.ABORTED, Outcome.PARTIAL):
        assert conclusion.next_step(build, expected).endswith("--verify-deep" if deep else "--verify")
    build.compared.looked_inside = False
    build.channel = Channel("ssh://root@pve", remote=("-o", "BatchMode=yes", "ssh://root@pve"))
    assert ("ssh -t ssh://root@pve 'pct start 920'; pytest " in conclusion.next_step(build, expected)) == (
        expected is Outcome.PARTIAL
    )


@pytest.mark.parametrize(
    ("asked", "passed", "looked_inside", "expected"),
    [
        (True, True, True, Outcome.EXISTING),
        (True, False, True, Outcome.PARTIAL),  # some of the comparison was not selected
        (True, True, False, Outcome.NOT_COMPARED),  # it is off
        (True, False, False, Outcome.NOT_COMPARED),
        (False, False, False, Outcome.PARTIAL),
    ],
)
def test_template_that_is_there_exists_when_it_was_compared(
    asked: bool, passed: bool, looked_inside: bool, expected: Outcome
) -> None:
    build = ran([], passed=passed, mode=mode.BUILD)
    build.compared.looked_inside = looked_inside
    build.compared = build.compared if asked else None
    assert outcome.of(build, 0) is expected
    there = (Outcome.EXISTING, Outcome.NOT_COMPARED)
    words = "was built and accepted before" if expected in there else "is accepted, generation 1, as it was"
    assert f"920@s {words}" in conclusion.sentence(build, expected)


@pytest.mark.parametrize("end", [EndState("", True), EndState(), EndState(unknown="no answer")])
@pytest.mark.parametrize("kind", [mode.VERIFY, mode.BUILD])
def test_nothing_exists_or_is_verified_that_is_gone_at_the_end(end: EndState, kind: mode.Mode) -> None:
    build = ran([], mode=kind)
    build.end = end
    assert outcome.of(build, 0) is Outcome.FAILED
    assert conclusion.sentence(build, Outcome.FAILED).startswith(
        "No check failed, but the node does not confirm the result"
    )


def test_snapshot_that_was_never_accepted_is_not_verified() -> None:
    build = ran([], situation=Situation.SEALED)
    assert conclusion.sentence(build, Outcome.FAILED) == "920@s was sealed but never accepted: its run was interrupted."
    assert conclusion.next_step(build, Outcome.FAILED) == "run the checks after sealing: pytest SUITE"


def test_run_without_a_check_says_nothing_of_the_template() -> None:
    build = ran([], ledger=Ledger([]))
    assert outcome.of(build, pytest.ExitCode.NO_TESTS_COLLECTED) is Outcome.FAILED
    assert conclusion.sentence(build, Outcome.FAILED) == "No check was selected; nothing was checked."


def test_run_whose_checks_were_all_skipped_says_why() -> None:
    """`-k docker` on an accepted template said that checks had failed, and to fix the first one."""
    ledger = Ledger([Check("a", "image"), Check("b", "image")])
    for name in ("a", "b"):
        ledger._results[name] = CheckResult(name, "image", "A.", "skipped", "920@s was built and accepted before")
    build = ran([], mode=mode.BUILD, ledger=ledger)
    assert outcome.of(build, 0) is Outcome.FAILED
    said = "No selected check ran: 920@s was built and accepted before; nothing was changed."
    assert conclusion.sentence(build, Outcome.FAILED) == said
    assert conclusion.next_step(build, Outcome.FAILED) == "run every check: pytest SUITE"


ACCEPTED = Snapshot("s", "phoenix-920: sealed x generation 1 run y manifest z accepted w", 1, "")


def ran(drifts: list[Drift], *, deep: bool = False, passed: bool = True, **more: object) -> Any:
    """A verification that has ended, or another run."""
    stages = ("preflight", "serving", "tidy", "seal", "recorded", "accepted")
    ledger = Ledger([Check(stage, stage) for stage in stages])
    has_heard(ledger, {"recorded": "passed" if passed else "skipped", "serving": "passed"})
    usual = {
        "mode": mode.VERIFY_DEEP if deep else mode.VERIFY,
        "begun": True,
        "uncollected": False,
        "refused": "",
        "timed_out": False,
        "ledger": ledger,
        "compared": compared(*drifts),
        "situation": Situation.ACCEPTED,
        "template": SimpleNamespace(ctid=920, snapshot_name="s"),
        "channel": Channel("local"),
        "end": EndState(exists=True, running=True, snapshot=ACCEPTED, ours=True),
        "found_snapshot": ACCEPTED,
        "accept": None,
        "sealing": [],
        "declaration": SimpleNamespace(containers={}),
        "family": None,
        "again": lambda *more: " ".join(("pytest", "SUITE", *more)),
        "pending": Pending(),
        "only_reads": True,
        "selected": [],
    }
    build = SimpleNamespace(**(usual | more))
    build.options = [build.mode.option] if build.mode.option else []
    return build


def test_summary_holds_what_its_standard_asks_for() -> None:
    """The fields that the statement (in-toto v1) and the predicate (SLSA's VSA v1) must have."""
    document = statements.verification(compared(AROUND), Path(__file__), passed=True, served=False)
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert document["predicateType"] == "https://slsa.dev/verification_summary/v1"
    assert document["subject"] == [{"name": "pve:n/lxc/920@s", "digest": {"sha256": "a" * 64}}]
    predicate = document["predicate"]
    assert {"verifier", "timeVerified", "resourceUri", "policy", "verificationResult", "verifiedLevels"} <= set(
        predicate
    )
    assert (predicate["verificationResult"], predicate["verifiedLevels"][1]) == ("PASSED", statements.NOT_REPROVED)
    assert not any(level.startswith("SLSA_") for level in predicate["verifiedLevels"])


@pytest.mark.parametrize(
    ("drifts", "passed", "looked_inside"), [([INSIDE], True, True), ([], False, True), ([], True, False)]
)
def test_summary_never_passes_what_failed_or_was_not_seen(
    drifts: list[Drift], passed: bool, looked_inside: bool
) -> None:
    found = compared(*drifts)
    found.looked_inside = looked_inside
    predicate = statements.verification(found, Path(__file__), passed=passed, served=True)["predicate"]
    assert (predicate["verificationResult"], predicate["verifiedLevels"]) == ("FAILED", ["FAILED"])
    assert len(predicate[statements.DRIFT]) == len(drifts)


# --- the command line ---------------------------------------------------------------------------------


def collected(*words: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests_920",
        "--collect-only",
        "-q",
        "-overbosity_test_cases=auto",
        *words,
    ]
    return subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=60, check=False)


def test_verify_selects_what_only_reads() -> None:
    names = {line.partition("::")[0] for line in collected("--verify").stdout.splitlines() if "::" in line}
    assert {Path(name).name for name in names} == {
        "test_010_preflight.py",
        "test_070_sealed.py",
        "test_075_recorded.py",
    }


def test_verify_deep_also_serves() -> None:
    shallow, deep = (
        {line for line in collected(word).stdout.splitlines() if "::" in line} for word in ("--verify", "--verify-deep")
    )
    assert shallow < deep
    assert any("test_server_answers[gpu1]" in name for name in deep)
    assert not any("test_060_seal" in name or "pulled" in name for name in deep - shallow)


@pytest.mark.parametrize("words", [("--verify", "--rebuild"), ("--verify-deep", "--rebuild-clone")])
def test_verify_with_a_rebuild_is_refused(words: tuple[str, ...]) -> None:
    done = collected(*words)
    assert done.returncode == 4
    assert "changes nothing" in done.stderr


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (("--accept", "950"), {"010_preflight", "070_sealed", "075_recorded", "080_clone_acceptance"}),
        (("--verify-parent",), {"010_preflight", "030_inherited_stack", "035_lasting_gpus"}),
    ],
)
def test_runs_about_clones_select_theirs(words: tuple[str, ...], files: set[str]) -> None:
    names = {line.partition("::")[0] for line in collected(*words).stdout.splitlines() if "::" in line}
    assert {Path(name).stem.removeprefix("test_") for name in names} == files


def test_no_clone_leaves_that_stage_out() -> None:
    listing = collected("--no-clone").stdout
    assert "test_090_accepted" in listing
    assert "test_080" not in listing


@pytest.mark.parametrize(
    ("kind", "accepted", "runs", "asked"),
    [
        (mode.VERIFY, False, True, 3),
        (mode.VERIFY, True, False, 0),
        (mode.BUILD, True, True, 3),
        (mode.BUILD, False, True, None),
        (mode.REBUILD, True, True, None),
        (mode.VERIFY_DEEP, True, True, None),
    ],
)
def test_only_what_will_be_compared_at_once_is_asked_ahead(
    kind: mode.Mode, accepted: bool, runs: bool, asked: int | None
) -> None:
    """What is asked of the container: it is not started for that, and a build may still change it."""
    questions: list[CommandRequest] = []
    channel = SimpleNamespace(prefetch=lambda *each: questions.extend(each), open=lambda: None)
    inside = SimpleNamespace(channel=channel)
    build: Any = SimpleNamespace(
        mode=kind,
        template=SimpleNamespace(ctid=920, snapshot_name="snap", container=inside),
        settings=SimpleNamespace(server_mounts=(), keep_model="", vllm_image="i", test_model="m", ready_deadline=9.0),
        channel=SimpleNamespace(prefetch=lambda *each: Future[list[CommandResult]]()),
        node=SimpleNamespace(quick=9.0),
    )
    sockets = b"Num\n0000: 00000002 00000000 00010000 0001 01 9 @/var/lib/lxc/920/command\n"
    file = f"rootfs: a\n[snap]\n#it is{' accepted now' * accepted}\nsnaptime: 7\n"
    found = verification._ask_ahead(
        build, CommandResult(0, sockets * runs, b"", 0.0), CommandResult(0, file.encode(), b"", 0.0)
    )
    assert (len(questions) if found else None) == asked
