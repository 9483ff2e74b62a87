"""What is destroyed, stopped, replaced or changed: only what is ours, on facts of the same breath."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import pytest

from fixtures.base.errors import BuildError
from fixtures.proxmox import changes, conf, integrity
from fixtures.proxmox.command import Command
from fixtures.proxmox.node import NodeError
from fixtures.proxmox.pmxcfs import Guest
from fixtures.proxmox.tasks import ChangeRefused
from fixtures.proxmox.volume import StoredSnapshot, Volume
from fixtures.run import seal as seals
from fixtures.run.mode import BUILD, REBUILD
from fixtures.run.seal import Seal
from fixtures.template import end_state, ephemeral_clone, repair
from fixtures.template.clone import MARK, Clone
from fixtures.template.generations import Generation
from fixtures.template.template import Situation, Template, TemplateError
from tests.small_node import DECLARATION, POOL, SETTINGS, SmallNode, conf_of, zfs_list

NAME = "vllm-base-snapshot"
DISK = "lxc-disks:subvol-920-disk-0"
LABEL = "phoenix-920: throw-away container {} cloned from 920@vllm-base-snapshot"
THROWN_AWAY = replace(DECLARATION[920], ctid=990, name="clone-990-of-920")


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> SmallNode:
    """A node with the parent and a running 920 that this suite has cloned."""
    one = SmallNode(monkeypatch)
    monkeypatch.setattr("fixtures.template.identity.forget_at_shutdown", lambda _: None)
    monkeypatch.setattr("fixtures.proxmox.docker.own", lambda _: [])
    monkeypatch.setattr("fixtures.run.caveats.for_description", lambda _: "")
    monkeypatch.setattr(seals, "snapshot_facts", lambda _: None)
    monkeypatch.setattr(seals, "keep", lambda *_: None)
    one.files[903] = conf_of(DECLARATION[903], "") + "[docker-gpu-snapshot]\nsnaptime: 1\n"
    one.files[920] = conf_of(DECLARATION[920], Template(one, DECLARATION, 920, SETTINGS).origin)
    one.on.add(920)
    return one


@pytest.fixture
def ours(node: SmallNode, monkeypatch: pytest.MonkeyPatch) -> Template:
    """The template on it."""
    one = Template(node, DECLARATION, 920, SETTINGS)
    monkeypatch.setattr(one.container, "wait_until_booted", lambda _: "running")
    monkeypatch.setattr(node, "containers", lambda: {ctid: {} for ctid in node.files})
    return one


def seal(ours: Template, *, replace: bool = False, accept: bool = True) -> Generation:
    """Seal as a run does, and let it be accepted."""
    build: Any = SimpleNamespace(
        **{"template": ours, "node": ours.node, "mode": REBUILD if replace else BUILD, "invocation": "run"},
        **{
            "image": None,
            "manifest": {"template": {}},
            "steps": [],
            "unwritten": {},
            "lock": SimpleNamespace(held=True),
        },
    )
    with Seal(build) as one:
        one.shut_down()
        one.take_generation()
        one.take_snapshot()
        one.start()
    if accept:
        ours.accept(build.generation)
    return cast(Generation, build.generation)


# --- two snapshots a seal -----------------------------------------------------------------------------


def test_seal_takes_the_generation_first_and_the_declared_name_last(ours: Template, node: SmallNode) -> None:
    """So that `pct rollback` to the declared name, the newest one, stays possible (pve-storage, ZFSPoolPlugin.pm)."""
    seal(ours, accept=False)
    assert node.verbs == ["pct shutdown --timeout", f"pct snapshot {NAME}-g1", f"pct snapshot {NAME}", "pct start"]
    one, two = node.read(920).snapshots.values()
    assert one.description == two.description
    assert one.description.startswith(f"{MARK} sealed ")


def test_what_a_task_warns_of_is_told(ours: Template, node: SmallNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pct start` succeeds with "WARN: Systemd 255 detected. You may need to enable nesting." (pve-container)."""
    told: list[str] = []
    monkeypatch.setattr(changes, "warn", told.append)
    node.err = b"WARN: Systemd 255 detected. You may need to enable nesting.\n  WARNING: of others\n"
    node.on.clear()
    ours.changes.start(920, lambda _: "", 1.0)
    assert told == ["`pct start 920`: Systemd 255 detected. You may need to enable nesting."]


