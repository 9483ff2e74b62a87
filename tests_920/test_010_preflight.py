"""Preflight: finds now what would fail later. Changes only what a killed run left behind."""

import re

import pytest

from fixtures.base.errors import meant, refuse_unseen, unexpected
from fixtures.base.text import short
from fixtures.base.warning import warn
from fixtures.proxmox import address, conf, integrity
from fixtures.proxmox.address import no_bridge
from fixtures.proxmox.changes import protection
from fixtures.proxmox.node import Node, NodeError, addresses_of
from fixtures.proxmox.tasks import RUNNING
from fixtures.run.build import Build
from fixtures.run.mode import May
from fixtures.template import ephemeral_clone, generations
from fixtures.template.clone import MARK
from fixtures.template.differences import bind_mounts, is_unprivileged, volumes
from fixtures.template.repair import half_made_clone, half_made_snapshot
from fixtures.template.template import SNAPSHOT_STORAGE, Situation, Template

PARENT = pytest.mark.needs("test_parent_is_as_declared")
KNOWN = pytest.mark.needs("test_situation_is_known")
# an API that does not answer its first question answers none of the others
pytestmark = [
    pytest.mark.stage("preflight"),
    pytest.mark.order(10),
    pytest.mark.needs_answer("test_parent_is_as_declared"),
]


@pytest.mark.asks_node
@pytest.mark.on_existing
@pytest.mark.parent
def test_node_is_proxmox(node: Node) -> None:
    """The node answers and is a Proxmox VE node."""
    assert node.version.startswith("pve-manager/"), unexpected(
        f"`pveversion` prints {node.version!r} on {node.name}",
        "'pve-manager/...'",
        cause="this is not a Proxmox VE node: name one with --node",
        run="pveversion",
    )
    assert node.name, unexpected("`hostname` on the node prints nothing", "its name", run="hostname")


def test_no_other_run_works_on_it(build: Build) -> None:
    """This run holds the node's lock on the template, so no other run works on it."""
    assert build.lock.held, unexpected(
        f"the lock on {build.template.ctid} is not held: {build.lock.problem or 'it was lost'}",
        "that this run holds the lock",
        run=f"ls -l {build.lock.file}",
    )


@pytest.mark.parent
def test_parent_is_as_declared(node: Node, template: Template) -> None:
    """The parent container exists under its declared name, with the declared privilege."""
    parent = template.parent
    containers = node.containers()
    other = node.cluster_files.elsewhere.get(parent.ctid)
    is_container = other is not None and other.kind == "lxc"
    where = f"a {'container' if is_container else 'virtual machine'} on {other.node}" if other else ""
    managed = is_container and parent.ctid in node.cluster_files.managed
    moved = (
        f"; HA manages it and may have moved it, perhaps as {node.name} is in maintenance: ha-manager status" * managed
    )
    assert parent.ctid in containers, unexpected(
        f"{parent.ctid} is {where}" if where else f"container {parent.ctid} does not exist",
        f"the parent {parent.name}, a container on {node.name}",
        cause=f"name {other.node} with --node; if the GPUs are in {node.name}, stop {parent.ctid} and on {other.node}: "
        f"{f'ha-manager migrate ct:{parent.ctid}' if managed else f'pct migrate {parent.ctid}'} {node.name}{moved}"
        if other and is_container
        else "correct clone_from_template_ctid"
        if where
        else "",
        run="pvesh get /cluster/resources --type vm" if where else "pct list",
    )
    found = node.configuration(parent.ctid)
    assert not integrity.half_made(found), locked(node, {parent.ctid: found}, parent.ctid, template.ctid)
    name = containers[parent.ctid].name
    assert name == parent.name, unexpected(
        f"container {parent.ctid} is called {name!r}",
        repr(parent.name),
        cause="this may be another container, or the declaration is wrong",
        run=f"pct config {parent.ctid}",
    )
    kinds = {True: "an unprivileged", False: "a privileged"}
    wanted, snapshot = template.declared.unprivileged, template.parent_snapshot
    unprivileged = is_unprivileged(node.config(parent.ctid))
    archive, again = f"/var/tmp/vzdump-lxc-{parent.ctid}-*.tar", f"pct snapshot {parent.ctid} {snapshot}"
    restored = f"--force --unprivileged {int(wanted)} --storage {template.declared.storage_pool}"
    assert unprivileged == wanted, unexpected(
        f"{parent.ctid} is {kinds[unprivileged]} container",
        f"{kinds[wanted]} one, as {template.ctid} is declared",
        cause="a clone keeps the flag and the owners of the files, which only a restore changes together; it "
        f"replaces {parent.ctid}, and removes its snapshots and the volumes without backup=1",
        run=f"pct shutdown {parent.ctid}; vzdump {parent.ctid} --mode stop --compress 0 --dumpdir /var/tmp && "
        f"pct restore {parent.ctid} {archive} {restored} && {again}",
    )
    older = snapshot in found.snapshots and is_unprivileged(node.config(parent.ctid, snapshot)) != wanted
    assert not older, unexpected(
        f"{parent.ctid}@{snapshot} is of {kinds[not wanted]} container, though {parent.ctid} is {kinds[wanted]} one",
        f"a snapshot of {kinds[wanted]} one, as {template.ctid} is declared",
        cause="a clone of a snapshot keeps the snapshot's flag and owners: retake it",
        run=f"pct delsnapshot {parent.ctid} {snapshot}; {again}",
    )
    if unprivileged != parent.unprivileged:
        warn(
            f"{parent.ctid} is declared as {kinds[parent.unprivileged]} container, but it is {kinds[unprivileged]} one"
        )


