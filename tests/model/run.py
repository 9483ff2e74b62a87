"""Runs of the suite against the modelled node: its own checks, in their order, with its own gating.

What is modelled of pytest is only its loop. Checks of what is inside a container (Docker, GPUs, servers) are left
out; what decides and changes something on the node is the suite's own code.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fixtures.base import in_thread
from fixtures.base.declaration import load
from fixtures.base.errors import BuildError
from fixtures.base.interrupts import INTERRUPTS
from fixtures.base.settings import Settings
from fixtures.proxmox import container
from fixtures.proxmox.channel import Channel
from fixtures.proxmox.command import ChannelError, Command, DeadlineExceeded
from fixtures.record.model import Record
from fixtures.run import outcome
from fixtures.run.build import BUILD, Build
from fixtures.run.ledger import Ledger
from fixtures.run.mode import BUILD as BUILD_MODE
from fixtures.run.mode import MODES, Outcome
from fixtures.run.stages import check_name, declared_checks
from fixtures.run.suite import Suite
from fixtures.session import clone_fixtures, gating, selection, verification
from fixtures.session.command_line import take_lock
from fixtures.template import end_state
from tests.ledgers import hear
from tests.model.node import COUNTER, NAME, TEMPLATE, ModelNode, Run

TOP = Path(__file__).parent.parent.parent
DECLARATION = load(TOP / "phoenix_lxc_configs.json")
DECLARATION.containers[950] = replace(DECLARATION[950], vllm_model="Qwen/Qwen2.5-7B-Instruct")
DECLARED = declared_checks(TOP / "tests_920" / "CHECKS", ())
# by name, as mypy knows these files as modules of their own
MODULES = tuple(
    importlib.import_module(f"tests_920.test_{name}")
    for name in (
        *("010_preflight", "020_clone", "060_seal", "070_sealed", "075_recorded", "080_clone_acceptance"),
        "090_accepted",
    )
)
SEAL, CLONES = MODULES[2], MODULES[5]
# What looks only at what is inside a container
INSIDE = {
    "test_docker_is_up_again",
    "test_image_is_still_there",
    "test_nothing_is_left_of_the_build",
    "test_gpus_are_listed_again",
    "test_clone_has_an_identity_of_its_own",
    "test_clone_is_what_was_sealed",
    "test_clone_knows_what_it_came_from",
    "test_docker_works_in_the_clone",
    "test_clone_sees_every_gpu",
    "test_cuda_works_in_the_clone",
    "test_clone_serves",
    "test_snapshot_is_as_declared",
}
SETTINGS = Settings(
    **{
        **dict.fromkeys(Settings.__annotations__, ""),
        "vllm_image": f"vllm/vllm-openai@sha256:{64 * 'a'}",  # by digest: no registry is asked whether a tag has moved
        "test_model": "m",
        "server_args": (),
        "server_env": (),
        "server_mounts": (),
        "server_memory_mb": 0,
        "clone_ctids": (990, 991),
        "clone_addresses": ("10.0.0.240", "10.0.0.241"),
        **{name: 60.0 for name in Settings.__annotations__ if name.endswith("_deadline")},
    }  # type: ignore[arg-type]
)


class Killed(BaseException):
    """The run's process has ended at once: no clean-up of it does anything."""


class ModelChannel(Channel):
    """A channel to the modelled node, or into one of its containers."""

    def __init__(self, node: ModelNode, name: str = "model", prefix: tuple[str, ...] = ()) -> None:
        super().__init__(name, prefix)
        self.node = node

    def inside(self, place: str, prefix: tuple[str, ...]) -> Channel:
        return self._inner.setdefault(place, ModelChannel(self.node, f"{self.name}/{place}", prefix))

    def run(
        self, argv: Sequence[str], *, deadline: float, stdin: bytes = b"", shown: Sequence[str] = (), **_: Any
    ) -> Command:
        if self.node.dead:
            raise Killed
        status, out, err, fault = self.node.call((*self.prefix, *argv), stdin)
        if fault.startswith("killed"):
            self.node.dead = True
            raise Killed
        if fault.startswith("interrupted"):
            INTERRUPTS.handle(2, None)
        if fault.startswith("late") or fault == "slow":
            raise DeadlineExceeded(f"{argv} took longer than {deadline:g} s")
        if fault.startswith("lost"):
            raise ChannelError(f"{argv} was cut off; the result is unknown")
        return Command(self.name, tuple(shown or argv), 0.0, 0.0, status, out, err)

    def run_parallel(self, *argvs: Sequence[str], deadline: float) -> list[Command]:
        return [self.run(argv, deadline=deadline) for argv in argvs]

    def prefetch(self, *_: Any) -> Any:
        return None  # each question is answered when it is asked

    def spawn(self, *_: Any, **__: Any) -> Any:
        raise ChannelError("the model starts nothing that lives on")

    def open(self) -> None: ...

    def leave(self, place: str) -> None: ...

    def close(self) -> None: ...


