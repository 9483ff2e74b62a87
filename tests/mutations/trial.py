"""One check, called with the suite's own fixtures on the modelled node: what it asks, and what becomes of it."""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import pytest

from fixtures.base import warning as warned
from fixtures.base.errors import BuildError
from fixtures.gpu import gpus, node_gpus
from fixtures.proxmox import conf, container
from fixtures.record.model import Record
from fixtures.run import clone_acceptance
from fixtures.run.build import Build
from fixtures.run.ledger import Ledger
from fixtures.run.mode import BUILD as BUILD_MODE
from fixtures.run.mode import MODES as KINDS
from fixtures.run.stages import FAMILY, declared_checks
from fixtures.run.suite import Suite
from fixtures.serving import fingerprint, image, performance, startup, vllm
from fixtures.serving.client import Client
from fixtures.serving.reference import Reference
from fixtures.serving.served_model import Figure, Fingerprint, ServedModel
from fixtures.serving.server import Server
from fixtures.session import clone_fixtures, core_fixtures, server_fixtures, verification
from fixtures.session.command_line import take_lock
from fixtures.template import family as families
from fixtures.template import record_store
from fixtures.template.comparison import named_digest
from fixtures.template.prefetch import Prefetch
from tests.ledgers import has_heard
from tests.model.hands import fresh
from tests.model.node import ModelNode
from tests.model.run import DECLARATION, SETTINGS, TOP, Clock, ModelLock, SuiteRun
from tests.mutations.world import DIGEST, MODEL, Answer, Handler, HttpServer, WorldChannel, WorldNode

GPU = 1  # of the two the one whose facts can be mistaken for the other's
WORLD = replace(
    SETTINGS,
    test_model=MODEL,
    test_prompt="What is the capital of France?",
    expected_word="Paris",
    answer_tokens=64,
    server_port=8000,
    server_env=("VLLM_API_KEY=sk-0123456789abcdef0123456789abcdef",),
    warm_caches="/var/lib/phoenix/caches",
    gpu_memory_mb=0,
    fingerprint=True,
    image_change_limit=10.0,
    ready_deadline=60.0,
    answer_deadline=20.0,
    boot_deadline=60.0,
)
QUICK = performance.Effort(tokens=2, at_once=2, repeats=1, warm_up=0, settle=0)
FIXTURES = {
    name: each.__wrapped__
    for module in (core_fixtures, verification, clone_fixtures, server_fixtures)
    for name, each in vars(module).items()
    if hasattr(each, "_fixture_function_marker") or type(each).__name__ == "FixtureFunctionDefinition"
}
IMAGE_CHANGE = "test_image_change_is_within_its_limit"
# Which checks a run needs another state and mode for than its stage has
MODES = {
    "test_snapshot_may_be_replaced": ("accepted", "rebuild"),
    "test_nothing_depends_on_the_snapshot": ("accepted", "rebuild"),
    "test_container_may_be_destroyed": ("accepted", "rebuild-clone"),
    "test_storage_agrees_with_the_configuration": ("accepted", "rebuild"),
    "test_container_is_of_the_declared_parent": ("cloned", ""),
    "test_number_is_free_or_a_container": ("cloned", ""),
    "test_gpus_are_passed_where_it_counts": ("cloned", ""),
    "test_situation_is_known": ("accepted", ""),
    "test_container_is_as_declared": ("cloned", ""),
    "test_container_starts": ("cloned", ""),
    IMAGE_CHANGE: ("accepted", "rebuild"),
}
STATES = {"preflight": "fresh", "clone": "fresh", "sealed": "sealed", "recorded": "sealed"}
STATES |= {"clone acceptance": "sealed", "accepted": "sealed", FAMILY: "accepted"}  # all others: "cloned"
EARLIER = {"cloned": "fresh", "sealed": "cloned", "accepted": "cloned", "fresh": "fresh"}


COMPARE = ("test_answers_agree", "test_clone_answers_as_its_template", "test_all_gpus_answer_as_one_does")


@dataclass
class Check:
    """A check of the suite."""

    stage: str
    name: str  # file::[class::]function
    call: Callable[..., None]

    @property
    def short(self) -> str:
        """The function's name."""
        return self.name.rpartition("::")[2]


DECLARED = declared_checks(TOP / "tests_920" / "CHECKS", (0, 1))  # read once, for some thousand trials


@cache
def checks() -> list[Check]:
    """All checks of CHECKS, in their order."""
    found = []
    for each in declared_checks(TOP / "tests_920" / "CHECKS", (GPU,)):
        name = each.name.partition("[")[0]
        file, *path = name.split("::")
        where: Any = importlib.import_module(f"tests_920.{file.removesuffix('.py')}")
        for word in path:
            where = getattr(where() if isinstance(where, type) else where, word)
        found.append(Check(each.stage, name, where))
    return found


