"""Regular expressions and readers of foreign text: each takes linear time for its own worst input."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from fixtures.base.redaction import Redactor
from fixtures.base.text import beginning, clean, ending, inert, plain, short, tail
from fixtures.diagnosis import evidence, failure_modes, words
from fixtures.proxmox import conf, pmxcfs, volume, web
from fixtures.serving import client, image, vllm
from tests import patterns
from tests.patterns import Pattern

LENGTH = 2**20  # characters
SECONDS = 0.25  # of processor time for them
GENEROUS = 8  # times as long is still linear; a quadratic pattern takes hours
SAMPLE = LENGTH // 64  # by which the inputs of a pattern are compared
SHARE = GENEROUS * SECONDS / 64 * 4  # of the time; a clock may tick only a hundred times a second
# Patterns that no call names in its source, and what they are.
ELSEWHERE: dict[str, list[Any]] = {
    "fixtures/diagnosis/failure_modes.py: re.compile(text, re.IGNORECASE | re.MULTILINE)": [],  # test_catalogue_...
    "fixtures/diagnosis/failure_modes.py: re.compile(each.pop('said'), re.IGNORECASE)": [],  # the same
    "fixtures/base/redaction.py: re.compile('|'.join(map(re.escape, longest_first)))": [],  # test_reader_...
    "fixtures/gpu/health.py: re.fullmatch(bad, values[at])": ["Yes|.{0,40}(?:Reset|Drain).{0,40}"],
    "fixtures/gpu/health.py: re.fullmatch(states, both)": [
        "Enabled (?!Disabled).{0,40}",
        "(?!Enabled).{0,40} Enabled",
    ],
    "fixtures/proxmox/volume.py: re.fullmatch(own, line.rstrip())": [
        r"pool/((?:subvol|basevol|vm|base)-920-[^@/]+)",
        r"(?:images/)?(920/[^@/]+|(?:subvol|basevol|vm|base)-920-[^@/]+)",
        r"\A[^:]+:(\S+)\s.*\s920",
    ],
    "fixtures/serving/vllm.py: re.finditer(pattern, line)": [pattern for _, pattern in vllm.PHASES],
    "fixtures/serving/vllm.py: re.search(words, log)": list(vllm.TOOK.values()),
    "lab/pve/schema.py: re.fullmatch(pattern, value)": [],  # of options of a command line
    "lab/pve/schema.py: re.fullmatch(self.pattern, value)": [],
}
FOUND, UNKNOWN = patterns.collect()


class LateError(Exception):
    """A pattern takes longer than any linear one would."""


@contextmanager
def processor_time(limit: float) -> Iterator[list[float]]:
    """Measures this process alone, whatever else the machine does; what takes longer is ended."""

    def stop(*_: object) -> None:
        raise LateError

    before, spent = signal.signal(signal.SIGPROF, stop), [0.0]
    signal.setitimer(signal.ITIMER_PROF, limit)
    begun = time.process_time()
    try:
        yield spent
    except LateError:
        pass
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        spent[0] = time.process_time() - begun


def worst(pattern: Pattern) -> tuple[float, tuple[str, str, str]]:
    """The most processor time that a pattern takes for a sample, relative to what it may, and for which."""
    most = (0.0, ("", "a", ""))
    for made in patterns.worst(pattern):
        with processor_time(4 * SHARE) as spent:
            pattern.apply(patterns.filled(*made, SAMPLE))
        most = max(most, (spent[0] / SHARE, made))
        if most[0] > 1:
            break
    return most


def test_every_pattern_is_known() -> None:
    """A pattern that is made at run time is listed here, with its worst input or the test that has it."""
    assert {*UNKNOWN} == {*ELSEWHERE}
    assert len(FOUND) > 80


LISTED = [
    Pattern(f"{place.partition(':')[0]}:{pattern[:30]!r}", "finditer", re.compile(pattern))
    for place, forms in ELSEWHERE.items()
    for pattern in forms
]


@pytest.mark.parametrize("pattern", FOUND + LISTED, ids=lambda each: f"{each.place}-{each.method}")
def test_pattern_takes_linear_time(pattern: Pattern) -> None:
    most, made = worst(pattern)
    assert most < 1, f"{pattern.form.pattern!r} is not linear for {made}"
    with processor_time(GENEROUS * SECONDS) as spent:
        pattern.apply(patterns.filled(*made, LENGTH))
    assert spent[0] < GENEROUS * SECONDS, f"{pattern.form.pattern!r} took {spent[0]:.1f} s for {made}"


@pytest.mark.parametrize("form", [r"[a-z]+@", r"^\s*Generation:", r"(.+?)\s*$", r"\d+\.\d+", r"(?:TOKEN_\w*)+="])
def test_pattern_that_is_not_linear_is_found(form: str) -> None:
    assert worst(Pattern("here", "search", re.compile(form, re.MULTILINE)))[0] > 1


@pytest.mark.parametrize("pattern", patterns.catalogue(), ids=lambda each: each.place)
def test_pattern_of_the_catalogue_takes_no_time(pattern: Pattern) -> None:
    """Its texts are bounded before."""
    for made in patterns.worst(pattern):
        text = words.bounded(patterns.filled(*made, words.LONGEST_TEXT))
        with processor_time(SECONDS) as spent:
            pattern.form.search(text)
        assert spent[0] < SECONDS, made


def files(text: str) -> None:
    """The node's files, of any text."""
    with suppress(ValueError):
        pmxcfs.parse(f"{text}\nend", "n")


