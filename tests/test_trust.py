"""Whole runs of the suite on a node where every check passes: what weakens a proof, or turns it into none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from fixtures.record.exports import statements
from fixtures.record.model import Verdict
from fixtures.run.mode import Outcome
from fixtures.run.stages import declared_checks
from tests.mutations.world import PCI, UUIDS
from tests.suite_run import TOP, GoodSuite, SuiteRun

NAME = "vllm-base-snapshot"
DECLARED = [each.name for each in declared_checks(TOP / "tests_920/CHECKS", (0, 1)) if each.role != "family"]
FAILS = """
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    if item.name == {name!r}:
        raise AssertionError("seen: nothing; expected: something")
"""
SPOILS = """
from tests import good_node
def spoil(what, answer):
    said = answer[1].replace(b"NVIDIA H100 80GB HBM3", b"NVIDIA H100 SIMULATED")
    return answer[0], said.replace(b'"unread": []', b'"unread": ["/srv", "/opt"]'), answer[2]
good_node.HTTP.spoil = spoil
"""
INCONCLUSIVE = """
import pytest
from fixtures.base.errors import Unseen
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    if item.name == "test_docker_is_running":
        # as the check itself would say it
        exec(compile("raise Unseen('unknown: whether it runs')", str(item.path), "exec"), {"Unseen": Unseen})
"""
FAILS_THE_RUN = """
import pytest
@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session):
    done = yield
    session.testsfailed += 1
    return done
"""
NO_SNAPSHOT = """
from tests.model.node import Refused
from tests.mutations.world import WorldNode
def refused(*_):
    raise Refused("snapshot feature is not available")