@PARENT
@pytest.mark.parent
def test_parent_snapshot_is_whole(node: Node, template: Template) -> None:
    """The parent's snapshot, which the template is cloned from, is complete."""
    ctid, found = template.parent.ctid, node.configuration(template.parent.ctid)
    snapshots = found.snapshots
    name = f"{ctid}@{template.parent_snapshot}"
    pools = {key: each.partition(":")[0] for key, each in volumes(node.config(ctid)).items()}
    kinds = {key: node.cluster_files.storages.get(pool, {}).get("type", "") for key, pool in pools.items()}
    unable = [key for key, kind in kinds.items() if kind and kind not in SNAPSHOT_STORAGE]
    where = ", ".join(f"{key} is on storage {pools[key]} of type {kinds[key]}" for key in unable)
    take = f"pct snapshot {ctid} {template.parent_snapshot}"
    moves = "".join(f"pct move-volume {ctid} {key} STORAGE; " for key in unable)
    assert template.parent_snapshot in snapshots, unexpected(
        f"{name} does not exist, only {sorted(snapshots)}",
        "a snapshot of the declared name",
        cause=f"{where}, which has no snapshots for containers: move it to one of type {', '.join(SNAPSHOT_STORAGE)}"
        if unable
        else "take it of the finished parent, or correct template_snapshot_name",
        run=f"pct shutdown {ctid}; {moves}{take}" if unable else f"pct listsnapshot {ctid}; {take}",
    )
    state = snapshots[template.parent_snapshot].state
    assert not state, locked(node, {ctid: found}, ctid, seen=f"the parent's {name} is incomplete (snapstate: {state})")


@PARENT
@pytest.mark.needs("test_parent_snapshot_is_whole")
@pytest.mark.parent
def test_parent_has_no_bind_mount(node: Node, template: Template) -> None:
    """The parent has only volumes that can be cloned and snapshotted."""
    mounts = bind_mounts(node.config(template.parent.ctid, template.parent_snapshot))
    keys = ",".join(mount.partition(":")[0] for mount in mounts)
    assert not mounts, unexpected(
        f"the parent has {mounts}",
        "volumes only",
        cause="bind mounts can't be cloned or snapshotted",
        run=f"pct set {template.parent.ctid} --delete {keys}",
    )


