"""Preflight: this node can do it. What would fail later is found now; only what a killed run has left is changed."""

import pytest

from fixtures.build import Build
from fixtures.foresight import unseen
from fixtures.machines import address, conf
from fixtures.machines.changes import protection
from fixtures.machines.node import Node, net_option, plain_description
from fixtures.machines.tasks import RUNNING
from fixtures.settings import Settings
from fixtures.templates import storage, throw_away
from fixtures.templates.clone import MARK
from fixtures.templates.repair import half_made_clone, half_made_snapshot
from fixtures.templates.template import Situation, Template, bind_mounts
from fixtures.warning import warn

pytestmark = [pytest.mark.stage("preflight"), pytest.mark.order(10)]


@pytest.mark.on_existing
@pytest.mark.parent
def test_node_is_proxmox(node: Node) -> None:
    """The node answers and is a Proxmox VE node."""
    assert node.version.startswith("pve-manager/"), (
        f"`pveversion` says {node.version!r}: {node.name} is no Proxmox VE node; name one with --node"
    )


def test_no_other_run_works_on_it(build: Build) -> None:
    """This run holds the node's lock on 920, so no other run works on 920."""
    assert build.lock.held, (
        f"the lock on {build.template.ctid} is not held: {build.lock.problem or 'it was lost'}; run again"
    )


@pytest.mark.parent
def test_parent_is_as_declared(node: Node, template: Template) -> None:
    """The parent container exists on the node under its declared name."""
    parent = template.parent
    containers = node.containers()
    assert parent.ctid in containers, f"container {parent.ctid} ({parent.name}) is not there; build it first"
    name = containers[parent.ctid].get("name", "")
    assert name == parent.name, (
        f"container {parent.ctid} is called {name!r}, declared is {parent.name!r}: it may be another machine; "
        f"correct the declaration, or: pct set {parent.ctid} --hostname {parent.name}"
    )


@pytest.mark.parent
def test_parent_snapshot_is_whole(node: Node, template: Template) -> None:
    """The parent's snapshot, which 920 is cloned from, is complete."""
    snapshots = node.snapshots(template.parent.ctid)
    name = f"{template.parent.ctid}@{template.parent_snapshot}"
    assert template.parent_snapshot in snapshots, f"{name} is not there, only {sorted(snapshots)}"
    assert snapshots[template.parent_snapshot].whole, f"{name} is half made: its build was cut short"


@pytest.mark.parent
def test_parent_has_no_bind_mount(node: Node, template: Template) -> None:
    """The parent has only volumes that can be cloned and snapshotted."""
    mounts = bind_mounts(node.config(template.parent.ctid, template.parent_snapshot))
    assert not mounts, f"bind mounts can't be cloned or snapshotted: {mounts}"


@pytest.mark.on_existing
def test_earlier_changes_have_ended(build: Build) -> None:
    """No command of an earlier run still changes the node; a warning reports how each one ended."""
    assert not build.earlier_unknown, f"it is not known whether an earlier run still works: {build.earlier_unknown}"
    running = [str(task) for task in build.earlier if task.state == RUNNING]
    assert not running, f"an earlier run's {'; '.join(running)}; wait for its end, then run this again"
    for task in build.earlier:
        warn(f"an earlier run was cut off from its {task}")


@pytest.mark.on_existing
def test_situation_is_known(build: Build) -> None:
    """The state of 920 is known: to be built, sealed, or accepted."""
    assert build.situation is not Situation.UNKNOWN, (
        f"where {build.template.ctid} stands could not be read, so nothing is changed: {build.unknown}; "
        f"expected are its snapshots: pct listsnapshot {build.template.ctid}"
    )


@pytest.mark.on_existing
def test_no_clone_is_left(node: Node, template: Template, build: Build) -> None:
    """No throw-away clone of an earlier run exists; a run that may change the node removes it."""
    settings, storage = build.settings, template.declared.storage_pool
    left = throw_away.left(node, settings) if build.verify else throw_away.remove_left(node, settings, storage)
    if left:
        warn(f"an earlier run was killed and had left {left}{' there' if build.verify else ''}")


@pytest.mark.on_existing
def test_nothing_half_made_is_left(node: Node, template: Template, build: Build) -> None:
    """No interrupted clone or seal left anything half-made; a build removes what this suite made."""
    if build.verify or build.accept or build.parent_only:
        return  # nothing is changed: the checks of locks and snapshots name it
    pool, source, ours = template.declared.storage_pool, template.parent.ctid, template.origin.__eq__
    done = half_made_clone(node, build.settings, template.ctid, source=source, storage=pool, ours=ours)
    done += half_made_snapshot(template)
    if done:
        warn(f"an earlier run died; removed what it had left: {'; '.join(done)}")
    if said := template.cut_short() if template.exists else "":
        warn(said)


@pytest.mark.on_existing
def test_nothing_holds_a_lock(node: Node, template: Template, build: Build) -> None:
    """No task holds a lock on 920, nor on its parent during a build."""
    numbers = [template.ctid] if build.only_reads else [template.ctid, template.parent.ctid]
    found = {ctid: conf.read(node, ctid) for ctid in numbers}
    held = {ctid: one.lock for ctid, one in found.items() if one and one.lock}
    assert not held, (
        f"locked: {held}; wait for the task: pvesh get /nodes/{node.name}/tasks --source active; if there is none, "
        f"it died: pct unlock {min(held)}"
    )