WorldNode.do_snapshot = refused
"""
SIMULATED_NODE = """
from tests.mutations.world import WorldNode
WorldNode.do_version = lambda *_: "pve-manager/9.2.11/lab (running kernel: 6.17.2-1-pve)"
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a template was built of which nothing weakens the proof: with a reference, and again with it."""
    first, second = (tmp_path_factory.mktemp(name) for name in ("measured", "built"))
    assert GoodSuite(first).run("--write-reference").status == 0
    suite = GoodSuite(second, first, fresh=True)
    run = suite.run()
    assert (run.status, run.record.outcome, run.record.verdict) == (0, Outcome.BUILT, Verdict.PASSED), run.output
    lines = [line.partition("  ")[0] for line in run.output.splitlines()]
    assert [stage for stage in dict.fromkeys(one.stage for one in run.record.checks) if stage not in lines] == []
    return second


@pytest.fixture
def fresh(tmp_path: Path, built: Path) -> GoodSuite:
    """Before the build."""
    return GoodSuite(tmp_path, built, fresh=True)


@pytest.fixture
def there(tmp_path: Path, built: Path) -> GoodSuite:
    """After it."""
    return GoodSuite(tmp_path, built)


def told(run: SuiteRun) -> list[tuple[str, str]]:
    return [(check.name, check.verdict) for check in run.record.checks]


def predicate(run: SuiteRun, name: str = "record") -> dict[str, Any]:
    document: Any = run.document(f"{name}.intoto.json")
    return dict(document["predicate"])


def result(run: SuiteRun) -> tuple[int, Outcome, Verdict, str]:
    """Exit status, outcome, verdict, and the result for other programs."""
    return run.status, run.record.outcome, run.record.verdict, predicate(run)["result"]


def verified(run: SuiteRun) -> str:
    return str(predicate(run, "vsa")["verificationResult"])


def description(suite: GoodSuite) -> str:
    with suite.node_as_it_is() as node:
        return str(node.guests[920].snapshots[NAME].description)


def waivers(suite: GoodSuite, *checks: str) -> tuple[str, str]:
    """The option that accepts failures of checks, sealed too."""
    text = '[[waiver]]\ncheck = "{}"\nreason = "its owner knows"\nuntil = 2999-12-31\nseals = true\n'
    path = suite.top / "waivers.toml"
    path.write_text("".join(text.format(check) for check in checks))
    return "-o", f"waivers={path}"


# --- nothing weakens it -------------------------------------------------------------------------------


def test_sound_node_is_built_and_found_again(there: GoodSuite) -> None:
    assert result(there.run()) == (0, Outcome.EXISTING, Verdict.PASSED, "PASSED")
    run = there.run("--verify")
    assert result(run) == (0, Outcome.VERIFIED, Verdict.PASSED, "PASSED")
    assert (verified(run), predicate(run, "vsa")[statements.CAVEATS]) == ("PASSED", [])
    assert " in spite of " not in description(there)


@pytest.mark.parametrize("words", [("-k", "not gpu"), ("--deselect", "tests_920/test_050_serving.py")])
def test_part_of_a_rebuild_never_seals(there: GoodSuite, words: tuple[str, str]) -> None:
    with there.node_as_it_is() as node:
        before = node.guests[920].snapshots
    run = there.run("--rebuild", *words)
    assert run.status == 1, run.output
    said = " ".join(run.output.split())
    assert "not sealed, because of earlier checks: " in said
    assert " not run (" in said
    with there.node_as_it_is() as node:
        assert node.guests[920].snapshots == before


# --- order --------------------------------------------------------------------------------------------


CACHE = ("-p", "cacheprovider", "-p", "stepwise", "-o")


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory, built: Path) -> Path:
    """The cache of pytest after a run in which a late check failed; half of the checks are new to it."""
    suite = GoodSuite(tmp_path_factory.mktemp("failed"), built, fresh=True)
    cache = suite.top / "cache"
    run = suite.run(*CACHE, f"cache_dir={cache}", "--sw", plugin=FAILS.format(name="test_server_answers[gpu1]"))
    assert (bool(run.status), run.record.verdict) == (True, Verdict.FAILED), run.output
    nodes = cache / "v/cache/nodeids"
    nodes.write_text(json.dumps(json.loads(nodes.read_text())[:60]))
    return cache


@pytest.mark.parametrize(("words", "env"), [(("--ff", "--nf"), {}), (("--nf",), {}), ((), {"PYTEST_ADDOPTS": "--ff"})])
def test_failed_or_new_first_changes_neither_order_nor_verdict(
    fresh: GoodSuite, failed: Path, words: tuple[str, ...], env: dict[str, str]
) -> None:
    """Where checks pass."""
    cache = shutil.copytree(failed, fresh.top / "cache")
    run = fresh.run(*CACHE, f"cache_dir={cache}", *words, **env)
    assert result(run) == (0, Outcome.BUILT, Verdict.PASSED, "PASSED"), run.output
    assert [name for name, _ in told(run) if name in DECLARED] == DECLARED


@pytest.mark.parametrize("word", ["--lf", "--sw"])
def test_failed_only_or_on_from_there_is_a_part(fresh: GoodSuite, failed: Path, word: str) -> None:
    cache = shutil.copytree(failed, fresh.top / "cache")
    run = fresh.run(*CACHE, f"cache_dir={cache}", PYTEST_ADDOPTS=word)
    assert run.record.outcome in (Outcome.PARTIAL, Outcome.FAILED, Outcome.ABORTED), run.output
    assert run.record.verdict is not Verdict.PASSED
    with fresh.node_as_it_is() as node:
        assert 920 not in node.guests or not node.guests[920].snapshots


# --- what weakens a proof -----------------------------------------------------------------------------

WAIVED = "test_080_clone_acceptance.py::test_clone_serves"
SEALED, ACCEPTED = " sealed ", " accepted "
WEAK = {
    "with a clone": (
        FAILS.format(name="test_clone_serves") + SPOILS + SIMULATED_NODE,
        (),
        {
            "1 waived failure": ACCEPTED,
            "simulated GPU": SEALED,
            "simulated Proxmox VE node": SEALED,
            "search for secrets incomplete": SEALED,
        },
    ),
    "without a clone": (
        INCONCLUSIVE,
        ("--no-clone", "-o", "fingerprint=off", "-o", "expected_word="),
        {
            "no clone was tried": SEALED,
            "answers not compared token by token": SEALED,
            "no expected word": SEALED,
            " inconclusive checks": SEALED,
        },
    ),
}


@pytest.mark.parametrize("name", WEAK)
def test_what_weakens_a_build_is_said_then_and_by_every_later_run(fresh: GoodSuite, name: str) -> None:
    """In the snapshot's description, and in each view of the record: of that run, and of those that find it."""
    plugin, words, weak = WEAK[name]
    run = fresh.run(*words, *(waivers(fresh, WAIVED) if "waived" in str(weak) else ()), plugin=plugin)
    assert result(run) == (0, Outcome.BUILT, Verdict.WARNED, "WARNED"), run.output
    said_everywhere(run, weak)
    sealed, _, accepted = description(fresh).partition(ACCEPTED)
    for what, when in weak.items():
        assert what in (sealed if when == SEALED else accepted).partition("in spite of ")[2]
        assert any(what in each for each in run.record.caveats), run.record.caveats
    for mode in ((), ("--verify",)):
        run = fresh.run(*mode)
        good = (Outcome.EXISTING, Outcome.VERIFIED, Outcome.NOT_REPROVED)
        assert (run.status, run.record.outcome in good, run.record.verdict) == (0, True, Verdict.WARNED), run.output
        for what, when in weak.items():
            said = [each for each in run.record.caveats if each.startswith(f"{when.strip()} despite ")]
            assert [what in each for each in said] == [True]
            assert said[0] in predicate(run, "vsa")[statements.CAVEATS]
        said_everywhere(run, weak)
        assert verified(run) == "PASSED", "it is as its record says"