def test_storage_can_snapshot(node: Node, template: Template) -> None:
    """The declared storage can take snapshots."""
    pool, storages = template.declared.storage_pool, node.cluster_files.storages
    near, limits = meant(pool, storages), storages.get(pool, {}).get("nodes", "")
    assert pool in storages, unexpected(
        f"{node.name} has no storage named {pool}, only {', '.join(storages) or 'none'}",
        "the declared storage_pool",
        cause=f"did you mean {near}?" if near else "declare one that takes containers, or add it: pvesm add",
        run="pvesm status --content rootdir",
    )
    nodes = list(filter(None, re.split(r"[,;\s]+", limits)))  # PVE::Tools::split_list
    assert not nodes or node.name in nodes, unexpected(
        f"storage {pool} is not available on {node.name}: storage.cfg limits it to nodes {','.join(nodes)}",
        f"a storage of {node.name}",
        cause=f"only if its pool is on {node.name} too, add the node; else declare another storage_pool "
        f"(pvesm status --content rootdir), or run where it is: --node {nodes[0] if nodes else ''}",
        run=f"pvesm set {pool} --nodes {','.join([*nodes, node.name])}",
    )
    defined = storages[pool]
    kind = defined["type"]
    assert defined.get("disable", "0").lower() in ("0", "no", "off", "false"), unexpected(
        f"storage {pool} is disabled",
        "an enabled one",
        cause="enable it, or declare another storage_pool",
        run=f"pvesm set {pool} --disable 0",
    )
    assert kind in SNAPSHOT_STORAGE, unexpected(
        f"storage {pool} is of type {kind}, which has no snapshots for containers",
        f"type {', '.join(SNAPSHOT_STORAGE)}",
        cause="declare another storage_pool",
        run="pvesm status",
    )
    content = defined.get("content", "rootdir")  # a storage whose section names none takes containers
    assert "rootdir" in content.split(","), unexpected(
        f"storage {pool} takes {content}, no disks of containers",
        "rootdir in its list of contents",
        run=f"pvesm set {pool} --content {content},rootdir",
    )


@pytest.mark.on_existing
def test_earlier_changes_have_ended(build: Build) -> None:
    """No command of an earlier run is still changing the node; a warning reports how each one ended."""
    active = f"pvesh get /nodes/{build.node.name}/tasks --vmid {build.template.ctid} --source active"
    assert not build.earlier_unknown, unexpected(
        f"it is unknown whether an earlier run is still active: {build.earlier_unknown}", "that none is", run=active
    )
    running = [str(task) for task in build.earlier if task.state == RUNNING]
    assert not running, unexpected(
        f"an earlier run's {'; '.join(running)}", "that it has finished", cause="wait for it to finish", run=active
    )
    for task in build.earlier:
        warn(f"an earlier run lost contact with its task {task}")


@pytest.mark.on_existing
def test_situation_is_known(build: Build) -> None:
    """The state of the template is known: to be built, sealed, or accepted."""
    assert build.situation is not Situation.UNKNOWN, unexpected(
        f"the state of {build.template.ctid} could not be read, so nothing is changed: {build.unknown}",
        "its snapshots",
        run=f"pct listsnapshot {build.template.ctid}",
    )


@KNOWN
@pytest.mark.on_existing
def test_no_clone_is_left(node: Node, template: Template, build: Build) -> None:
    """No throw-away clone of an earlier run exists; a run that may change the node removes it."""
    settings, storage = build.settings, template.declared.storage_pool
    removes = build.mode.may(May.TRY)
    left = ephemeral_clone.remove_left(node, settings, storage) if removes else ephemeral_clone.left(node, settings)
    if left:
        warn(f"an earlier run was killed and left {left}{', now removed' if removes else ' behind'}")


