"""Faults of sealing and after it: what must not be sealed, and what must not count as done."""

from __future__ import annotations

from tests.faults.fault import ROOT, Fault, Ground, Put, command, cut, inside, node, setting
from tests.lab.harness import SNAPSHOT

UNIT = f"{ROOT}/etc/systemd/system"
WANTS = f"{UNIT}/multi-user.target.wants"
RECORDS = "/var/lib/phoenix-920/records"
KEPT = f"{RECORDS}/*/record.json"
LEFT = (
    "[Unit]\\nAfter=docker.service\\n[Service]\\nType=oneshot\\n"
    "ExecStart=/usr/bin/docker create --name left vllm/vllm-openai:stand-in\\n"
)


def seal(name: str, what: str, put: Put, *said: str, **more: object) -> Fault:
    """A fault that shows while the template is sealed."""
    return Fault(name, what, "seal", ("test_everything_passed",), put, said, **more)  # type: ignore[arg-type]


def sealed(name: str, what: str, failed: tuple[str, ...], line: str, undo: str = "true", **more: object) -> Fault:
    """A fault that strikes between the snapshot and the start: something else changes 920 just then."""

    put = node(f"printf 'start = sh %s\\n' \"{line}\" > /etc/pve/lab-faults", f"rm -f /etc/pve/lab-faults; {undo}")
    return Fault(name, what, "sealed", failed, put, seals=True, **more)  # type: ignore[arg-type]


def recorded(name: str, what: str, check: str, put: Put, *said: str, **more: object) -> Fault:
    """A fault of an accepted template: it has drifted, and a run says so and leaves it alone."""
    return Fault(name, what, "recorded", (check,), put, said, ground=Ground.ACCEPTED, **more)  # type: ignore[arg-type]


SEAL = (
    seal(
        "shutdown-hangs",
        "`pct shutdown` hangs",
        command("shutdown = hang"),
        "pct shutdown 920 --timeout 3",
        "takes longer than 18 s",
        words=("-o", "shutdown_deadline=3"),
        outcome="timeout",
        diagnosis="A7",
    ),
    seal("shutdown-dies", "`pct shutdown` dies", command("shutdown = die"), "ended with 137", quick=True),
    seal("shutdown-lies", "`pct shutdown` says yes and does nothing", command("shutdown = lie"), "is still running"),
    seal("snapshot-dies", "`pct snapshot` dies", command("snapshot = die"), "ended with 137"),
    seal(
        "snapshot-dies-half-way",
        "`pct snapshot` dies half-way",
        node(
            "echo 'snapshot-half = die' > /etc/pve/lab-faults",
            f"rm /etc/pve/lab-faults; pct unlock 920; pct delsnapshot 920 {SNAPSHOT} --force",
        ),
        "ended with 137",
    ),
    seal(
        "snapshot-hangs",
        "`pct snapshot` hangs",
        command("snapshot = hang"),
        words=("-o", "shutdown_deadline=6"),
        outcome="timeout",
    ),
    seal("snapshot-lies", "`pct snapshot` says yes and does nothing", command("snapshot = lie"), "is missing"),
    seal(
        "old-snapshot-stays",
        "`pct delsnapshot` dies: the old snapshot can't be replaced",
        command("delsnapshot = die"),
        "ended with 137",
        words=("--rebuild",),
        ground=Ground.ACCEPTED,
    ),
    seal(
        "declared-snapshot-dies",
        "in a rebuild `pct snapshot` of the declared name dies half-way: the generation before stays accepted",
        command(
            'snapshot-half = sh tr "\\0" " " </proc/$PPID/cmdline | '
            f'grep -q "snapshot 920 {SNAPSHOT} " && kill -9 $PPID || true'
        ),
        f"the accepted generation is 920@{SNAPSHOT}-g1",
        words=("--rebuild",),
        ground=Ground.ACCEPTED,
    ),
    seal("ssh-cut-while-sealing", "ssh is cut while the snapshot is taken", cut("snapshot"), seals=True),
    seal("one-gpu-left-out", "part of the suite is left out", setting(), "not run", words=("-k", "not gpu1")),
    seal(
        "records-unwritable",
        "the node can't keep the record",
        node(
            f"mkdir -p {RECORDS}; mv {RECORDS} {RECORDS}.kept; touch {RECORDS}",
            f"rm {RECORDS}; mv {RECORDS}.kept {RECORDS}",
        ),
        seals=True,
    ),
    seal("start-dies-after-seal", "`pct start` dies after the snapshot", command("start = die"), seals=True),
)