def said_everywhere(run: SuiteRun, what: Iterable[str]) -> None:
    """Terminal, page, summary, JUnit, CTRF, in-toto's test result, and provenance name it."""
    suite = ElementTree.parse(run.folder / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    views = {
        "terminal": run.output,
        **{file: (run.folder / file).read_text().replace("\\", "") for file in ("summary.md", "report.html")},
        "junit": " ".join(each.attrib["value"] for each in suite.iterfind("properties/property[@name='caveat']")),
        "ctrf": str(run.document("ctrf.json")["results"]["extra"]["caveats"]),  # type: ignore[index]
        "test result": str(predicate(run)["configuration"][0]["annotations"]["caveats"]),
        "provenance": str(predicate(run, "provenance")["buildDefinition"]["internalParameters"]["caveats"]),
    }
    assert [(view, each) for view, text in views.items() for each in what if each not in text] == []


def test_part_of_a_run_is_said_everywhere(there: GoodSuite) -> None:
    run = there.run("-k", "test_node_is_proxmox")
    assert result(run) == (0, Outcome.PARTIAL, Verdict.WARNED, "WARNED")
    said_everywhere(run, ["partial"])
    run = there.run("--verify", "-k", "test_record_is_kept")
    assert (result(run), verified(run)) == ((0, Outcome.PARTIAL, Verdict.WARNED, "WARNED"), "FAILED")


def test_what_is_inconclusive_makes_a_proof_partial(there: GoodSuite) -> None:
    """Also with a simulated GPU, where it would be excused in a build."""
    plugin = INCONCLUSIVE.replace("test_docker_is_running", "test_clone_serves").replace("Unseen", "Inconclusive")
    plugin += "\nfrom fixtures.run.build import Build\nBuild.simulated = property(lambda _: True)\n"
    run = there.run("--verify-deep", plugin=plugin)
    assert result(run) == (0, Outcome.PARTIAL, Verdict.WARNED, "WARNED"), run.output
    (check,) = (check for check in run.record.checks if check.name == WAIVED)
    assert (check.verdict, check.reason) == ("inconclusive", "unknown: whether it runs")
    assert "Inconclusive: unknown: whether it runs." in run.output
    assert "unknown: whether it runs" in (run.folder / "summary.md").read_text()
    assert "unknown: whether it runs" in (run.folder / "report.html").read_text().partition('<h2 id="time">')[0]


def test_second_seal_in_spite_of_another_failure_says_so(fresh: GoodSuite) -> None:
    """A run that goes on where another has sealed knows nothing of what that one was sealed in spite of."""
    checks = ("test_057_tidy.py::test_nothing_typed_is_inside", WAIVED)
    plugin = FAILS.format(name="test_nothing_typed_is_inside")
    run = fresh.run(*waivers(fresh, *checks), "--deselect", f"tests_920/{DECLARED[-1]}", plugin=plugin)
    assert result(run) == (1, Outcome.FAILED, Verdict.FAILED, "FAILED"), run.output
    run = fresh.run(*waivers(fresh, *checks), plugin=FAILS.format(name="test_clone_serves"))
    assert result(run) == (0, Outcome.BUILT, Verdict.WARNED, "WARNED"), run.output
    assert description(fresh).count("in spite of 1 waived failure") == 2


# --- which GPU ----------------------------------------------------------------------------------------


TURNED = """
import re
from tests import good_node
from tests.mutations import world
straight = world.card
world.card = lambda index: re.sub("<minor_number>.", f"<minor_number>{1 - index}", straight(index))
"""
FAULTY = (
    TURNED
    + """
def spoil(what, answer):
    text = answer[1].decode(errors="surrogateescape")
    bad = f"<uuid>{world.UUIDS[0]}" in text and f"<uuid>{world.UUIDS[1]}" not in text
    text = text.replace("<gpu_recovery_action>None", "<gpu_recovery_action>Reset") if bad else text
    return answer[0], text.encode(errors="surrogateescape"), answer[2]
good_node.HTTP.spoil = spoil
"""
)


SWAPPED = """
from tests import good_node
from tests.mutations.world import UUIDS
def spoil(what, answer):
    one, other = (each.removeprefix("GPU-").encode() for each in UUIDS)
    if " in 920" in what:
        answer = answer[0], answer[1].replace(one, b"?").replace(other, one).replace(b"?", other), answer[2]
    return answer
good_node.HTTP.spoil = spoil
"""


def turned(suite: GoodSuite) -> tuple[str, str]:
    """The option for a declaration whose devices are assigned in the other order."""
    declared = json.loads((TOP / "phoenix_lxc_configs.json").read_text())
    for ctid in ("903", "920"):
        declared["lxc_configs"][ctid]["gpu_assignment"] = "1,0"
    path = suite.top / "declared.json"
    path.write_text(json.dumps(declared))
    return "-o", f"lxc_configs={path}"


def test_fault_of_one_card_is_reported_of_that_card(fresh: GoodSuite) -> None:
    """Where devices, assignment and PCI addresses have different orders: card 1 is the first that a container lists."""
    run = fresh.run(*turned(fresh), plugin=FAULTY)
    assert run.status == 1, run.output
    (bad,) = (check for check in run.record.checks if check.verdict == "failed")
    assert bad.name == "test_030_inherited_stack.py::test_gpu_is_healthy[gpu1]"
    card = f"GPU 1 (NVIDIA H100 80GB HBM3, {PCI[0]}, {UUIDS[0]})"
    assert f"; card: {card}; run: nvidia-smi -q -i {UUIDS[0]}" in bad.reason
    assert card in run.output
    assert UUIDS[1] not in bad.reason
    assert not [check.reason for check in run.record.checks if check.blocked_by and "card:" in check.reason]


def test_cards_that_are_swapped_inside_are_found_by_the_nodes_list(fresh: GoodSuite) -> None:
    """Though all that is asked inside is of one mind."""
    run = fresh.run(plugin=SWAPPED)
    assert run.status == 1, run.output
    (bad,) = (check for check in run.record.checks if check.verdict == "failed")
    assert bad.name == "test_030_inherited_stack.py::test_gpus_are_listed"
    assert f"GPU 0 (NVIDIA H100 80GB HBM3, {PCI[0]}, {UUIDS[1]}), on the node GPU 0 (" in bad.reason
    with fresh.node_as_it_is() as node:
        assert not node.guests[920].snapshots


# --- a snapshot that somebody else made ---------------------------------------------------------------


@pytest.fixture
def foreign(there: GoodSuite) -> GoodSuite:
    """The same, but somebody else has taken the snapshot."""
    with there.node_as_it_is() as node:
        node.guests[920].snapshots[NAME].description = "mine, by hand"
    return there


def test_foreign_snapshot_is_there_and_nothing_more(foreign: GoodSuite) -> None:
    """That it exists is what was asked for (0); no view says that anything of it was proved."""
    run = foreign.run()
    assert result(run) == (0, Outcome.UNMANAGED, Verdict.WARNED, "WARNED")
    said_everywhere(run, ["unmanaged"])
    assert not (run.folder / "vsa.intoto.json").exists()
    assert not any(subject.name.startswith("pve:") for subject in run.record.subjects)
    assert description(foreign) == "mine, by hand"


def test_template_that_was_cloned_by_hand_has_its_own_mac_address(foreign: GoodSuite) -> None:
    """Each clone gets one, and the declared one is a placeholder: it was refused with an advice that is refused too."""
    with foreign.node_as_it_is() as node:
        guest = node.guests[920]
        guest.description = ""
        for config in (guest.config, guest.snapshots[NAME].config):
            config["net0"] = config["net0"].replace("52:54:00:AA:BB:D1", "BC:24:11:17:DC:40")
        for gpu in ("dev0", "dev1"):
            del guest.snapshots[NAME].config[gpu]
    run = foreign.run()
    assert result(run) == (0, Outcome.UNMANAGED, Verdict.WARNED, "WARNED")
    assert f"920@{NAME} passes no GPU, so its clones have none, unlike container 920" in run.output
    with foreign.node_as_it_is() as node:
        node.guests[920].snapshots[NAME].config["memory"] = "1024"
    run = foreign.run()
    assert (run.status, "memory 1024 → 4096; expected no difference" in run.output) == (1, True), run.output
    assert "--rebuild" not in run.output


def test_gpus_that_only_a_foreign_snapshot_has_are_none_of_the_container(foreign: GoodSuite) -> None:
    """Lines that were appended to the file belong to its last section; the template was said to be there."""
    with foreign.node_as_it_is() as node:
        for gpu in ("dev0", "dev1"):
            del node.guests[920].config[gpu]
    run = foreign.run()
    assert (run.status, run.record.outcome) == (1, Outcome.FAILED)
    assert "gives these GPUs to a snapshot, but not to container 920: ['[vllm-base-snapshot] dev0: " in run.output


def test_snapshot_of_another_is_not_to_be_rebuilt(foreign: GoodSuite) -> None:
    """That is refused; the comparison advised it twice."""
    run = foreign.run("--verify")
    assert "--rebuild" not in run.output
    assert f"next:    if you do not need it: pct delsnapshot 920 {NAME}; " in run.output


def test_parent_that_is_missing_is_named_once(fresh: GoodSuite) -> None:
    """A check of its device rules said so too."""
    run = fresh.run(plugin="from tests.good_node import NODE\nNODE.guests.pop(903)")
    assert [one.name for one in run.record.checks if one.verdict == "failed"] == [
        "test_010_preflight.py::test_parent_is_as_declared"
    ]


def test_plugin_that_fails_a_run_is_told_from_a_check(there: GoodSuite) -> None:
    """As pytest-cov does below its fail_under; the sentence said that checks had failed."""
    run = there.run(plugin=FAILS_THE_RUN)
    assert run.status == 1, run.output
    assert run.record.sentence.startswith("No check failed, but a plugin of pytest failed the run")


def test_step_of_sealing_that_fails_has_its_cause(fresh: GoodSuite) -> None:
    """It was found for the check that takes the step, and the step stood before it without one."""
    run = fresh.run(plugin=NO_SNAPSHOT)
    finding = run.output.partition("=== findings ===")[2].partition("=== outcome")[0]
    assert "1. seal: The snapshot vllm-base-snapshot-g1 was taken.\n" in finding
    assert "\n   A5 The storage can't snapshot this container\n" in finding
    assert "record.json" not in finding


@pytest.mark.parametrize(
    "words", [("--verify",), ("--verify-deep",), ("--rebuild",), ("--rebuild-clone",), ("--accept", "950")]
)
def test_nothing_is_proved_of_a_foreign_snapshot(foreign: GoodSuite, words: tuple[str, ...]) -> None:
    run = foreign.run(*words)
    assert run.status == 1, run.output
    assert (run.record.verdict, predicate(run)["result"]) == (Verdict.FAILED, "FAILED")
    assert not (run.folder / "vsa.intoto.json").exists() or verified(run) == "FAILED"
    assert description(foreign) == "mine, by hand"