@pytest.mark.on_existing
def test_nothing_half_made_is_left(node: Node, template: Template, build: Build) -> None:
    """No interrupted clone or seal left anything incomplete; a build removes such leftovers of this suite."""
    if not build.mode.may(May.BUILD):
        return  # nothing is changed: the checks of locks and snapshots name it
    pool, source, origin = template.declared.storage_pool, template.parent.ctid, template.origin
    done = half_made_clone(node, build.settings, template.ctid, source=source, storage=pool, origin=origin)
    done += half_made_snapshot(template)
    if done:
        warn(f"removed what an interrupted run left: {'; '.join(done)}")
    if said := template.cut_short() if template.exists else "":
        warn(said)


@KNOWN
@pytest.mark.needs("test_nothing_half_made_is_left")
@pytest.mark.on_existing
def test_storage_agrees_with_the_configuration(node: Node, template: Template) -> None:
    """The template's storage and configuration list the same sealed snapshots, and all are complete."""
    node.prefetch(conf.question(template.ctid), generations.question(template.ctid))
    found = node.read_conf(template.ctid)
    apart = template.mismatches(found) if found else []
    active = tasks_on(node, template.ctid, template.parent.ctid) if apart else ""
    assert not apart, unexpected(
        "; ".join([each.what for each in apart] + [active] * bool(active)),
        "the same complete snapshots in both",
        cause="wait for the task to finish" if active else "a task failed",
        run=f"pvesh get /nodes/{node.name}/tasks --source active" if active else "; ".join(each.fix for each in apart),
    )


@pytest.mark.needs("test_nothing_half_made_is_left", "test_storage_agrees_with_the_configuration")
@pytest.mark.on_existing
def test_nothing_holds_a_lock(node: Node, template: Template, build: Build) -> None:
    """No task holds a lock on the template, nor on its parent during a build."""
    numbers = [template.ctid] if build.only_reads else [template.ctid, template.parent.ctid]
    found = {ctid: node.read_conf(ctid) for ctid in numbers}
    held = {ctid: one for ctid, one in found.items() if one and one.lock}
    assert not held, locked(node, held, template.ctid, template.parent.ctid)  # a clone's task names its source


def locked(node: Node, held: dict[int, conf.Configuration], *ctids: int, seen: str = "") -> str:
    """Which containers a task holds or has left unusable, and the command that helps: none while it may be active."""
    active, left = tasks_on(node, *ctids), [integrity.left_lock(ctid, one) for ctid, one in sorted(held.items())]
    return unexpected(
        f"{seen or f'locked: { {ctid: one.lock for ctid, one in held.items()} }'}{'; ' * bool(active)}{active}",
        "no lock",
        cause="wait for the task to finish" if active else f"no task works on it: {'; '.join(why for why, _ in left)}",
        run=f"pvesh get /nodes/{node.name}/tasks --source active" if active else "; ".join(run for _, run in left),
    )


def tasks_on(node: Node, *ctids: int) -> str:
    """The tasks that work on containers now, or why that is unknown."""
    try:
        found = node.active_tasks(*ctids)
    except NodeError as error:
        return f"unknown: whether a task is active: {short(str(error))}"
    return f"active: {', '.join(map(short, found[:3]))}" if found else ""


def test_snapshot_may_be_replaced(template: Template, build: Build) -> None:
    """This suite made the snapshot that --rebuild replaces."""
    foreign = template.foreign_snapshots(template.changes.read(template.ctid)) if template.exists else []
    only_replaces = build.mode.may(May.REPLACE) and not build.mode.may(May.DESTROY)
    assert not only_replaces or template.snapshot_name not in foreign, unexpected(
        f"{template.ctid}@{template.snapshot_name} was not made by this suite, so --rebuild does not remove it",
        "a snapshot that this suite sealed",
        cause="if you no longer need it",
        run=f"pct delsnapshot {template.ctid} {template.snapshot_name}",
    )


