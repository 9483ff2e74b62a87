"""What other people do on the node while a run works on it, each in one step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fixtures.template.clone import MARK
from tests.model.node import COUNTER, NAME, OTHERS, PARENT, PARENT_SNAPSHOT, STORAGE, TEMPLATE, Guest, ModelNode

DECLARED = {
    "cores": "4",
    "dev0": "/dev/nvidia0",
    "dev1": "/dev/nvidia1",
    "features": "nesting=1",
    "hostname": "BaseTemplateVLLM",
    "memory": "4096",
    "net0": "name=eth0,bridge=vmbr0,gw=10.0.0.1,hwaddr=52:54:00:AA:BB:D1,ip=10.0.0.220/24,type=veth",
    "swap": "512",
}
OF_PARENT = {
    **DECLARED,
    "cores": "2",
    "hostname": "BaseTemplateDockerGPU",
    "memory": "2048",
    "net0": DECLARED["net0"].replace("D1,", "CF,").replace(".220", ".203"),
}
OF_CLONE = {
    **DECLARED,
    "cores": "8",
    "features": "nesting=1,keyctl=1",
    "hostname": "vllmQwen3Coder",
    "memory": "40960",
    "net0": DECLARED["net0"].replace("AA:BB:D1", "67:89:B0").replace(".220", ".150"),
    "rootfs": f"{STORAGE}:subvol-950-disk-0,size=100G",
}
Hand = Callable[[ModelNode], None]
HANDS: dict[str, Hand] = {}


def hand(act: Hand) -> Hand:
    """Note what somebody may do; nothing comes of it where it can't be done."""
    HANDS[act.__name__] = act
    return act


def add(node: ModelNode, number: int, config: dict[str, str], size: str = "64G", **facts: object) -> Guest:
    """A container that others have made."""
    volume = node.allocate(number, size)
    made = node.guests[number] = Guest(OTHERS, {**config, "rootfs": f"{volume},size={size}"}, **facts)  # type: ignore[arg-type]
    return made


def fresh() -> ModelNode:
    """A node with the parent of the template and a container of somebody else."""
    node = ModelNode()
    add(node, 101, {**OF_PARENT, "hostname": "web", "net0": "name=eth0,ip=dhcp"}, "8G", running=True)
    parent = add(node, PARENT, OF_PARENT, "32G", running=True)
    node.take(parent, PARENT_SNAPSHOT, "base for vllm")
    return node


def _template(node: ModelNode) -> Guest | None:
    return node.guests.get(TEMPLATE)


def _take(node: ModelNode, name: str, description: str) -> None:
    guest = _template(node)
    volumes = [node.volumes[each] for each in guest.volumes if each in node.volumes] if guest else []
    stored = any(name in each.snapshots for each in volumes)
    if guest and "lock" not in guest.config and name not in guest.snapshots and not stored:
        node.take(guest, name, description)


def _pasted(node: ModelNode) -> str:
    """A description as somebody pastes it: that of a snapshot of ours, else one that begins like it."""
    guest = _template(node)
    ours = [each.description for each in guest.snapshots.values() if each.maker != OTHERS] if guest else []
    return ours[-1] if ours else f"{MARK} sealed 2026-11-01T00:00:00Z manifest sha256:{'0' * 64} accepted by hand"


def _delete(node: ModelNode, name: str) -> None:
    guest = _template(node)
    if guest and guest.snapshots.pop(name, None):
        for volume in (node.volumes[each] for each in guest.volumes if each in node.volumes):
            volume.snapshots.pop(name, None)


@hand
def takes_a_snapshot(node: ModelNode) -> None:
    _take(node, "before-upgrade", "mine, by hand")


@hand
def takes_the_name(node: ModelNode) -> None:
    _take(node, NAME, "mine, by hand")


@hand
def takes_the_name_with_a_pasted_description(node: ModelNode) -> None:
    _take(node, NAME, _pasted(node))