@pytest.mark.on_existing
def test_storage_agrees_with_the_configuration(node: Node, template: Template) -> None:
    """920's storage and configuration list the same sealed snapshots, and all are complete."""
    found = conf.read(node, template.ctid)
    assert not found or not (apart := template.mismatches(found)), "; ".join(map(str, apart))


def test_snapshot_may_be_replaced(template: Template, build: Build) -> None:
    """This suite made the snapshot that --rebuild replaces."""
    foreign = template.foreign_snapshots(template.changes.read(template.ctid)) if template.exists else []
    assert not build.rebuild or template.snapshot_name not in foreign, (
        f"{template.ctid}@{template.snapshot_name} is not of this suite, so --rebuild does not remove it; if it can "
        f"go: pct delsnapshot {template.ctid} {template.snapshot_name}"
    )


def test_container_may_be_destroyed(template: Template, build: Build) -> None:
    """With --rebuild-clone, 920 is not protected, and this suite made everything that is destroyed."""
    if not build.rebuild_clone or not template.exists:
        return
    found = template.changes.read(template.ctid)
    reason = protection(found, template.ctid) or template.removable(found)
    assert not reason, f"container {template.ctid} was not changed: {reason}"


def test_nothing_depends_on_the_snapshot(template: Template, build: Build) -> None:
    """Nothing on the storage depends on the snapshot that a rebuild replaces."""
    asked = build.replaces and template.snapshot()
    dependents = storage.dependents(template, template.snapshot_name) if asked else []
    if dependents is None:
        unseen(f"whether something depends on {template.ctid}@{template.snapshot_name}: its storage does not say")
    assert not dependents, (
        f"{dependents} on the storage depend on {template.ctid}@{template.snapshot_name}, so --rebuild does not "
        "replace it: remove them, or make full copies of them"
    )


def test_clone_has_a_place(node: Node, template: Template, settings: Settings, build: Build) -> None:
    """A number and an address are free for the throw-away clone."""
    if not build.no_clone:
        assert throw_away.choose(node, template.declared, settings).ctid in settings.clone_ctids


def test_number_is_free_or_a_container(node: Node, template: Template) -> None:
    """The number 920 is free, or belongs to a container of the declared name."""
    guest, expected = node.guests().get(template.ctid), ("lxc", template.declared.name)
    if guest is None:
        return
    where = guest.get("node", node.name)
    assert where == node.name, (
        f"{template.ctid} is on {where}, another node of the cluster, where it is not built; expected is {node.name}: "
        f"name {where} with --node, or on {where}: pct migrate {template.ctid} {node.name}"
    )
    found = guest["type"], node.containers().get(template.ctid, guest).get("name")  # the cluster may not know it yet
    assert found == expected, f"{template.ctid} is taken by {found}, declared is {expected}"


def test_container_is_of_the_declared_parent(node: Node, template: Template) -> None:
    """A 920 that this suite made was cloned from the declared parent's snapshot."""
    said = plain_description(node.config(template.ctid)) if template.exists else ""
    assert not said.startswith(MARK) or said == template.origin, (
        f"{template.ctid} has the description {said!r}, expected is {template.origin!r}: it is not what is declared, "
        f"so it is left alone; if it can go: pct destroy {template.ctid}"
    )


def test_address_is_free(node: Node, template: Template) -> None:
    """No other container of the node has the address of 920."""
    others = [ctid for ctid in node.containers() if ctid != template.ctid]
    mine = template.declared.network.address
    clash = [ctid for ctid in others if net_option(str(node.config(ctid).get("net0", "")), "ip").split("/")[0] == mine]
    assert not clash, f"{mine} is the address of {clash} too; a clone keeps its parent's: pct set {clash[0]} --net0 ..."


def test_nobody_answers_at_the_address(node: Node, template: Template) -> None:
    """No other machine of the network answers at the address of 920."""
    if template.exists and node.running(template.ctid):
        return  # it answers itself
    net = template.declared.network
    owner = address.owner(node, net.bridge, net.address)
    if owner is None:
        unseen(f"whether somebody answers at {net.address}: {node.name} has no arping (package iputils-arping)")
    assert not owner, f"{owner} answers at {net.address}, the address of {template.ctid}; find it: ip neigh, pct list"


def test_gpus_are_passed_where_it_counts(node: Node, template: Template) -> None:
    """The configuration passes the GPUs outside of snapshot sections."""
    there, effective = (template.ctid, "") if template.exists else (template.parent.ctid, template.parent_snapshot)
    found = conf.read(node, there)
    assert found, f"container {there} is not there"
    lines = conf.misplaced(found, effective, template.declared.gpus)
    assert not lines, (
        f"/etc/pve/lxc/{there}.conf passes GPUs where that has no effect: {lines}; what stands below a [heading] "
        f"belongs to that snapshot: pct set {there} --dev0 /dev/nvidia0,... and then a new snapshot"
    )