def test_container_may_be_destroyed(template: Template, build: Build) -> None:
    """With --rebuild-clone, the template is not protected, and this suite made everything that is destroyed."""
    if not build.mode.may(May.DESTROY) or not template.exists:
        return
    found = template.changes.read(template.ctid)
    reason = protection(found, template.ctid) or template.removable(found)
    assert not reason, unexpected(
        f"container {template.ctid} was not changed: {reason}",
        "a container made entirely by this suite",
        run=f"pct config {template.ctid}",
    )


def test_nothing_depends_on_the_snapshot(template: Template, build: Build) -> None:
    """Nothing on the storage depends on the snapshot that a rebuild replaces."""
    asked = build.mode.may(May.REPLACE) and template.snapshot()
    dependents = template.dependents(template.snapshot_name) if asked else []
    if dependents is None:
        refuse_unseen(f"what depends on {template.ctid}@{template.snapshot_name}: its storage does not say")
    assert not dependents, unexpected(
        f"{dependents} on the storage depend on {template.ctid}@{template.snapshot_name}",
        "no dependents, because --rebuild replaces it",
        cause="they are linked clones: remove them or convert them to full clones",
        run=f"pvesm list {template.declared.storage_pool}",
    )


def test_number_is_free_or_a_container(node: Node, template: Template) -> None:
    """The template's number is free, or belongs to a container of the declared name that HA does not manage."""
    guest, expected = node.guests().get(template.ctid), template.declared.name
    if guest is None:
        return
    where = guest.node
    assert guest.kind == "lxc", unexpected(
        f"{template.ctid} is a virtual machine (type {guest.kind}) on {where}",
        f"a free number, or the container {expected}",
        cause="containers and virtual machines share their numbers: leave it alone, and declare a free number",
        run=f"pvesh get /nodes/{where}/{guest.kind}/{template.ctid}/config",
    )
    assert where == node.name, unexpected(
        f"{template.ctid} is a container on {where}, another node of the cluster",
        f"a free number, or the container {expected} on {node.name}",
        cause=f"if it is {expected}, name {where} with --node; if it is another one, declare a free number",
        run=f"pvesh get /nodes/{where}/lxc/{template.ctid}/config",
    )
    assert guest.name == expected, unexpected(
        f"{template.ctid} is used by the container {guest.name!r}",
        repr(expected),
        cause="leave it alone, and declare a free number",
        run=f"pct config {template.ctid}",
    )
    # HA leaves alone what is "ignored" (pve-ha-manager, PVE/HA/Config.pm)
    managed = node.cluster_files.managed.get(template.ctid, "ignored")
    assert managed == "ignored", unexpected(
        f"{template.ctid} is managed by the cluster's HA in state {managed}",
        "a container that HA does not manage",
        cause="HA queues and may reorder what pct requests",
        run=f"ha-manager remove ct:{template.ctid}",
    )


def test_container_is_of_the_declared_parent(node: Node, template: Template) -> None:
    """A template that this suite made was cloned from the declared parent's snapshot."""
    said = node.config(template.ctid).get("description", "") if template.exists else ""
    assert not said.startswith(MARK) or said == template.origin, unexpected(
        f"{template.ctid} has the description {said!r}",
        repr(template.origin),
        cause="it does not match the declaration, so it is left alone; if you no longer need it",
        run=f"pct destroy {template.ctid}",
    )


def test_bridge_is_on_the_node(node: Node, template: Template) -> None:
    """The node has the bridge that the template declares."""
    names, bridge = address.interfaces(node), template.declared.network.bridge
    assert bridge in names, no_bridge(node, bridge, names)


def test_address_is_free(node: Node, template: Template) -> None:
    """No other container of the node has the template's address."""
    others = [ctid for ctid in node.containers() if ctid != template.ctid]
    mine = template.declared.network.address
    clash = [ctid for ctid in others if mine in addresses_of(node.config(ctid))]
    assert not clash, unexpected(
        f"{mine} is the address of {clash}, too",
        f"an address of {template.ctid} alone",
        cause="a clone keeps its parent's address: give it another one",
        run=f"pct config {clash[0]} | grep net",
    )