def test_rebuild_is_never_without_an_accepted_snapshot(ours: Template, node: SmallNode) -> None:
    seal(ours)

    def accepted(_: object) -> None:
        found = node.read(920).snapshots.values()
        assert [one for one in found if " accepted " in one.description], f"none is accepted before {node.verbs[-1]}"

    node.before = accepted
    seal(ours, replace=True)
    accepted(None)
    assert sorted(node.read(920).snapshots) == [NAME, f"{NAME}-g2"]


@pytest.mark.parametrize("dies_at", ["snapshot -g2", "delsnapshot", "snapshot"])
def test_seal_that_fails_leaves_an_accepted_snapshot_and_the_container_on(
    ours: Template, node: SmallNode, dies_at: str
) -> None:
    seal(ours)

    def die(argv: tuple[str, ...]) -> None:
        name = {"snapshot -g2": f"{NAME}-g2"}.get(dies_at, NAME)
        if argv[1] == dies_at.partition(" ")[0] and argv[3] == name:
            raise NodeError("the storage is full")

    node.before = die
    with pytest.raises(NodeError, match="the storage is full"):
        seal(ours, replace=True)
    assert [one.name for one in node.read(920).snapshots.values() if " accepted " in one.description]
    assert 920 in node.on
    end = end_state.read(ours)
    words = end_state.sentence(ours, end, None)
    if dies_at == "snapshot":
        assert (
            f"the accepted generation is 920@{NAME}-g1, to clone from: pct clone 920 $(pvesh get /cluster/nextid) "
            in words
        )
        assert f"920@{NAME} was not sealed: there is no such snapshot" in words
    else:
        assert f"920@{NAME} is accepted, generation 1" in words


def test_plain_run_never_replaces_a_snapshot(ours: Template, node: SmallNode) -> None:
    """Whatever it took 920 for when it began."""
    seal(ours)
    done = len(node.done)
    with pytest.raises(TemplateError, match="only --rebuild replaces a snapshot"):
        seal(ours)
    assert len(node.done) == done, "not even shut down"


def test_only_accepted_snapshot_is_not_replaced(ours: Template, node: SmallNode) -> None:
    seal(ours)
    node.delete(920, f"{NAME}-g1")
    done = len(node.done)
    with pytest.raises(TemplateError, match=rf"is the only accepted snapshot .* pct delsnapshot 920 {NAME}$"):
        seal(ours, replace=True)
    assert len(node.done) == done


def test_snapshot_with_a_pasted_description_is_not_replaced(ours: Template, node: SmallNode) -> None:
    made = seal(ours, accept=False)
    node.delete(920, NAME)
    node.snapshot(920, NAME, made.description)
    with pytest.raises(TemplateError, match="is not recorded as this suite's"):
        seal(ours, replace=True)