SEALED = (
    sealed(
        "snapshot-spoiled",
        "the new snapshot is marked as half made",
        ("test_snapshot_is_whole",),
        rf"sed -i '/^\[{SNAPSHOT}\]/a snapstate: prepare' /etc/pve/lxc/920.conf",
        f"pct delsnapshot 920 {SNAPSHOT} --force",
    ),
    sealed(
        "snapshot-config-changed",
        "the configuration in the new snapshot is another",
        ("test_snapshot_is_as_declared",),
        rf"sed -i '/^\[{SNAPSHOT}\]/,$ s/^memory:.*/memory: 4097/' /etc/pve/lxc/920.conf",
        f"pct delsnapshot 920 {SNAPSHOT}",
    ),
    sealed(
        "unit-fails-after-restart",
        "a unit of systemd fails after the restart",
        ("test_container_is_up_again",),
        f"printf '[Service]\\\\nExecStart=/bin/false\\\\n' > {UNIT}/fails.service; ln -sf ../fails.service {WANTS}/",
        f"rm {UNIT}/fails.service {WANTS}/fails.service; pct exec 920 -- systemctl reset-failed; "
        f"pct delsnapshot 920 {SNAPSHOT}",
    ),
    sealed(
        "docker-off-after-restart",
        "Docker does not start after the restart",
        ("test_docker_is_up_again",),
        f"rm -f {WANTS}/docker.service",
        f"pct exec 920 -- systemctl enable --now docker; pct delsnapshot 920 {SNAPSHOT}",
        quick=True,
    ),
    sealed(
        "image-lost",
        "the image is gone after the restart",
        ("test_image_is_still_there",),
        f"rm -f {ROOT}/var/lib/docker/image/overlay2/repositories.json",
        f"pct delsnapshot 920 {SNAPSHOT}",
    ),
    sealed(
        "container-left",
        "a container is in Docker after the restart",
        ("test_nothing_is_left_of_the_build",),
        f"printf '{LEFT}' > {UNIT}/left.service; ln -sf ../left.service {WANTS}/",
        f"pct exec 920 -- docker rm left; rm {UNIT}/left.service {WANTS}/left.service; pct delsnapshot 920 {SNAPSHOT}",
    ),
    sealed(
        "gpu-lost",
        "a GPU is gone after the restart",
        ("test_gpus_are_listed_again",),
        "sed -i '0,/^dev1:/{/^dev1:/d}' /etc/pve/lxc/920.conf",
        "pct shutdown 920; pct destroy 920",
        simulated=True,
    ),
)


def changed(path: str, script: str) -> Put:
    """A file of the running 920, changed by a shell line; put back afterwards."""
    full = f"{ROOT}{path}"
    return node(f"cp -a {full} /root/changed && {script.format(full)}", f"cp -a /root/changed {full}")