@hand
def takes_a_snapshot_with_a_pasted_description(node: ModelNode) -> None:
    _take(node, "copy", _pasted(node))


@hand
def takes_a_generation_with_a_pasted_description(node: ModelNode) -> None:
    _take(node, f"{NAME}-g1", _pasted(node))


@hand
def deletes_the_snapshot(node: ModelNode) -> None:
    _delete(node, NAME)


@hand
def replaces_the_snapshot(node: ModelNode) -> None:
    said = _pasted(node)
    _delete(node, NAME)
    _take(node, NAME, said)


@hand
def deletes_every_snapshot(node: ModelNode) -> None:
    for name in list(guest.snapshots if (guest := _template(node)) else ()):
        _delete(node, name)


@hand
def renames_the_snapshot_in_the_file(node: ModelNode) -> None:
    guest = _template(node)
    if guest and (found := guest.snapshots.pop(NAME, None)):
        guest.snapshots["renamed"] = found


@hand
def forgets_the_snapshot_on_the_storage(node: ModelNode) -> None:
    """As `pct delsnapshot --force` does where a zfs clone depends on it."""
    if guest := _template(node):
        guest.snapshots.pop(NAME, None)


@hand
def takes_a_storage_snapshot(node: ModelNode) -> None:
    guest = _template(node)
    if guest and guest.volumes and (volume := node.volumes.get(guest.volumes[0])):
        node.by_hand.add(volume.snapshots.setdefault("by-zfs", next(COUNTER)))


@hand
def adds_a_mount_point(node: ModelNode) -> None:
    guest = _template(node)
    if guest and "lock" not in guest.config and "mp0" not in guest.config:
        guest.config["mp0"] = f"{node.allocate(TEMPLATE, '8G')},mp=/data,size=8G"


@hand
def leaves_an_unused_volume(node: ModelNode) -> None:
    guest = _template(node)
    if guest and "unused0" not in guest.config:
        guest.config["unused0"] = node.allocate(TEMPLATE, "8G")


@hand
def protects_it(node: ModelNode) -> None:
    if guest := _template(node):
        guest.config["protection"] = "1"


@hand
def starts_it(node: ModelNode) -> None:
    if guest := _template(node):
        guest.running = True


@hand
def stops_it(node: ModelNode) -> None:
    if guest := _template(node):
        guest.running = False


@hand
def backs_it_up(node: ModelNode) -> None:
    guest = _template(node)
    if guest and "lock" not in guest.config:
        node.hold(guest, "backup")
        node.active.add(TEMPLATE)


@hand
def lets_a_backup_die(node: ModelNode) -> None:
    guest = _template(node)
    if guest and "lock" not in guest.config:
        node.hold(guest, "backup")


@hand
def clones_the_parent(node: ModelNode) -> None:
    """After they have removed what locked it."""
    node.hold(node.guests[PARENT], "disk")
    node.active.add(PARENT)


@hand
def has_cloned_the_parent(node: ModelNode) -> None:
    node.guests[PARENT].config.pop("lock", None)
    node.active.discard(PARENT)


@hand
def unlocks_it(node: ModelNode) -> None:
    if guest := _template(node):
        guest.config.pop("lock", None)
        node.active.discard(TEMPLATE)


@hand
def gives_it_more_memory(node: ModelNode) -> None:
    if guest := _template(node):
        guest.config["memory"] = "8192"


@hand
def describes_it_otherwise(node: ModelNode) -> None:
    if guest := _template(node):
        guest.description = "now the web server"


def _anew(node: ModelNode, config: dict[str, str], **facts: Any) -> None:
    if guest := node.guests.pop(TEMPLATE, None):
        for volume in guest.volumes:
            node.volumes.pop(volume, None)
    add(node, TEMPLATE, config, **facts)


@hand
def makes_it_anew_as_declared(node: ModelNode) -> None:
    _anew(node, {**DECLARED, "tags": f"made-{next(COUNTER)}"}, like_declared=True)  # else no file could tell it apart