def test_name_that_somebody_takes_during_the_seal_is_not_ours_by_its_description(
    ours: Template, node: SmallNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_generation = Seal.take_generation

    def somebody(one: Seal) -> None:
        take_generation(one)
        node.snapshot(920, NAME, node.read(920).snapshots[f"{NAME}-g1"].description)

    monkeypatch.setattr(Seal, "take_generation", somebody)
    with pytest.raises(TemplateError, match="only --rebuild replaces a snapshot"):
        seal(ours)
    assert ours.sealed_generation() is None
    assert ours.generations()[-1].took(node.read(920).snapshots[f"{NAME}-g1"])


def test_snapshot_that_comes_during_the_seal_is_not_deleted(ours: Template, node: SmallNode) -> None:
    seal(ours)

    def somebody(argv: tuple[str, ...]) -> None:
        if argv[1] == "delsnapshot":
            node.delete(920, NAME)
            node.snapshot(920, NAME, "mine, by hand")
            node.before = lambda _: None

    node.before = somebody
    with pytest.raises(AssertionError, match="has changed"):
        seal(ours, replace=True)
    assert node.read(920).snapshots[NAME].description == "mine, by hand"


@pytest.mark.parametrize("found", [["rpool/data/mine"], None])
def test_snapshot_with_dependents_or_unknown_ones_is_not_deleted(
    ours: Template, node: SmallNode, monkeypatch: pytest.MonkeyPatch, found: list[str] | None
) -> None:
    """`pct delsnapshot` would leave it half deleted and the container locked."""
    seal(ours)
    monkeypatch.setattr(Template, "dependents", lambda *_: found)
    with pytest.raises(TemplateError, match="was not deleted"):
        seal(ours, replace=True)
    assert not [words for words in node.done if words[1] == "delsnapshot"]


# --- accept -------------------------------------------------------------------------------------------


def test_snapshot_that_another_run_has_made_is_not_accepted(ours: Template, node: SmallNode) -> None:
    made = seal(ours, accept=False)
    seal(ours, replace=True, accept=False)
    with pytest.raises(TemplateError, match="is not what this run has proved"):
        ours.accept(made)
    assert " accepted " not in node.files[920]


def test_nothing_is_accepted_or_changed_without_the_lock(ours: Template, node: SmallNode) -> None:
    made, done = seal(ours, accept=False), len(node.done)
    node.lock = SimpleNamespace(held=False, invocation="run", file="lock")  # type: ignore[assignment]
    for change in (lambda: ours.accept(made), ours.remove, ours.shut_down, lambda: seal(ours, replace=True)):
        with pytest.raises(ChangeRefused, match="does not hold its lock"):
            change()
    assert len(node.done) == done


def test_old_generation_goes_only_after_the_new_one_is_accepted(ours: Template, node: SmallNode) -> None:
    seal(ours)
    made = seal(ours, replace=True, accept=False)
    assert f"{NAME}-g1" in node.read(920).snapshots
    ours.accept(made)
    assert f"{NAME}-g1" not in node.read(920).snapshots


def test_number_of_a_generation_is_not_used_again(ours: Template, node: SmallNode) -> None:
    node.snapshot(920, f"{NAME}-g7", "mine, by hand")
    assert seal(ours).number == 8
    assert f"{NAME}-g7" in node.read(920).snapshots


# --- a seal that was cut short ------------------------------------------------------------------------


def cut(ours: Template, node: SmallNode) -> None:
    """Leave what a power cut between the two snapshots leaves."""
    seal(ours, accept=False)
    node.delete(920, NAME)
    node.on.discard(920)


def test_seal_that_was_cut_short_is_finished(ours: Template, node: SmallNode) -> None:
    cut(ours, node)
    assert ours.situation() is Situation.SEALED
    ours.finish_seal()
    assert sorted(node.read(920).snapshots) == [NAME, f"{NAME}-g1"]
    assert ours.sealed_generation() == ours.generations()[-1]


@pytest.mark.parametrize("what", ["it has run", "storage has written", "it is by hand"])
def test_seal_is_not_finished_on_another_state(ours: Template, node: SmallNode, what: str) -> None:
    cut(ours, node)
    if what == "it has run":
        node.on.add(920)
    elif what == "storage has written":
        node.written = "4096"
    else:
        node.delete(920, f"{NAME}-g1")
        node.snapshot(920, f"{NAME}-g1", "mine")
    assert ours.situation() is Situation.TO_BUILD
    with pytest.raises(TemplateError, match="no seal of it was interrupted"):
        ours.finish_seal()


def test_who_only_looks_uses_what_was_asked_ahead(
    ours: Template, node: SmallNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that finds its template accepted asks the container ahead; what looks at the node must not drop that."""
    seal(ours)
    monkeypatch.setattr(node.channel.prefetched, "forget", lambda: pytest.fail("dropped"))
    assert ours.cut_short() == ""
    assert ours.sealed_generation() == ours.generations()[-1]


def test_seal_that_died_before_it_replaced_the_old_one_is_told(ours: Template, node: SmallNode) -> None:
    """The suite had shut 920 down; an accepted template of before is found existing, and is left as it is."""
    seal(ours)
    assert ours.cut_short() == ""

    def die(argv: tuple[str, ...]) -> None:
        if argv[1] in ("delsnapshot", "start"):
            raise NodeError("the power is gone")

    node.before = die
    with pytest.raises(NodeError, match="the power is gone"):
        seal(ours, replace=True)
    assert ours.situation() is Situation.ACCEPTED
    assert ours.cut_short() == (
        f"the seal of generation 2 was interrupted: {NAME}-g2 is kept until a later one is accepted; "
        "it shut 920 down, which is off now: pct start 920"
    )


# --- destroy ------------------------------------------------------------------------------------------


def test_container_of_ours_is_destroyed_with_its_snapshots(ours: Template, node: SmallNode) -> None:
    seal(ours)
    ours.remove()
    assert 920 not in node.files


ANOTHER = f"{MARK} container 921 cloned from 903@docker-gpu-snapshot"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("phoenix-920:", "mine:"), "was not made by this suite"),
        (lambda text: text.replace("container 920", "container 921"), "was not made by this suite"),
        (lambda text: f"{text}mp0: lxc-disks:subvol-920-disk-1,mp=/data,size=8G\n", "mp0: lxc-disks:subvol-920-disk-1"),
        (lambda text: f"{text}unused0: lxc-disks:subvol-920-disk-7\n", "pct set 920 --delete unused0"),
        (lambda text: f"{text}protection: 1\n", "pct set 920 --delete protection"),
        (lambda text: f"{text}lock: backup\n", r"is locked \(backup\)"),
        (lambda text: f"{text}[before]\nsnaptime: 5\n", "pct delsnapshot 920 before"),
        (
            lambda text: f"{text}[before]\n#phoenix-920%3A sealed x accepted y\nsnaptime: 5\n",
            "not recorded as this suite's",
        ),
    ],
)
def test_what_is_not_ours_is_not_destroyed(
    ours: Template, node: SmallNode, change: Callable[[str], str], said: str
) -> None:
    """Neither destroyed nor stopped: what stands there when it is to be destroyed counts, not what preflight saw."""
    node.files[920] = change(node.files[920])
    with pytest.raises(NodeError, match=said):
        ours.remove()
    assert node.done == []
    assert 920 in node.on


def test_what_comes_after_the_stop_is_seen(ours: Template, node: SmallNode) -> None:
    def somebody(argv: tuple[str, ...]) -> None:
        if argv[1] == "stop":
            node.before = lambda _: None
            node.files[920] += "[mine]\nsnaptime: 5\n"

    node.before = somebody
    with pytest.raises((NodeError, AssertionError)):
        ours.remove()
    assert "mine" in node.read(920).snapshots


@pytest.mark.parametrize("verb", ["remove", "shut_down", "seal", "accept"])
def test_unknown_never_leads_to_a_change(ours: Template, node: SmallNode, verb: str) -> None:
    made = seal(ours, accept=False)
    node.unreadable, done = True, len(node.done)
    verbs: dict[str, Callable[[], object]] = {
        "remove": ours.remove,
        "shut_down": ours.shut_down,
        "seal": lambda: seal(ours, replace=True),
        "accept": lambda: ours.accept(made),
    }
    with pytest.raises(NodeError, match="can't be read"):
        verbs[verb]()
    assert len(node.done) == done


def test_journal_that_cannot_be_read_leads_to_no_change(ours: Template, node: SmallNode) -> None:
    seal(ours)
    done = len(node.done)
    for text in ("half", "[]", "{}", '{"ctid": 920}'):
        node.journal["1"] = text
        for change in (ours.remove, lambda: seal(ours, replace=True)):
            with pytest.raises(NodeError, match="not a generation"):
                change()
    assert len(node.done) == done


def test_container_that_was_made_anew_under_the_number_is_left_alone(ours: Template, node: SmallNode) -> None:
    """Even under our description: its MAC address is another."""
    ours.ensure_cloned()
    node.files[920] = node.files[920].replace("52:54:00:AA:BB:D1", "52:54:00:AA:BB:D2")
    with pytest.raises(ChangeRefused, match="this run worked on"):
        ours.shut_down()
    assert node.done == []


# --- throw-away clones --------------------------------------------------------------------------------


def test_only_throw_away_clones_of_ours_are_removed(node: SmallNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a container of another, nor a clone of ours that somebody made, nor one outside the range."""
    declared = DECLARATION[920]
    node.files = {
        900: conf_of(declared, LABEL.format(900)),
        990: conf_of(replace(declared, name="clone-990-of-920"), LABEL.format(990)),
        991: conf_of(declared, LABEL.format(990)),
    }
    node.on = {990}
    monkeypatch.setattr(node, "containers", lambda: {ctid: {} for ctid in node.files})
    assert ephemeral_clone.remove_left(node, SETTINGS, "lxc-disks") == [990]
    assert node.verbs == ["pct stop", "pct destroy"]
    assert sorted(node.files) == [900, 991]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("lock: backup\n", r"locked \(backup\).*pct unlock 990"),
        ("mp0: lxc-disks:subvol-990-disk-1,mp=/data\n", "more volumes than its own"),
        ("[mine]\nsnaptime: 1\n", "it has snapshots that this suite did not take: mine; pct delsnapshot 990 mine"),
        ("hostname: web\n", "is called 'web', not clone-990-of-.*pct destroy 990"),
    ],
)
def test_throw_away_clone_that_holds_something_is_left(
    node: SmallNode, monkeypatch: pytest.MonkeyPatch, more: str, said: str
) -> None:
    node.files = {990: conf_of(THROWN_AWAY, LABEL.format(990)) + more}
    monkeypatch.setattr(node, "containers", lambda: {ctid: {} for ctid in node.files})
    with pytest.raises(NodeError, match=said):
        ephemeral_clone.remove_left(node, SETTINGS, "lxc-disks")
    assert node.done == []