RECORDED = (
    recorded(
        "record-changed",
        "the record on the node was changed",
        "test_record_is_kept",
        node(
            f"cp -a {RECORDS} /root/records.kept; for file in {KEPT}; do echo >> $file; done",
            f"rm -r {RECORDS}; mv /root/records.kept {RECORDS}",
        ),
        quick=True,
    ),
    recorded(
        "snapshot-exchanged",
        "the snapshot's configuration was changed",
        "test_snapshot_is_the_recorded_one",
        node(
            "cp /etc/pve/lxc/920.conf /root/920.kept; "
            rf"sed -i -E '/^\[{SNAPSHOT}\]/,$ s/^swap:.*/swap: 513/' /etc/pve/lxc/920.conf",
            "cp /root/920.kept /etc/pve/lxc/920.conf",
        ),
    ),
    recorded(
        "configuration-changed",
        "the container's configuration was changed",
        "test_configuration_is_as_recorded",
        node(
            "cp /etc/pve/lxc/920.conf /root/920.kept; pct set 920 --swap 513", "cp /root/920.kept /etc/pve/lxc/920.conf"
        ),
    ),
    recorded(
        "carried-record-changed",
        "the record in 920 was changed",
        "test_container_carries_the_record",
        changed("/etc/phoenix/record.json", "echo >> {}"),
    ),
    recorded(
        "image-changed",
        "the tag leads to another image",
        "test_image_is_as_recorded",
        node(
            "pct exec 920 -- docker pull --quiet vllm/vllm-openai:stand-in-shell; "
            "pct exec 920 -- docker tag vllm/vllm-openai:stand-in-shell vllm/vllm-openai:stand-in",
            "pct exec 920 -- docker pull --quiet vllm/vllm-openai:stand-in; "
            "pct exec 920 -- docker image rm vllm/vllm-openai:stand-in-shell",
        ),
        diagnosis="C4",
    ),
    recorded(
        "model-changed",
        "a file of the model was changed",
        "test_model_is_as_recorded",
        changed("/models/test-model/config.json", "echo >> {}"),
    ),
    recorded(
        "package-changed",
        "a package has another version",
        "test_packages_are_as_recorded",
        changed("/var/lib/dpkg/status", "sed -i '0,/^Version: /s/^Version: .*/Version: 9.9/' {}"),
    ),
    recorded(
        "docker-settings-changed",
        "Docker's settings were changed",
        "test_stack_is_as_recorded",
        changed("/etc/docker/daemon.json", "echo >> {}"),
    ),
)

ACCEPTED = (
    Fault(
        "not-accepted",
        "the node refuses to mark the snapshot as accepted",
        "accepted",
        ("test_snapshot_is_accepted",),
        command("pvesh-set = die"),
        ("ended with 137",),
        seals=True,
        ground=Ground.SEALED,
        quick=True,
    ),
    Fault(
        "lock-lost",
        "the run loses its lock on 920 after sealing",
        "accepted",
        ("test_snapshot_is_accepted",),
        command("start = sh pkill --full 'phoenix-920/920.lock [-]-exclusive'"),
        ("this run does not hold its lock on the node",),
        seals=True,
    ),
)

TOLERATED = (
    Fault(
        "slow-commands",
        "every command of the node takes half a second and refuses with any exit status",
        "none",
        (),
        command("* = delay 0.5", "* = status random"),
        ground=Ground.NONE,
        outcome="built",
    ),
    Fault(
        "image-of-a-killed-run",
        "a run that was killed while it tried Docker has left its image, which has lost its name since",
        "none",
        (),
        inside(
            "run=$(cat /proc/sys/kernel/random/uuid); mkdir -p /var/lib/phoenix; echo $run >> /var/lib/phoenix/runs; "
            "for text in one two; do echo $text > /root/$text; tar -C /root -c $text | docker import --change "
            '"LABEL phoenix-920=probe io.phoenix-920.run=$run" - phoenix-920-probe; done; rm /root/one /root/two',
            "true",
        ),
        outcome="built",
    ),
    Fault(
        "clock-jump",
        "the clock jumps back by a day",
        "none",
        (),
        setting(),
        ("the clock has jumped back by a day",),
        words=("-p", "tests.faults.clock_jump"),
        outcome="built",
    ),
)

FAULTS = (*TOLERATED, *SEAL, *SEALED, *RECORDED, *ACCEPTED)