class Clock:
    """A time that only passes when somebody sleeps."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += 20 * seconds


class AtOnce:
    """A thread that runs when it is started, so that a run is the same each time."""

    def __init__(self, target: Callable[[], None], daemon: bool) -> None:
        self.start = target


@dataclass
class ModelLock:
    """The lock of the run, as the node has it."""

    node: ModelNode
    invocation: str
    ctid: int = TEMPLATE
    problem: str = ""
    file: str = "/run/lock/phoenix-920-920.lock"

    @property
    def held(self) -> bool:
        return self.node.lock in (self.invocation, "another")  # that another has it is not seen at once

    def acquire(self, *_: Any, **__: Any) -> None:
        self.node.lock = self.invocation


@dataclass
class Item:
    """A check, as far as the suite's gating looks at it."""

    module: ModuleType
    name: str
    config: Any

    @property
    def call(self) -> Callable[..., None]:
        return getattr(self.module, self.name)  # type: ignore[no-any-return]

    @property
    def nodeid(self) -> str:
        return f"tests_920/{self.module.__name__.rpartition('.')[2]}.py::{self.name}"

    def iter_markers(self, name: str) -> Iterator[Any]:
        marks = [*getattr(self.call, "pytestmark", ()), *self.module.pytestmark]
        return (mark for mark in marks if mark.name == name)

    def get_closest_marker(self, name: str) -> Any:
        return next(self.iter_markers(name), None)


