"""Faults of a clone of the sealed template: each strikes when the throw-away clone, 990, is made or started."""

from __future__ import annotations

from tests.faults.fault import Fault, Ground, node
from tests.faults.sealing import LEFT

ROOT, CONF = "/lxc-disks/subvol-990-disk-0", "/etc/pve/lxc/990.conf"
UNIT = f"{ROOT}/etc/systemd/system"
WANTS = f"{UNIT}/multi-user.target.wants"
DIE = "die"
BALLAST, FREE = "/lxc-disks/ballast", "$(df --output=avail -B1 /lxc-disks | tail -n 1)"
STRIKE = "/run/strike"
ONE_LINE = (
    '#!/bin/sh\\ncase "$*" in "-q -x") exec /usr/bin/nvidia-smi.real -i 0 -q -x;; esac\\n'
    'exec /usr/bin/nvidia-smi.real "$@"\\n'
)
NO_RUN = '#!/bin/sh\\ncase "$*" in "run --detach"*) echo no; exit 125;; esac\\nexec /usr/bin/docker "$@"\\n'
OTHER = (
    '#!/bin/sh\\ncase "$*" in "run --detach"*) shift; exec /usr/bin/docker run -e STAND_IN=other-scores "$@";; esac\\n'
    'exec /usr/bin/docker "$@"\\n'
)


def acceptance(name: str, what: str, check: str, verb: str, script: str, *said: str, **more: object) -> Fault:
    """A fault that strikes at one of the node's commands on the clone.

    Args:
        name: Of the fault.
        what: Is wrong.
        check: That must fail.
        verb: Of `pct`.
        script: Shell lines, run before it.
        said: By the terminal.
        more: See `Fault`.
    """
    guard = "" if verb != "start" else f"[ -e {CONF} ] || exit 0\n"
    put = f"cat > {STRIKE} <<\\EOF\n{guard}{script}\nEOF\necho '{verb} = sh sh {STRIKE}' > /etc/pve/lab-faults"
    if script == DIE:
        put = f"echo '{verb} = die' > /etc/pve/lab-faults"
    undo = (
        f"rm -f /etc/pve/lab-faults {STRIKE}; [ ! -e {CONF} ] || {{ pct unlock 990; pct stop 990; pct destroy 990; }}"
    )
    stage = "clone acceptance"
    ground = Ground.SEALED  # all that comes before was proved by then, and is not proved again
    return Fault(name, what, stage, (check,), node(put, undo), said, ground=ground, clones=True, **more)  # type: ignore[arg-type]


FAULTS = (
    Fault(
        "no-room-for-a-clone",
        "the storage has no room for a clone",
        "clone acceptance",
        ("test_clone_can_work",),
        node(f"fallocate -l $(({FREE} - 1600000000)) {BALLAST}", f"rm -f {BALLAST}"),
        ("must be left",),
        ground=Ground.SEALED,
        clones=True,
    ),
    acceptance("clone-refused", "`pct clone` of the template dies", "test_clone_is_made", "clone", DIE),
    acceptance(
        "clone-degraded",
        "a unit of systemd fails in the clone",
        "test_clone_boots_beside_its_template",
        "start",
        f"printf '[Service]\\nExecStart=/bin/false\\n' > {UNIT}/fails.service; ln -s ../fails.service {WANTS}/",
    ),
    acceptance(
        "clone-same-machine-id",
        "the clone has its template's machine id",
        "test_clone_has_an_identity_of_its_own",
        "start",
        f"cp /lxc-disks/subvol-920-disk-0/etc/machine-id {ROOT}/etc/machine-id",
    ),
    acceptance(
        "clone-brings-container",
        "the clone comes with a container in its Docker",
        "test_docker_works_in_the_clone",
        "start",
        f"printf '{LEFT}' > {UNIT}/left.service; ln -s ../left.service {WANTS}/",
    ),
    acceptance(
        "clone-differs",
        "Docker's settings in the clone are other than those sealed",
        "test_clone_is_what_was_sealed",
        "start",
        f"echo >> {ROOT}/etc/docker/daemon.json",
    ),
    acceptance(
        "clone-without-origin",
        "the clone does not say what it came from",
        "test_clone_knows_what_it_came_from",
        "start",
        f"printf '#!/bin/sh\\n' > {ROOT}/etc/phoenix/verify",
    ),
    acceptance(
        "clone-lists-one-gpu",
        "nvidia-smi in the clone lists one GPU only",
        "test_clone_sees_every_gpu",
        "start",
        f"mv {ROOT}/usr/bin/nvidia-smi {ROOT}/usr/bin/nvidia-smi.real; "
        f"printf '{ONE_LINE}' > {ROOT}/usr/bin/nvidia-smi; chmod 755 {ROOT}/usr/bin/nvidia-smi",
        simulated=True,
    ),
    acceptance(
        "clone-without-uvm",
        "/dev/nvidia-uvm is not passed to the clone",
        "test_cuda_works_in_the_clone[gpu]",
        "start",
        f"sed -i '/nvidia-uvm$/d' {CONF}",
        simulated=True,
    ),
    acceptance(
        "clone-serves-nothing",
        "Docker in the clone refuses to start a server",
        "test_clone_serves",
        "start",
        f"printf '{NO_RUN}' > {ROOT}/usr/local/sbin/docker; chmod 755 {ROOT}/usr/local/sbin/docker",
        "docker run ended with 125",
    ),
    acceptance(
        "clone-answers-otherwise",
        "the clone's server gives other probabilities than its template's",
        "test_clone_answers_as_its_template",
        "start",
        f"printf '{OTHER}' > {ROOT}/usr/local/sbin/docker; chmod 755 {ROOT}/usr/local/sbin/docker",
        "differ from the server that was sealed",
        quick=True,
    ),
    acceptance("clone-stays", "`pct destroy` of the clone dies", "test_clone_is_destroyed", "destroy", DIE),
)