@hand
def makes_it_anew_otherwise(node: ModelNode) -> None:
    _anew(node, {**DECLARED, "memory": "1024"}, running=True, description=f"{MARK} container 930 cloned from 903@x")


@hand
def destroys_it(node: ModelNode) -> None:
    if guest := node.guests.pop(TEMPLATE, None):
        for volume in guest.volumes:
            node.volumes.pop(volume, None)


def _clone_by_hand(node: ModelNode, number: int, said: str) -> None:
    if number not in node.guests:
        address = DECLARED["net0"].replace(".220", f".{number % 250}")
        add(node, number, {**DECLARED, "net0": address}, running=True, description=said)


@hand
def clones_a_throw_away_clone(node: ModelNode) -> None:
    """The clone of a clone inherits its description, which names another number."""
    _clone_by_hand(node, 991, f"{MARK} throw-away container 990 cloned from {TEMPLATE}@{NAME}")


@hand
def makes_a_container_in_the_range(node: ModelNode) -> None:
    _clone_by_hand(node, 990, "my experiment")


@hand
def makes_a_container_with_pasted_notes(node: ModelNode) -> None:
    _clone_by_hand(node, 990, f"{MARK} throw-away container 990 cloned from {TEMPLATE}@{NAME}")


@hand
def makes_the_declared_clone(node: ModelNode) -> None:
    _clone_by_hand(node, 950, "serves our customers")


@hand
def makes_the_declared_clone_as_declared(node: ModelNode) -> None:
    _clone_by_hand(node, 950, f"{MARK} container 950 cloned from {TEMPLATE}@{NAME}, and now ours")
    node.guests[950].config.update(OF_CLONE)


def _clone(node: ModelNode) -> Guest | None:
    """A clone of the template that somebody finds interesting."""
    return node.guests.get(990) or node.guests.get(950)


@hand
def stops_the_clone(node: ModelNode) -> None:
    if guest := _clone(node):
        guest.running = False


@hand
def takes_a_snapshot_of_the_clone(node: ModelNode) -> None:
    guest = _clone(node)
    if guest and guest.volumes and "lock" not in guest.config and "mine" not in guest.snapshots:
        node.take(guest, "mine", "before I try something")


@hand
def gives_the_clone_a_volume(node: ModelNode) -> None:
    guest = _clone(node)
    if guest and "lock" not in guest.config and "mp0" not in guest.config:
        guest.config["mp0"] = f"{node.allocate(990, '8G')},mp=/data,size=8G"


@hand
def takes_the_clone_over(node: ModelNode) -> None:
    if guest := _clone(node):
        guest.maker, guest.description = OTHERS, "mine now"


@hand
def replaces_the_clone(node: ModelNode) -> None:
    """With one of the same number that was cloned by hand, so it has another volume and MAC address."""
    number = 990 if 990 in node.guests else 950
    if guest := node.guests.pop(number, None):
        for volume in guest.volumes:
            node.volumes.pop(volume, None)
        _clone_by_hand(node, number, "my experiment")


@hand
def takes_the_lock_away(node: ModelNode) -> None:
    """The run's connection was silent for a minute, so the node has let go of its lock."""
    node.lock = ""


@hand
def another_run_seals(node: ModelNode) -> None:
    """It may, as this one has lost its lock."""
    node.lock, guest = "another", _template(node)
    if guest and "lock" not in guest.config:
        _delete(node, NAME)
        _take(node, NAME, f"{MARK} sealed 2026-11-28T00:00:00Z manifest sha256:{'a' * 64}")
        if NAME in guest.snapshots:
            guest.snapshots[NAME].maker = "another"


@hand
def makes_room_for_a_run(node: ModelNode) -> None:
    """Somebody tidies up: the template and its leftovers are gone."""
    destroys_it(node)
    node.guests.pop(990, None)