@dataclass
class SuiteRun:
    """A run of the suite: `report` is what it says in the end."""

    node: ModelNode
    mode: str
    accept: int | None = None
    keep: bool = False
    report: str = ""
    failures: list[str] = field(default_factory=list)
    made: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config = SimpleNamespace(stash={})
        items = {
            check_name(item.nodeid): item
            for item in (Item(module, name, config) for module in MODULES for name in vars(module))
            if item.name.startswith("test_") and inspect.isfunction(item.call) and item.name not in INSIDE
        }
        checks = [check for check in DECLARED if check.name in items]
        self.items = [items[check.name] for check in checks]
        maker = f"run-{next(COUNTER)}"
        self.build = config.stash[BUILD] = Build(
            Suite(TOP / "tests_920", 920),
            SETTINGS,
            DECLARATION,
            channel=ModelChannel(self.node),
            ledger=Ledger(checks),
            mode=next((each for each in MODES if each.id == ("accept" if self.accept else self.mode)), BUILD_MODE),
            accept=self.accept,
            keep=self.keep,
            invocation=maker,
        )
        self.build.record_text = lambda **_: Record(maker, 0.0, manifest=self.build.manifest).to_json()
        self.build.__dict__["lock"] = ModelLock(self.node, maker)
        self.node.run = Run(maker, self.mode, self.accept)
        self.node.known, self.node.dead = {}, False
        self.node.trace = [f"--- a run: {self.mode} {self.accept or ''}"]
        INTERRUPTS.__init__()  # type: ignore[misc] # as a new process has it

    def to_its_end(self) -> str:
        """Run all of its checks, as pytest would.

        Returns:
            What it reports: "accepted", "existing", "cloned" or "failed".
        """
        with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
            warnings.simplefilter("ignore")
            patch.setattr(in_thread, "threading", SimpleNamespace(Thread=AtOnce))
            patch.setattr(container, "time", Clock())
            try:
                take_lock(self.build)
                self._checks()
                self.report = self._said()
            except KeyboardInterrupt:
                self.report = "interrupted"
            except Killed:
                self.report = "killed"
            self._judge()
            if self.report != "killed":
                with contextlib.suppress(BuildError, KeyboardInterrupt, Killed):
                    verification.keep_record(self.build)
            self.node.run, self.node.lock = None, "" if self.build.lock.held else self.node.lock
        return self.report

    def _judge(self) -> None:
        """Note if the node does not have what is reported."""
        guest, run = self.node.guests.get(TEMPLATE), self.node.run
        found = guest.snapshots.get(NAME) if guest else None
        if self.report not in ("killed", "interrupted") and self._ends_accepted() and NAME not in self.node.good():
            self.node.blame("says in the end that the snapshot is accepted, which it is not")
        if self.report not in ("accepted", "existing") or run is None:
            return
        if found is None or NAME not in self.node.good():
            self.node.blame(f"reports {self.report}, but what is there is no whole snapshot that was accepted")
        elif self.report == "accepted" and found.maker != run.maker and found.guid > run.began:
            self.node.blame("reports accepted, but another run has made that snapshot meanwhile")

    def _ends_accepted(self) -> bool:
        """Whether the last sentence says so; nothing happens any more while it is made."""
        self.node.before = lambda _: ""
        end = end_state.read(self.build.template)
        return f"{NAME} is accepted" in end_state.sentence(self.build.template, end, self.build.found_snapshot)

    def _checks(self) -> None:
        items = [item for item in self.items if selection.selects(self.build, item)]  # type: ignore[arg-type]
        for clones, group in itertools.groupby(items, lambda item: item.module is CLONES):
            with contextlib.ExitStack() as module:
                for item in group:
                    INTERRUPTS.raise_lost()
                    if clones and "acceptance" not in self.made:
                        self.made["acceptance"] = self._fixture(clone_fixtures.acceptance, item, module)
                    self._check(item)
        if self.mode == "verify-parent":
            with contextlib.ExitStack() as module:
                self._fixture(clone_fixtures.parent_clone, self.items[0], module)

    def _fixture(self, fixture: Any, item: Item, ends: contextlib.ExitStack) -> Any:
        """What a fixture of the suite yields; it is torn down at the end of the block, however that ends."""
        one = fixture.__wrapped__(self.build)

        def tear_down() -> None:
            with self._failing(item):
                next(one, None)

        with self._failing(item):
            value = next(one)
            ends.callback(tear_down)
            return value

    @contextlib.contextmanager
    def _failing(self, item: Item) -> Iterator[None]:
        """Let a check have failed if the block fails."""
        try:
            yield
        except (Exception, pytest.fail.Exception) as error:
            self._note(item, error, "teardown")
        except BaseException:
            INTERRUPTS.ending = True
            raise

    def _check(self, item: Item) -> None:
        seal: Iterator[None] | None = None
        self.build.ledger.begin(check_name(item.nodeid))
        try:
            gating.pytest_runtest_setup(item)  # type: ignore[arg-type]
            given = {name: self._given(name) for name in inspect.signature(item.call).parameters}
            if item.module is SEAL:
                seal = SEAL.seal.__wrapped__(self.build, SimpleNamespace(node=item))
                next(seal)
            item.call(**given)
        except pytest.skip.Exception as reason:
            self._note(item, reason)
            return
        except Exception as error:
            self._note(item, error)
        else:
            self._note(item, None)
        if seal:
            with self._failing(item):
                next(seal, None)

    def _given(self, name: str) -> Any:
        build = self.build
        match name:
            case "build":
                return build
            case "settings" | "node" | "template":
                return getattr(build, name)
            case "container":
                return build.template.container
            case "comparison" if name not in self.made:  # once in a run, as its scope says
                self.made[name] = verification.comparison.__wrapped__(build)  # type: ignore[attr-defined]
            case "inner_comparison":
                return verification.inner_comparison.__wrapped__(self._given("comparison"), build)  # type: ignore[attr-defined]
            case "clone":
                return clone_fixtures.clone.__wrapped__(self.made["acceptance"])  # type: ignore[attr-defined]
        return self.made[name]

    def _note(self, item: Item, error: BaseException | None, when: str = "call") -> None:
        """Tell the ledger what became of a phase of a check."""
        skipped = isinstance(error, pytest.skip.Exception)
        outcome: Any = "skipped" if skipped else "failed" if error else "passed"
        hear(self.build.ledger, item.nodeid, outcome, error, when=when)
        if outcome == "failed":
            self.failures.append(f"{item.name}: {type(error).__name__}: {error}")
            self.node.trace.append(f"    failed: {item.name}: {type(error).__name__}: {str(error)[:200]}")

    def _said(self) -> str:
        """What its outcome says; nothing happens any more while that is made."""
        self.node.before = lambda _: ""
        if self.accept or self.mode == "verify-parent":  # no outcome: the model has not all stages of a clone
            return "failed" if self.failures else "cloned" if self.accept else "nothing"
        said = outcome.of(self.build, len(self.failures))
        there = dict.fromkeys((Outcome.EXISTING, Outcome.NOT_COMPARED, Outcome.VERIFIED), "existing")
        return {Outcome.BUILT: "accepted", **there}.get(said, "failed")
