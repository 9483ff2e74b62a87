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
# What testinfra runs for `test_dozen.py`, in one shell: whoever asks for the same takes this long at least.
DOZEN = """
for service in docker ssh; do systemctl is-active $service; done
systemctl is-enabled docker
for package in docker.io python3 openssh-server; do dpkg-query -f '${Status}' -W $package; done
test -e /etc/docker/daemon.json
test -e /etc/os-release
grep -qs nvidia /etc/docker/daemon.json
docker info
nvidia-smi -L
systemctl is-system-running
"""


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
    return [Figure("times as fast", factors), Figure("without pytest's start", own, " s")]


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
        Figure("times as fast", [theirs / each for each in own], at_least=50),
        Figure("without pytest's start", own, " s"),
        Figure("testinfra", [theirs], " s"),
    ]


def dozen(place: Place) -> list[Figure]:
    """A dozen checks, by turns: ours and testinfra's, over ssh and on the node, and Serverspec over ssh."""
    if not shutil.which("rspec"):
        raise BenchError("Serverspec is not here: apt-get install ruby-serverspec")
    _ = place.template
    local = f"lab:{place.name}"
    with place.far(0) as far:
        shared = f"ssh://{far.template}-shared?ssh_config={far.config}"
        ways: dict[str, Callable[[], float]] = {
            "pytest's start": start_of_pytest,
            "ours, ssh": lambda: peer(place, "test_dozen.py", "ours", PEER_URL=far.node, PATH=far.path),
            "testinfra, ssh with a ControlPath": lambda: peer(place, "test_dozen.py", "testinfra", PEER_HOST=shared),
            "ours, on the node": lambda: peer(place, "test_dozen.py", "ours", PEER_URL=local),
            "testinfra, lxc-attach": lambda: peer(place, "test_dozen.py", "lxc-attach"),
            "Serverspec, ssh": lambda: serverspec(far),
            "their commands alone, in one shell": lambda: commands(place),
        }
        taken = [{name: way() for name, way in ways.items()} for _ in range(place.runs)]

    shared_way, start = "testinfra, ssh with a ControlPath", "pytest's start"
    theirs, alone = "testinfra, lxc-attach", "their commands alone, in one shell"
    least = [each[alone] / (each[theirs] - each[start]) for each in taken]
    return [
        Figure("of Serverspec, ssh", [each["ours, ssh"] / each["Serverspec, ssh"] for each in taken], at_most=0.4),
        Figure("of testinfra, ssh", [each["ours, ssh"] / each[shared_way] for each in taken], at_most=0.6),
        Figure("of testinfra, on the node: their commands alone", least),
        *(Figure(name, [each[name] for each in taken], " s") for name in ways),
    ]


def serverspec(far: Far) -> float:
    """Seconds of Serverspec."""
    spec, env = TOP / PEERS / "dozen_spec.rb", {"PEER_HOST": far.template, "SSH_CONFIG": str(far.config)}
    return timed(["rspec", "--options", "/dev/null", str(spec)], env).seconds


def commands(place: Place) -> float:
    """Seconds of the dozen's commands in one shell inside 920."""
    attach = ("lxc-attach", "-P", "/var/lib/lxc", "-n", "920", "--")
    return timed([str(place.lab.machine.shim), *attach, "sh", "-e", "-c", DOZEN]).seconds


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