@cache
def states() -> dict[str, ModelNode]:
    """The node before a build, with the cloned container, with the sealed and with the accepted one."""
    node = WorldNode(**{name: value for name, value in vars(fresh()).items() if name != "before"})
    found: dict[str, ModelNode] = {"fresh": _copy(node)}

    def before(kind: str) -> str:
        state = {"shutdown": "cloned", "describe": "sealed"}.get(kind, "")
        if state and state not in found:
            found[state] = _copy(node)
        return ""

    node.before = before
    run = SuiteRun(node, "plain")
    assert run.to_its_end() == "accepted", run.failures
    return {**found, "accepted": _copy(node)}


def _copy(node: ModelNode) -> ModelNode:
    facts = {name: value for name, value in vars(node).items() if name not in ("before", "run")}
    made = WorldNode(**copy.deepcopy(facts))
    made.lock, made.trace, made.violations = "", [], []
    return made


class Spoiler:
    """Hears each question and answer; changes those of one fact."""

    def __init__(self) -> None:
        self.facts: dict[str, list[Answer]] = {}
        self.listens = False
        self.fact = ""
        self.change: Callable[[Answer], Answer] = lambda answer: answer

    def __call__(self, what: str, answer: Answer) -> Answer:
        if not self.listens:
            return answer
        self.facts.setdefault(what, []).append(answer)
        return self.change(answer) if what == self.fact else answer


class Ticking(Clock):
    """A clock that goes on by itself too."""

    def monotonic(self) -> float:
        self.now += 0.001
        return self.now


@dataclass
class Bench:
    """What all trials share: the test server, and a folder for the reference."""

    server: HttpServer
    folder: Path
    priors: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def port(self) -> int:
        """Of the test server."""
        return int(self.server.server_address[1])


@contextlib.contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """Set up what trials share, and let time pass only where somebody sleeps for a boot."""
    server = HttpServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(container, "time", Clock())
            patch.setattr(startup, "time", Ticking())
            patch.setattr(performance, "STEADY", QUICK)
            patch.setattr(conf, "parse", lru_cache(1024)(conf.parse))  # nobody changes what comes of a text
            yield Bench(server, folder)
    finally:
        server.shutdown()
        server.server_close()


