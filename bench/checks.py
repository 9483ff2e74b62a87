"""How fast checks are that only read: against testinfra and Serverspec on the same machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from bench.figures import BenchError, Figure, Line
from bench.place import Far, Place
from bench.timing import PYTEST, TOP, start_of_pytest, timed
from tests.lab.harness import STAND_IN

PEERS = "bench/peers"
DELAY = 0.03  # seconds that a round trip takes longer


def peer(place: Place, checks: str, way: str, **env: str) -> float:
    """Seconds of one of the files of checks in `peers`, by one of the ways of its conftest.py.

    Raises:
        BenchError: It failed.
    """
    command = [*PYTEST, "-q", f"{PEERS}/{checks}"]
    return timed(command, {"PEER": way, "PEER_NODE": str(place.lab.machine.shim), **env}, deadline=900).seconds


def verify(place: Place) -> list[Figure]:
    """`--verify` on the node itself, by turns with testinfra."""
    manifest = str(place.manifest())
    factors, own = [], []
    for _ in range(place.runs):
        empty = start_of_pytest()
        own.append(place.suite("--verify", *STAND_IN).seconds - empty)
        factors.append((peer(place, "test_verify.py", "lxc-attach", MANIFEST=manifest) - empty) / own[-1])
    return [Figure("times as fast", factors, at_least=5), Figure("without pytest's start", own, " s")]


def verify_far(place: Place) -> list[Figure]:
    """`--verify` over ssh with delay; testinfra once, as it takes minutes."""
    manifest = str(place.manifest())
    with place.far(DELAY) as far:
        own, empty = [], []
        for _ in range(place.runs):
            empty.append(start_of_pytest())
            own.append(place.suite("--verify", *STAND_IN, node=far.node, path=far.path).seconds - empty[-1])
        ssh = f"ssh://{far.template}?ssh_config={far.config}"
        theirs = peer(place, "test_verify.py", "testinfra", PEER_HOST=ssh, MANIFEST=manifest) - min(empty)
    return [
        Figure("times as fast", [theirs / each for each in own], at_least=20),
        Figure("without pytest's start", own, " s", at_most=4),
        Figure("testinfra", [theirs], " s"),
    ]


def dozen(place: Place) -> list[Figure]:
    """A dozen checks over ssh, by turns: ours, testinfra's two ways, Serverspec."""
    _ = place.template
    with place.far(0) as far:
        ways: dict[str, Callable[[], float]] = {
            "ours": lambda: peer(place, "test_dozen.py", "ours", PEER_URL=far.node, PATH=far.path),
            "testinfra, ssh with a ControlPath": lambda: peer(
                place, "test_dozen.py", "testinfra", PEER_HOST=f"ssh://{far.template}-shared?ssh_config={far.config}"
            ),
            "testinfra, lxc-attach": lambda: peer(place, "test_dozen.py", "lxc-attach"),
        }
        if shutil.which("rspec"):
            ways["Serverspec"] = lambda: serverspec(far)
        taken = {name: list[float]() for name in (*ways, "pytest")}
        for _ in range(place.runs):
            taken["pytest"].append(start_of_pytest())
            for name, way in ways.items():
                taken[name].append(way())
    return [*_dozen(taken), *(Figure(name, values, " s") for name, values in taken.items())]


def _dozen(taken: dict[str, list[float]]) -> list[Figure]:
    if "Serverspec" not in taken:
        raise BenchError("Serverspec is not here: apt-get install ruby-serverspec")
    empty, ours = taken["pytest"], taken["ours"]
    best = [min(each) for each in zip(*(taken[name] for name in taken if name.startswith("testinfra")), strict=True)]
    bare = [(own - start) / (other - start) for own, other, start in zip(ours, best, empty, strict=True)]
    return [
        Figure("of Serverspec", [a / b for a, b in zip(ours, taken["Serverspec"], strict=True)], at_most=1),
        Figure("of the faster testinfra, without pytest's start", bare, at_most=0.2),
    ]


def serverspec(far: Far) -> float:
    """Seconds of Serverspec."""
    spec, env = TOP / PEERS / "dozen_spec.rb", {"PEER_HOST": far.template, "SSH_CONFIG": str(far.config)}
    return timed(["rspec", "--options", "/dev/null", str(spec)], env).seconds


LINES = (
    Line(
        "verify",
        "`--verify` on the node, without pytest's start",
        "the same checks inside 920 by testinfra, one `lxc-attach` a command",
        verify,
    ),
    Line(
        "verify-far",
        "`--verify` over ssh with 30 ms of delay, without pytest's start",
        "the same checks inside 920 by testinfra's own ssh",
        verify_far,
    ),
    Line("dozen", "a dozen checks over ssh, whole command", "Serverspec; testinfra", dozen),
)
