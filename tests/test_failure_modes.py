"""The catalogue of failure modes: each was seen to match, and does not match what only looks alike."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from fixtures.diagnosing import failure_modes
from fixtures.diagnosing.evidence import bounded
from fixtures.diagnosing.failure_modes import SAID, CatalogueError, catalogue, diagnose, fits, page, recognise

TOP = Path(__file__).parent.parent
DATA = TOP / "tests/data/diagnosis"
RED_LOGS = {
    "bad-flag": ["D12"],
    "bad-local-path": ["D9"],
    "port-in-use-nethost": ["C3"],
    "wrong-model-online": ["D9"],
    "wrong-model-offline": ["D9"],
    "maxlen-too-big": ["D13"],
}


def cases(name: str) -> list[tuple[str, dict[str, str]]]:
    """The cases of a file: where each is from, and its texts by their kind."""
    text = (DATA / name).read_text()
    pairs = [case.split("\n", 1) for case in re.split(r"^=== ", text, flags=re.MULTILINE) if case]
    return [(source, _texts(body)) for source, body in pairs]


def _texts(body: str) -> dict[str, str]:
    _, *parts = re.split(r"^--- (\w+)\n", body, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize("identity", catalogue())
def test_mode_is_recognised(identity: str) -> None:
    for source, texts in cases(f"{identity}.match.txt"):
        found = diagnose(texts)
        assert found, source
        assert found[0].mode.id == identity, source
        assert all(line in texts[kind] for kind, line in found[0].places)


@pytest.mark.parametrize("identity", catalogue())
def test_each_signature_was_seen_to_match(identity: str) -> None:
    mode = catalogue()[identity]
    seen = [texts for _, texts in cases(f"{identity}.match.txt")]
    idle = [signature for signature in mode.signatures if not any(fits(mode, signature, texts) for texts in seen)]
    assert not idle


@pytest.mark.parametrize("identity", catalogue())
def test_what_looks_alike_is_not_taken_for_it(identity: str) -> None:
    innocent = cases(f"{identity}.innocent.txt")
    assert innocent
    for source, texts in innocent:
        assert recognise(catalogue()[identity], texts) is None, source


def test_no_case_is_of_a_mode_that_is_gone() -> None:
    assert {path.name.partition(".")[0] for path in DATA.glob("*.txt")} - {"green-evidence"} == set(catalogue())


@pytest.mark.parametrize("name", ["good-start-cpu.log", "good-start-h100.log"])
def test_log_of_a_good_start_matches_nothing(name: str) -> None:
    text = (DATA / name).read_text()
    assert diagnose(dict.fromkeys(SAID, text)) == []


def test_what_the_machines_say_when_all_is_well_matches_nothing() -> None:
    (_, texts), *_ = cases("green-evidence.txt")
    assert set(texts) >= {"node", "docker", "container", "journal"}
    failures = (
        "",
        "AssertionError: assert 1 == 2",
        "nvidia-smi failed",
        "the server died",
        "took longer than its 60 s",
    )
    assert [diagnose({**texts, "failure": failure}) for failure in failures] == [[]] * len(failures)


@pytest.mark.parametrize("name", RED_LOGS)
def test_whole_log_of_a_failed_start(name: str) -> None:
    failure = "the server died while /health to answer 200 was waited for (exit status 1); its log says why"
    found = diagnose({"failure": failure, "log": (DATA / f"red-{name}.log").read_text()})
    assert [finding.mode.id for finding in found] == RED_LOGS[name]


def test_nearest_to_the_failure_comes_first() -> None:
    texts = {"log": "CUDA out of memory", "failure": "port 8000 is held", "kernel": "NVRM: Xid (PCI:0): 79, fallen"}
    assert [finding.mode.id for finding in diagnose(texts)] == ["C3", "D3", "B11"]


def test_signatures_are_quick_on_the_longest_evidence() -> None:
    text = bounded("x" * 10**6 + "\n" + "waited registry docker pull CUDA lxc.a " * 10**5)
    started = time.process_time()
    assert diagnose(dict.fromkeys(failure_modes.KINDS, text)) == []
    assert time.process_time() - started < 2


def test_every_mode_of_the_list_is_there() -> None:
    listed = [*(f"A{n}" for n in range(1, 14)), *(f"B{n}" for n in range(1, 14)), *(f"C{n}" for n in range(1, 5))]
    assert {*listed, *(f"D{n}" for n in range(1, 12))} <= set(catalogue())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('mend = "', 'cure = "', "A1: a mode has confirm"),
        ("{ said = ", "{ rumour = ", "A1: a signature is for some of"),
        (r"reopen fd \\d+", "reopen fd (", "A1: "),
        ('id = "A2"', 'id = "A1"', "ids are there twice: ['A1']"),
    ],
)
def test_mistake_in_the_catalogue_is_named(
    old: str, new: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = failure_modes.CATALOGUE.read_text().replace(old.replace("\\\\", "\\"), new, 1)
    (tmp_path / "modes.toml").write_text(text)
    monkeypatch.setattr(failure_modes, "CATALOGUE", tmp_path / "modes.toml")
    with pytest.raises(CatalogueError, match=re.escape(said)):
        catalogue.__wrapped__()


def test_page_is_up_to_date() -> None:
    """It is made by `python -m fixtures.diagnosing.failure_modes > docs/troubleshooting.md`."""
    command = [sys.executable, "-m", "fixtures.diagnosing.failure_modes"]
    made = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=True).stdout
    assert (TOP / "docs/troubleshooting.md").read_text() == made == page()


def test_lines_are_fit_for_a_terminal() -> None:
    """One line each, without the full stop that the page adds."""
    for mode in tomllib.loads(failure_modes.CATALOGUE.read_text())["mode"]:
        for field in ("what", "why", "mend"):
            assert "\n" not in mode[field]
            assert not mode[field].endswith(".")


def test_words_of_our_own_checks_are_still_theirs() -> None:
    """A signature for a check of this suite is of no use when that check has come to say something else."""
    files = [*(TOP / "tests_920").glob("*.py"), *(TOP / "fixtures").rglob("*.py")]
    source = "".join(path.read_text() for path in files if path.name != "failure_modes.py")
    source = re.sub(r"[\"']\s*\n\s*f?[\"']", "", source).replace('\\"', '"').replace("\\'", "'")
    for mode in catalogue().values():
        for origin, texts in cases(f"{mode.id}.match.txt"):
            if not (named := re.match(r"this suite: (test_\w+)", origin)):
                continue
            assert f"def {named[1]}(" in source, (mode.id, origin)
            (_, line), *_ = diagnose(texts)[0].places
            words = [part for signature in mode.signatures for part in literals(signature.get("failure"))]
            mine = [part for part in words if part in line and not part.startswith("assert")]  # the comparison itself
            assert not mine or any(part in source for part in mine), (mode.id, origin)


def literals(pattern: re.Pattern[str] | None) -> list[str]:
    """The plain words of a pattern that are long enough to be found in a source."""
    plain = re.sub(r"\\\w", "|", pattern.pattern) if pattern else ""  # \b and the like are no words
    return re.findall(r"[A-Za-z' ,:]{6,}", plain)
