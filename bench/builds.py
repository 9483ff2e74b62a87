"""How long building takes: against a shell script that does the same, and against what can't be hurried."""

from __future__ import annotations

from collections.abc import Sequence

from bench import calls
from bench.figures import Figure, Line
from bench.place import Place
from bench.spans import Run
from bench.timing import TOP, timed
from fixtures.base.declaration import load
from tests.faults.fault import stand_in
from tests.lab.harness import SNAPSHOT, STAND_IN

SERVER = ("--enforce-eager", "--max-model-len", "2048", "--dtype", "float32")  # as in lab/options
BASELINE = 'shim=$1; shift; exec "$shim" sh -s -- "$@" < bench/baseline.sh'
MODEL = "/models/test-model"
LATEST = "vllm/vllm-openai:latest"


def steps(place: Place) -> list[Figure]:
    """The seed's steps of a full build, after the same by a shell script on a fresh clone; the image not pulled."""
    ratios, parts, theirs, whole = [], list[dict[str, float]](), [], []
    for _ in range(max(1, place.runs // 3)):
        place.forget_template()
        _clone(place)
        script = ["sh", "-c", BASELINE, "sh", str(place.lab.machine.shim), "920", LATEST, MODEL, SNAPSHOT, *SERVER]
        theirs.append(timed(script, deadline=900).seconds)
        place.forget_template()
        whole.append(place.suite(deadline=1200).seconds)
        parts.append(Run(place.last).steps())
        ratios.append(sum(parts[-1].values()) / theirs[-1])
    return [
        Figure("of the script", ratios, at_most=0.7),
        Figure("ours", [sum(each.values()) for each in parts], " s"),
        *(Figure(f"of ours: {name}", [each[name] for each in parts], " s") for name in parts[0]),
        Figure("the script", theirs, " s"),
        Figure("the whole run", whole, " s"),
    ]


def _clone(place: Place) -> None:
    """A fresh clone that is started, as the script finds it."""
    declared = load(TOP / "lab/phoenix_lxc_configs.json")[920]
    size = ("--memory", str(declared.memory_mb), "--cores", str(declared.cores), "--net0", declared.net0)
    clone = ("--snapname", "docker-gpu-snapshot", "--full", "1", "--hostname", declared.name)
    for words in (("clone", "903", "920", *clone), ("set", "920", *size), ("start", "920")):
        place.lab.node("pct", *words)


def overhead(place: Place) -> list[Figure]:
    """A whole run with the image there, without what only the outside needs in the same run; and what it calls."""
    _ = place.whole_template
    cheap, asking, own, dear, found = [], [], [], [], calls.of(())
    for _ in range(max(1, place.runs // 3)):
        seconds, run = _rebuild(place)
        cheap.append(_without(run.outside(), seconds))
        own.append(_without(run.outside_or_asking(), seconds))
        asking.append(cheap[-1] - own[-1])
        with place.real_cost():
            seconds, run = _rebuild(place)
        dear.append(_without(run.outside(), seconds))
        found = place.calls()
    return [
        Figure("of the whole, real call cost", dear, " %", at_most=12),
        Figure("of the whole, lab cost", cheap, " %", at_most=8),
        Figure("of that whole: commands in the container and on the node, and requests to a server", asking, " %"),
        Figure("of that whole: the suite itself, while nothing else ran", own, " %"),
        Figure("calls that only read", [found.reading], at_most=3),
        Figure("`pct exec`", [found.inside]),
        Figure(f"times the same change; all changes: {found.changing}", [found.most], at_most=1),
    ]


def _rebuild(place: Place) -> tuple[float, Run]:
    seconds = place.suite("--rebuild", deadline=1200).seconds
    return seconds, Run(place.last)


def _without(waited: float, seconds: float) -> float:
    """Percent of a run in which it does not wait for others."""
    return 100 * (seconds - waited) / seconds


def noticed(place: Place) -> list[Figure]:
    """From the line in which a server says that it serves to the moment at which that is noticed."""
    _ = place.template
    file = place.folder / "noticed"
    for _ in range(max(1, place.runs // 2)):
        command = place.argv("-p", "bench.noticing", "--verify-deep", "--no-clone", *STAND_IN)
        timed(command, {"NOTICED": str(file), "PYTHONPATH": str(TOP)})
    return [Figure("later", [float(line) for line in file.read_text().split()], " s", at_most=0.3)]


def memory(place: Place) -> list[Figure]:
    """The most memory that a run takes, with a short log of its server and with long ones."""
    _ = place.template
    logs: tuple[Sequence[str], ...] = ((), stand_in("talks"), stand_in("talks-on"))
    short, long, longer = (place.suite("--verify-deep", "--no-clone", *STAND_IN, *log).rss_mb for log in logs)
    return [
        Figure("with a log of 200 MB", [longer], " MB", at_most=100),
        Figure("of that with one of 50 MB", [longer / long], at_most=1.15),
        Figure("with a short one", [short], " MB"),
    ]


LINES = (
    Line("noticed", "from ready server to noticed ready", "the server's own log", noticed),
    Line("memory", "memory of the suite", "", memory),
    Line(
        "steps",
        "the seed's steps with one server start, image not yet pulled",
        "`bench/baseline.sh`, which polls every 10 s",
        steps,
    ),
    Line("overhead", "full build, image there", "what only the outside needs, in the same run", overhead),
)