class Trial:
    """One call of a check."""

    def __init__(self, shared: Bench, check: Check, spoiler: Spoiler, node: ModelNode | None = None) -> None:
        self.shared, self.check, self.spoiler = shared, check, spoiler
        state, mode = MODES.get(check.short, (STATES.get(check.stage, "cloned"), ""))
        self.state, self.node = state, _copy(node or states()[state])
        if check.stage == FAMILY and isinstance(self.node, WorldNode) and self.node.guests[920].snapshots:
            self.node.add_descendant()
        shared.server.spoil = spoiler
        self.build = self._build(mode)
        self._made: dict[str, Any] = {}
        self._ends = contextlib.ExitStack()

    def _build(self, mode: str) -> Build:
        maker = str(uuid.UUID(int=920))
        build = Build(
            Suite(TOP / "tests_920", 920),
            replace(WORLD, reference_folder=self.shared.folder),
            DECLARATION,
            channel=WorldChannel(self.node, self.spoiler, self.shared.port),
            ledger=Ledger(DECLARED),
            invocation=maker,
            mode=next((each for each in KINDS if each.id == mode), BUILD_MODE),
        )
        build.record_text = lambda **_: Record(maker, 0.0, manifest=build.manifest).to_json()
        build.__dict__["lock"] = ModelLock(self.node, maker)
        return build

    def outcome(self) -> tuple[str, str]:
        """What becomes of the check: "passed", "failed", "skipped", "inconclusive", or "raised" of Python; and why."""
        warned._UNSAID.clear()
        try:
            with self._ends:
                try:
                    self._prepare()
                    self.spoiler.listens = True
                    names = inspect.signature(self.check.call).parameters
                    self.check.call(**{name: self._given(name) for name in names})
                finally:
                    self.spoiler.listens = False
        except pytest.skip.Exception as reason:
            kind = type(reason).__name__
            return ("skipped" if kind == "Skipped" else "inconclusive"), str(reason)
        except (AssertionError, BuildError, pytest.fail.Exception) as error:
            return "failed", str(error)
        except Exception as error:
            return "raised", f"{type(error).__name__}: {error}"
        return "passed", "; ".join(warned._UNSAID)

    def _prepare(self) -> None:
        """What earlier checks have found, and what a run does before its first check."""
        build, listens = self.build, self.check.short in ("test_earlier_changes_have_ended",)
        self.spoiler.listens = listens
        take_lock(build)
        self.spoiler.listens = False
        if self.state in ("cloned", "sealed") and self.check.stage != "preflight":
            for name, value in self._prior().items():
                setattr(build, name, copy.copy(value))
        if self.check.short == IMAGE_CHANGE:
            self._replace_another_image()
        has_heard(build.ledger, dict.fromkeys((each.name for each in build.ledger.checks), "passed"))
        if self.check.stage == "accepted":
            self.spoiler.listens = True
            verification.resume(build, named_digest(build.template, build.template.snapshot()))
            build.node.forget()

    def _prior(self) -> dict[str, Any]:
        if self.state not in self.shared.priors:
            other = self._build("")
            inner = other.template.container
            self.shared.priors[self.state] = {
                "gpus": gpus.listed(inner),
                "node_gpus": node_gpus.look(other.node).gpus,
                "xids": node_gpus.xid_lines(other.node),
                "image": image.inspect(inner, WORLD.vllm_image),
                "cuda": {index: gpus.probe_cuda(inner, index, 0) for index in (0, 1)},
            }
        return self.shared.priors[self.state]

    def _replace_another_image(self) -> None:
        """Let the accepted snapshot be of another image, whose server was a little faster."""
        build = self.build
        build.gpus = gpus.listed(build.template.container)
        build.image = replace(image.inspect(build.template.container, WORLD.vllm_image), digest="v@sha256:2")
        now, was = (
            ServedModel("all", [], 1.0, 2.0, 3.0, figures=[Figure("one request", each, "tokens/s", each, each)])
            for each in (470.0, 500.0)
        )
        build.served = [replace(now, fingerprint=Fingerprint(perplexity=20.0))]
        old = Record(
            "1",
            0.0,
            image={"size": build.image.size, "digest": "v@sha256:1"},
            gpus=[{"name": each.name} for each in build.gpus],
        )
        old.served = [replace(was, fingerprint=Fingerprint(perplexity=20.0))]
        digest = named_digest(build.template, build.template.snapshot())
        record_store.keep(build.node, digest, {"record.json": old.to_json()})
        assert build.found_snapshot  # asked before anything is replaced; `test_situation_is_known` judges the answer

    def _given(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Any:  # noqa: PLR0911, PLR0912 - one line a fixture
        build = self.build
        match name:
            case "build":
                return build
            case "settings" | "node" | "template":
                return getattr(build, name)
            case "proved":
                return build.template
            case "gpu":
                return GPU
            case "family":
                return families.look(build.node)
            case "descendant":  # without one that is known there is no check but that the family is known
                found = self._given("family")
                return next(iter(found.members), None) or pytest.skip(f"no descendant: {found.unknown}")
            case "image":
                return build.image
            case "prefetch":
                return Prefetch(build.template)
            case "joint_server" if self.check.short == "test_all_gpus_answer_as_one_does":
                alone, together = self._ready_server(), self._ready_server()
                for server, ways in ((alone, 1), (together, 2)):
                    server.record.command = [DIGEST, MODEL, *vllm.tensor_parallel(ways)]
                build.served.append(alone.served())
                return together
            case "ready_server":
                return self._ready_server()
            case "clone" | "clone_server":
                self._boot(self._given("acceptance"))
            case "acceptance":
                trial = self._make_fixture(name)
                if self.check.short == "test_clone_answers_as_its_template":
                    trial.served, trial.image = self._ready_server(), build.image
                    build.served.append(trial.served.served())
                if self.check.short in ("test_clone_boots_beside_its_template", "test_clone_is_destroyed"):
                    self._boot(trial, start=self.check.short == "test_clone_is_destroyed")
                return trial
        return self._make_fixture(name)

    def _make_fixture(self, name: str) -> Any:
        fixture = FIXTURES[name]
        made = fixture(**{each: self._given(each) for each in inspect.signature(fixture).parameters})
        if inspect.isgenerator(made):
            value = next(made)
            self._ends.callback(next, made, None)
            return value
        return made

    def _boot(self, trial: clone_acceptance.CloneAcceptance, *, start: bool = True) -> None:
        """Make the clone and start it, as the checks before have."""
        if not trial.booted:
            self.spoiler.listens, before = False, self.spoiler.listens
            trial.make()
            if start:
                trial.start()
            self.build.node.forget()
            self.spoiler.listens = before

    def _ready_server(self) -> Server:
        build, template = self.build, self.build.template
        one = Server(
            template.container,
            template.declared.network.address,
            build.settings,
            server_fixtures.share(GPU),
        )
        one.client = Client(f"http://127.0.0.1:{self.shared.port}", build.settings)
        one.record.healthy, one.record.listed, one.record.answered = 1.0, 2.0, 3.0
        one.record.figures = [Figure("one request", 470.0, "tokens/s", 470.0, 470.0)]
        if self.check.short in COMPARE:
            self.spoiler.listens, before = False, self.spoiler.listens
            one.record.fingerprint = fingerprint.take(one, 20)
            self.spoiler.listens = before
        if self.check.short in ("test_server_is_fast_enough", "test_answers_agree"):
            self._write_reference(one)
        return one

    def _write_reference(self, one: Server) -> None:
        assert self.build.image
        for left in self.shared.folder.glob("*.json"):  # of a trial before, spoilt
            left.unlink()
        book = Reference(self.build.settings, self.build.gpus[GPU], self.build.image)
        for _ in range(2):
            book.add(one.record.figures, one.record.fingerprint)
        status, text, _ = self.spoiler("the reference", (0, book.path.read_bytes(), b""))
        book.path.unlink()
        if not status:
            book.path.write_bytes(text)