@pytest.mark.parametrize("number", [920, 990])
def test_container_goes_with_no_snapshot_that_only_the_storage_has(
    ours: Template, node: SmallNode, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """`pct destroy` removes them unasked; what a seal of ours has left is no hindrance."""
    node.files[990] = conf_of(THROWN_AWAY, LABEL.format(990)).replace("-920-", "-990-")
    monkeypatch.setattr(node, "containers", lambda: {ctid: {} for ctid in node.files})
    node.stored = ["by-hand"]
    with pytest.raises(NodeError, match=f"unknown to its configuration.*zfs destroy .*-{number}-disk-0@by-hand"):
        ours.remove() if number == 920 else ephemeral_clone.remove_left(node, SETTINGS, "lxc-disks")
    assert node.done == []
    node.stored = [NAME]
    ours.remove()
    assert 920 not in node.files


def test_snapshot_that_somebody_puts_in_the_place_of_the_accepted_one_is_not_accepted(
    ours: Template, node: SmallNode
) -> None:
    """Its description is pasted, and so says the same."""
    made = seal(ours)
    assert ours.is_accepted(made)
    text = node.read(920).snapshots[NAME].description
    node.delete(920, NAME)
    node.snapshot(920, NAME, text)
    assert not ours.is_accepted(made)
    end = end_state.read(ours)
    words = end_state.sentence(ours, end, None)
    assert "no record of such a seal" in words
    assert f"the accepted generation is 920@{NAME}-g1" in words


def test_declared_start_with_the_node_is_set(node: SmallNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "containers", lambda: {ctid: {} for ctid in node.files})
    declared = replace(DECLARATION[920], onboot=True, startup="order=2,up=30")
    one = Clone(node, declared, DECLARATION[903], SETTINGS)
    node.files[920] = conf_of(declared, one.origin)
    one.ensure_cloned()
    assert node.done[-1][-4:] == ("--onboot", "1", "--startup", "order=2,up=30")
    done = len(node.done)
    node.files[920] = conf_of(declared, one.origin, onboot="1", startup="order=2,up=30")
    one.ensure_cloned()
    assert len(node.done) == done


def test_throw_away_clone_does_not_inherit_protection(node: SmallNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could not be destroyed again."""
    declared = replace(DECLARATION[920], ctid=990)
    one = ephemeral_clone.EphemeralClone(node, declared, DECLARATION[920], SETTINGS)

    def clone(_: Clone) -> None:
        node.files[990] = conf_of(declared, LABEL.format(990), **protected)

    monkeypatch.setattr(Clone, "_clone", clone)
    monkeypatch.setattr(node, "containers", lambda: {ctid: {} for ctid in node.files})
    protected: dict[str, str] = {}
    one.ensure_cloned()
    assert node.done == []
    del node.files[990]
    protected = {"protection": "1"}
    one.ensure_cloned()
    assert node.done == [("pct", "set", "990", "--delete", "protection")]


# --- node and storage ---------------------------------------------------------------------------------

HALF = "lock: create\nnet0: hwaddr=BC:24:11:00:00:01\n"  # of a clone whose worker died: no root disk


def repaired(node: SmallNode, ctid: int = 920) -> list[str]:
    origin = Template(node, DECLARATION, 920, SETTINGS).origin
    return repair.half_made_clone(node, SETTINGS, ctid, source=903, storage="lxc-disks", origin=origin)


def test_half_made_clone_is_removed_with_its_volume_and_its_lock(ours: Template, node: SmallNode) -> None:
    node.files[920] = f"#{ours.origin}\n{HALF}"
    node.on.discard(920)
    node.files[903] = "lock: disk\n" + node.files[903].partition("\n")[2]
    node.volumes[920] = ["lxc-disks:subvol-920-disk-0"]
    assert len(repaired(node)) == 3
    assert node.verbs == ["pct unlock", "pct destroy", "pvesm free", "pct unlock"]
    assert (920 in node.files, node.volumes[920], node.read(903).lock) == (False, [], "")


CLONING = {"upid": "UPID:n:1:2:3:vzclone:903:root@pam:", "id": "903", "type": "vzclone"}
BACKUP_OF_ALL = {"upid": "UPID:n:1:2:3:vzdump::root@pam:", "id": "", "type": "vzdump"}
SHELL = {"upid": "UPID:n:1:2:3:vncshell::root@pam:", "id": "", "type": "vncshell"}


@pytest.mark.parametrize("who", ["volume", "lock"])
def test_half_made_clone_leaves_what_others_have_taken_meanwhile(ours: Template, node: SmallNode, who: str) -> None:
    """Another node of the cluster has made a container of that number, or a task works on the parent."""
    node.files[920] = f"#{ours.origin}\n{HALF}"
    node.files[903] = "lock: disk\n" + node.files[903].partition("\n")[2]
    node.on.discard(920)
    node.volumes[920] = ["lxc-disks:subvol-920-disk-0"] if who == "volume" else []

    def others(argv: tuple[str, ...]) -> None:
        if argv[1] == "destroy" and who == "volume":
            node.elsewhere[920] = Guest("lxc", "m")
        elif argv[1] == "destroy":
            node.active = [CLONING]

    node.before = others
    with pytest.raises(NodeError, match=r"920 is a machine on m now|UPID"):
        repaired(node)
    assert node.verbs == ["pct unlock", "pct destroy"]


@pytest.mark.parametrize(
    ("text", "active"),
    [
        (f"#mine\n{HALF}", []),
        (f"#phoenix-920: container 921 cloned from 903@docker-gpu-snapshot\n{HALF}", []),
        (f"#phoenix-920: container 920 cloned from 903@docker-gpu-snapshot\n{HALF}", [CLONING]),
        (f"#phoenix-920: container 920 cloned from 903@docker-gpu-snapshot\n{HALF}", [BACKUP_OF_ALL]),
        (f"#phoenix-920: container 920 cloned from 903@docker-gpu-snapshot\n{HALF}", [*[SHELL] * 60, CLONING]),
        ("#phoenix-920: container 920 cloned from 903@docker-gpu-snapshot\nrootfs: x\nlock: backup\n", []),
    ],
)
def test_what_is_not_half_made_or_not_ours_is_left(node: SmallNode, text: str, active: list[dict[str, str]]) -> None:
    node.files[920] = text
    node.active = active
    with pytest.raises(NodeError, match="UPID") if active else contextlib.nullcontext():
        assert repaired(node) == []
    assert node.done == []


@pytest.mark.parametrize(("state", "stored"), [("prepare", True), ("prepare", False), ("delete", True)])
def test_half_made_snapshot_of_a_seal_is_removed(ours: Template, node: SmallNode, state: str, stored: bool) -> None:
    seal(ours, accept=False)
    node.journal["1"] = node.journal["1"].replace(f'"{NAME}": 1002', '"other": 1')  # its time was not noted
    found = node.read(920)
    found.head.values["lock"] = repair.LOCKS[state]
    found.sections[NAME].values["snapstate"] = state
    node.write(920, found)
    node.stored, before = [f"{NAME}-g1", *[NAME] * stored], len(node.done)
    (said,) = repair.half_made_snapshot(ours)
    assert f"snapstate: {state}" in said
    assert node.done[before:] == [
        ("pct", "unlock", "920"),
        ("pct", "delsnapshot", "920", NAME, *["--force"] * (not stored)),
    ]


@pytest.mark.parametrize(("lock", "description"), [("snapshot", "mine"), ("backup", None)])
def test_half_made_snapshot_of_another_is_left(
    ours: Template, node: SmallNode, lock: str, description: str | None
) -> None:
    made = seal(ours, accept=False)
    node.delete(920, NAME)
    node.snapshot(920, NAME, description or made.description)
    found, before = node.read(920), len(node.done)
    found.head.values["lock"] = lock
    found.sections[NAME].values["snapstate"] = "prepare"
    node.write(920, found)
    assert repair.half_made_snapshot(ours) == []
    assert len(node.done) == before


def test_snapshot_on_one_side_only_is_named_with_its_fix(ours: Template, node: SmallNode) -> None:
    """As SIGTERM to `pct snapshot` leaves it; a name that no seal takes is its owner's own."""
    seal(ours)
    node.stored = [f"{NAME}-g1", NAME, "zfs-auto-snap_daily"]
    assert ours.mismatches(node.read(920)) == []
    node.stored = [f"{NAME}-g1", f"{NAME}-g2"]
    one, two = ours.mismatches(node.read(920))
    assert ": ".join(one).endswith(f"has no such snapshot of {DISK}: pct delsnapshot 920 {NAME} --force")
    assert ": ".join(two).endswith(f"does not know: zfs destroy rpool/data/subvol-920-disk-0@{NAME}-g2")


def test_a_storage_is_asked_once_for_all_snapshots_of_a_volume(ours: Template, node: SmallNode) -> None:
    """Over ssh each question is a trip, and every run that only compares asks."""
    seal(ours)
    with mock.patch.object(node, "run", wraps=node.run) as run:
        assert ours.mismatches(node.read(920)) == []
    assert sum(call.args[0] == "zfs" for call in run.call_args_list) == 1


def test_each_volume_is_compared(ours: Template, node: SmallNode) -> None:
    """`pct snapshot` takes all of them, and fails on any that has the name already: at the seal, after the proof."""
    found = node.read(920)
    found.head.values |= {"mp0": "tank:subvol-920-disk-1,mp=/models", "mp1": "/srv,mp=/srv"}
    node.write(920, found)
    stored = {DISK: [], "tank:subvol-920-disk-1": [NAME]}

    def run(*argv: str, **_: object) -> Command:
        names = next(names for volume, names in stored.items() if argv[-1].endswith(volume.partition(":")[2]))
        return Command("n", argv, 0.0, 0.0, 0, zfs_list(argv[-1], names).encode(), b"")

    with mock.patch.object(node, "run", run):
        (one,) = integrity.mismatches(node, 920, found, [NAME])
    assert one.what.startswith(f"the storage has a snapshot {NAME} of tank:subvol-920-disk-1 that the configuration")


@pytest.mark.parametrize(
    ("kind", "stored", "throw_away", "said"),
    [
        ("zfspool", [], False, ""),
        (
            "zfspool",
            ["mine"],
            False,
            "configuration: mine; if not needed: zfs destroy rpool/data/subvol-920-disk-0@mi",
        ),
        ("zfspool", ["mine"], True, "configuration: mine"),
        ("zfspool", ["autosnap_2026-11-29_03:00:01_hourly"], False, "configuration: autosnap_"),
        (
            "zfspool",
            ["__replicate_920-0_1795000000__"],
            False,
            r"replicate_\S+; if not needed: pvesr delete 920-0$",
        ),
        ("zfspool", ["autosnap_2026-11-29_03:00:01_hourly", "zfs-auto-snap_hourly-x"], True, ""),
        ("rbd", [], False, r"storage lxc-disks \(rbd\) does not say which snapshots"),
        ("rbd", [], True, ""),
        ("dir", [], False, ""),
    ],
)
def test_snapshots_that_would_go_with_a_container(
    ours: Template, kind: str, stored: list[str], throw_away: bool, said: str
) -> None:
    """What the clock took of a throw-away clone is nobody's; what it took of a template is its owner's."""
    node = cast(SmallNode, ours.node)
    node.stored = stored
    with mock.patch.object(node, "storage", return_value={"type": kind, "pool": POOL}):
        reason = integrity.only_in_storage(node, node.read(920), throw_away=throw_away)
    assert re.search(said, reason) if said else not reason


def test_snapshot_that_a_seal_has_left_on_the_storage_only_is_named(ours: Template, node: SmallNode) -> None:
    """Its generation was noted before it was taken; the next seal takes another name, and its space stayed taken."""
    seal(ours)

    def die(argv: tuple[str, ...]) -> None:
        if argv[:2] == ("pct", "snapshot"):
            raise NodeError("received interrupt")

    node.before = die
    with pytest.raises(NodeError):
        seal(ours, replace=True)
    node.stored = [f"{NAME}-g1", NAME, f"{NAME}-g2"]
    (one,) = ours.mismatches(node.read(920))
    assert one.fix == f"zfs destroy rpool/data/subvol-920-disk-0@{NAME}-g2"


def test_btrfs_snapshot_is_deleted_by_its_number() -> None:
    """Wherever it lies: a listing has paths from the top of the file system, not from where that is mounted."""
    table = (
        "ID 257 gen 30 cgen 5 top level 5 otime 2026-11-25 02:14:31 uuid u1 path a/vm-920-disk-0@one\n"
        "ID 258 gen 30 cgen 5 top level 5 otime 2026-11-25 02:14:31 uuid u2 path a/vm-1920-disk-0@two\n"
    )

    node = SimpleNamespace(ask=lambda *_: table, storage=lambda _: {"type": "btrfs", "path": "/pool"})
    found = Volume(node, "pool:920/vm-920-disk-0.raw").snapshots()  # type: ignore[arg-type]
    delete = "btrfs subvolume delete --subvolid 257 /pool/images/920/vm-920-disk-0"
    assert found == {"one": StoredSnapshot(delete, {"uuid": "u1", "generation": "5"}, [])}


def test_nothing_is_cloned_on_a_reading_that_was_not_whole(ours: Template, node: SmallNode) -> None:
    """The node compares only the clone's own file with what was read, so the parent's is read twice."""
    seal(ours)
    whole, before = node.files[920], len(node.done)
    cut = conf.parse(whole[: whole.index("[vllm-base-snapshot]") + 40].encode())
    with (
        mock.patch.object(ours.changes, "read", side_effect=[cut, conf.parse(whole.encode())]),
        pytest.raises(ChangeRefused, match=r"nothing was cloned: .*has just changed"),
    ):
        ours.changes.clone(920, NAME, 990, deadline=1.0)
    assert len(node.done) == before


def test_nothing_is_cloned_over_a_volume_without_a_container(ours: Template, node: SmallNode) -> None:
    """It would be freed with the clone if that died."""
    del node.files[920]
    node.volumes[920] = ["lxc-disks:subvol-920-disk-0"]
    with pytest.raises(BuildError, match="pvesm free lxc-disks:subvol-920-disk-0"):
        ours.ensure_cloned()
    assert node.done == []


# --- the file -----------------------------------------------------------------------------------------


def test_configuration_file_is_read() -> None:
    found = conf.parse(
        b"#phoenix-920%3A container 920%25\n#second\nhostname: x\nlxc.mount.entry: /a b none bind\nlock: backup\n\n"
        b"[pve:pending]\nmemory: 5\n\n[end]\n#by hand\nsnaptime: 12\nsnapstate: prepare\nparent: x\n"
    )
    assert found.head.description == "phoenix-920: container 920%\nsecond"
    assert found.head.values == {"hostname": "x", "lock": "backup"}
    assert found.lock == "backup"
    (snapshot,) = found.snapshots.values()
    assert (snapshot.name, snapshot.description, snapshot.taken, snapshot.state) == ("end", "by hand", 12, "prepare")


@pytest.mark.parametrize(("printed", "unchanged"), [("0", True), ("4096", False), ("", False), ("-", False)])
def test_zfs_says_whether_something_was_written(node: SmallNode, printed: str, unchanged: bool) -> None:
    """As OpenZFS 2.2 prints `written@SNAPSHOT` with -H -p."""
    asked: list[tuple[str, ...]] = []

    def run(*argv: str, **_: object) -> Command:
        asked.append(argv)
        return Command("n", argv, 0.0, 0.0, 0, f"{printed}\n".encode(), b"")

    with mock.patch.object(node, "run", run):
        assert Volume(node, DISK).unchanged_since(f"{NAME}-g1") is unchanged
    assert asked[0][-2:] == (f"written@{NAME}-g1", "rpool/data/subvol-920-disk-0")


def test_no_other_module_changes_a_container() -> None:
    """Whoever wants a change goes through `fixtures.proxmox.changes`; `pct exec` is the way into a container."""
    verbs = (
        "clone|create|delete|delsnapshot|destroy|free|reboot|resize|rollback|set|shutdown|snapshot|start|stop|unlock"
    )
    verb = re.compile(rf'"(pct|pvesh|pvesm)", "({verbs})"')
    engine = Path(conf.__file__).parent.parent
    found = [path.name for path in engine.rglob("*.py") if verb.search(path.read_text())]
    assert found == ["changes.py"]