NAMES = {f"SECRET_{number}": f"abc-{number}-" + "defghi" * number for number in range(1, 20)}
READERS: dict[str, tuple[Callable[[str], object], tuple[str, ...]]] = {
    "clean": (clean, ("\x1b]", "\x1b[0", "\r\n", "\u200b")),
    "short": (short, ("a", " ")),
    "tail": (tail, ("a", "\n", "a\n")),
    "beginning": (lambda text: beginning(text, len(text) - 1), ("a", "a ")),
    "ending": (lambda text: ending(text, len(text) - 1), ("a", "a ")),
    "plain": (plain, ("a", " ", "\x1b")),
    "inert": (inert, (" ", "\n", " ::", "##[", "\n::")),
    "Redactor": (
        Redactor(NAMES).text,
        ("abc-1-", "TOKEN_A", "TOKEN_= ", "a.", "https://a:", "-token", "Authorization: ", "bearer ", "hf_0", " "),
    ),
    "evidence": (lambda text: evidence.kept(text, Redactor(NAMES).text), ("a", "### docker\n", "\n")),
    "failure": (lambda text: failure_modes.diagnose({"failure": text, "log": text}), ("a", "`a` ended with 1: ", "\n")),
    "vllm.progress": (vllm.progress, ("|", "a\n", "\r", "Capturing CUDA graphs")),
    "vllm.phases": (vllm.phases, ("init engine (", "1", "took ")),
    "image.pull_progress": (image.pull_progress, ("0", "aaaaaaaaaaaa: A", "aaaaaaaaaaaa: Aa [", " ")),
    "image.pull_words": (image.pull_words, ("\x1b[0", "\r", "0")),
    "says": (lambda text: client.says(text, "paris"), ("paris", "not in ", " ", "not paris ")),
    "configuration": (lambda text: conf.parse(text.encode()), ("[a]\n", "a : ", "#a\n", "[pve:pending]\n#", " ")),
    "storage.cfg": (lambda text: pmxcfs.sections(text.encode()), ("zfspool: a\n", "\tpool a\n", " ", "a:")),
    "files": (files, ("a YQ==\n", " ", "lxc/1.conf \n")),
    "snapshots of btrfs": (volume.btrfs_snapshots, ("ID 1 path a/", " path ", "\n")),
    "HTTP": (lambda text: web.parse(text.encode()), ("HTTP/1.1 200\r\n\r\n", "HTTP/\r\n\r\n", "HTTP/a: b\r\n")),
}


@pytest.mark.parametrize(("name", "unit"), [(name, unit) for name, (_, units) in READERS.items() for unit in units])
def test_reader_of_foreign_text_takes_linear_time(name: str, unit: str) -> None:
    """Also for what is no pattern; the sample is a quarter, so that a suite of them is fast."""
    read, text = READERS[name][0], unit * (LENGTH // 4 // len(unit))
    with processor_time(GENEROUS * SECONDS) as spent:
        read(text)
    assert spent[0] < GENEROUS * SECONDS