def test_nobody_answers_at_the_address(node: Node, template: Template) -> None:
    """No other machine of the network answers at the template's address."""
    if template.exists and node.running(template.ctid):
        return  # it answers itself
    net = template.declared.network
    owner = address.owner(node, net.bridge, net.address)
    if owner is None:
        refuse_unseen(f"whether another machine uses {net.address}: {node.name} has no arping (package iputils-arping)")
    assert not owner, unexpected(
        f"{owner} answers at {net.address}, the address of {template.ctid}",
        "no answer",
        run="ip neigh; pct list",
    )


@PARENT
def test_gpus_are_passed_where_it_counts(node: Node, template: Template, build: Build) -> None:
    """The configuration passes the assigned GPUs, and no others, outside of snapshot sections."""
    there, effective = (template.ctid, "") if template.exists else (template.parent.ctid, template.parent_snapshot)
    found = node.read_conf(there)
    assert found, unexpected(f"container {there} does not exist", "its configuration", run=f"pct config {there}")
    if effective and effective not in found.sections:
        raise build.ledger.blocked_by("test_parent_snapshot_is_whole")
    lines = conf.misplaced(found, effective, template.declared.gpus)
    bare = [line.rpartition("] ")[2].partition(": ") for line in lines]
    moved = " ".join(f"--{key} {value}" for key, _, value in bare if key.startswith("dev"))
    again = f"pct delsnapshot {there} {effective}; pct snapshot {there} {effective}" if effective else ""
    younger = [line for line in lines if not line.startswith("[")] if effective else []
    assert not younger, unexpected(
        f"{there}@{effective} passes fewer GPUs than container {there} does now: it has no {younger}",
        "a snapshot that passes every assigned GPU",
        cause="it was taken before these lines were added, and a clone of it gets its configuration: retake it",
        run=again,
    )
    assert not lines, unexpected(
        f"/etc/pve/lxc/{there}.conf passes GPUs where that has no effect: {lines}",
        "these lines above the first [section]",
        cause="lines below a [section] belong to that snapshot; move them, then take a new snapshot",
        run=f"pct set {there} {moved}" if moved else f"nano /etc/pve/lxc/{there}.conf",
    )
    counts = found.sections.get(effective, found.head) if effective else found.head
    extra = [line for line in counts.lines if line.startswith("dev") and {*passed(line)} - {*template.declared.gpus}]
    delete = f"pct set {there} --delete {','.join(line.partition(':')[0] for line in extra)}"
    assert not extra, unexpected(
        f"{there}{'@' * bool(effective)}{effective} passes more GPUs than are assigned: {extra}",
        f"only GPUs {template.declared.gpus}",
        cause="correct gpu_assignment, or delete these lines" + " and retake the parent's snapshot" * bool(again),
        run="; ".join(filter(None, (delete, again))),
    )
    rules = [line for line in counts.lines if line.startswith("lxc.cgroup.devices.allow")]
    needed = rules and template.declared.gpus
    if needed and not any(line.startswith(("dev", "lxc.cgroup2.devices.allow")) for line in counts.lines):
        version = node.ask("stat", "--file-system", "--format=%T", "/sys/fs/cgroup", what="the version of cgroup")
        devices = [*(f"nvidia{gpu}" for gpu in template.declared.gpus), "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"]
        passes = " ".join(f"--dev{number} /dev/{device}" for number, device in enumerate(devices))
        assert version.strip() != "cgroup2fs", unexpected(
            f"{there}{'@' * bool(effective)}{effective} allows devices only by {rules}",
            "device rules that have an effect",
            cause="lxc.cgroup is for cgroup v1, but this node uses v2: pass the devices with devN lines"
            + " and retake the parent's snapshot" * bool(again),
            run="; ".join(filter(None, (f"pct set {there} {passes}", again))),
        )


def passed(line: str) -> tuple[int, ...]:
    """N of each /dev/nvidiaN that a line of a configuration passes."""
    return conf.gpus(conf.Section(lines=[line]))
