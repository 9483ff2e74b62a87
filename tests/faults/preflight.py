"""Faults that preflight must find: of the node, of the parent, of what is declared."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.faults.fault import (
    COMMAND_LINE,
    Fault,
    Ground,
    Put,
    Words,
    both,
    command,
    conf,
    declared,
    edited,
    node,
    setting,
    stand_in,
)
from tests.lab.harness import SNAPSHOT, STAND_IN, Lab

STAGE = "preflight"
PARENT_SECTION = r"/^\[docker-gpu-snapshot\]/a"
TWIN = "arch: amd64\\nhostname: twin\\nmemory: 512\\nnet0: name=eth0,bridge=vmbr0,ip=10.0.0.220/24,gw=10.0.0.1\\n"

LEFT_CLONE = (
    f"#phoenix-920%%3A throw-away container 990 cloned from 920@{SNAPSHOT}\\narch: amd64\\n"
    "hostname: left\\nlock: backup\\nmemory: 512\\nrootfs: lxc-disks:subvol-990-disk-0,size=4G\\n"
)
HALF_MADE = (
    "#phoenix-920%%3A container 920 cloned from 903@docker-gpu-snapshot\\narch: amd64\\n"
    "hostname: BaseTemplateVLLM\\nlock: create\\nmemory: 2048\\n"
)
HUGE = ("-o", "vllm_image=vllm/vllm-openai:stand-in-huge")  # as large as the real one, by what the registry says
SIMULATED = "/etc/simulated-gpu.conf"
# /proc/devices of a node whose driver is loaded
DEVICES = node(
    "sed '/^Block/i 511 nvidia-uvm' /proc/devices > /run/devices; mount --bind /run/devices /proc/devices",
    "umount /proc/devices",
)
RULES = "/etc/udev/rules.d/99-fault.rules"
FULL = node(
    "fallocate -l $(($(df --output=avail -B1 /lxc-disks | tail -n 1) - 1000000000)) /lxc-disks/ballast",
    "rm /lxc-disks/ballast; for _ in $(seq 60); do btrfs filesystem sync /lxc-disks; "  # it frees in the background
    "[ $(df --output=avail -BG /lxc-disks | tr -dc 0-9) -gt 60 ] && break; sleep 0.5; done",
)


def preflight(name: str, what: str, check: str, put: object, *said: str, **more: object) -> Fault:
    """A fault that turns one check of preflight red."""
    return Fault(name, what, STAGE, (check,), put, said, **more)  # type: ignore[arg-type]


def gpus_say(*lines: str) -> Put:
    """Other values of the node's simulated GPUs."""
    text = "".join(f"{line}\\n" for line in lines)
    return node(f"printf '{text}' > {SIMULATED}", f"rm {SIMULATED}")


@contextmanager
def another_run(lab: Lab) -> Iterator[Words]:
    """A run whose server never gets ready; it is interrupted in the end."""
    process = lab.start(*STAND_IN, *stand_in("silent"))
    for _ in range(600):
        if process.poll() is not None or lab.servers():
            break
        time.sleep(0.2)
    yield ()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)


FORESEEN = (
    Fault(
        "second-run",
        "another run works on 920",
        COMMAND_LINE,
        (),
        another_run,
        ("another run works on it", "nothing was touched"),
        outcome="refused",
    ),
    preflight(
        "node-without-lock",
        "the run can't take the node's lock on 920",
        "test_no_other_run_works_on_it",
        node(
            "rm -f /run/phoenix-920/920.lock; mkdir -p /run/phoenix-920/920.lock",
            "rmdir /run/phoenix-920/920.lock",
        ),
        "the lock on 920 is not held",
    ),
    preflight(
        "other-lineage",
        "920 says that it was cloned from another parent",
        "test_container_is_of_the_declared_parent",
        node(
            "cp /etc/pve/lxc/920.conf /root/920.kept; "
            "pct set 920 --description 'phoenix-920: container 920 cloned from 902@old'",
            "cp /root/920.kept /etc/pve/lxc/920.conf",
        ),
        "it is left alone",
    ),
    preflight(
        "address-answers",
        "a machine of the network has the address of 920",
        "test_nobody_answers_at_the_address",
        both(
            node("pct shutdown 920", "true"),
            node(
                "ip netns add twin; ip link add twin0 type veth peer name eth0 netns twin; "
                "ip link set twin0 master vmbr0 up; ip -n twin address add 10.0.0.220/24 dev eth0; "
                "ip -n twin link set eth0 up; sleep 1",
                "ip netns delete twin",
            ),
        ),
        "answers at 10.0.0.220",
    ),
    preflight(
        "bridge-missing",
        "the node lacks the declared bridge",
        "test_bridge_is_on_the_node",
        declared(network_config={"name": "eth0", "bridge": "vmbr7", "ip": "10.0.0.220/24", "gw": "10.0.0.1"}),
        "has no bridge vmbr7",
    ),
    preflight(
        "nobody-makes-uvm",
        "no udev rule or unit of the node makes /dev/nvidia-uvm when it boots",
        "test_devices_are_made_before_guests_start",
        DEVICES,
        "no udev rule, enabled unit, list of modules, cron job or hook creates /dev/nvidia-uvm",
    ),
    preflight(
        "moved-major",
        "a device rule names the major number that nvidia-uvm had before",
        "test_device_rules_outlast_a_reboot",
        both(
            DEVICES,
            node(f"mkdir -p /etc/udev/rules.d; echo 'RUN+=\"/usr/bin/nvidia-modprobe -u\"' > {RULES}", f"rm {RULES}"),
            conf(920, r"s#^dev[0-9]+: /dev/nvidia-uvm$#lxc.cgroup2.devices.allow: c 238:* rwm#"),
        ),
        "nvidia-uvm is 511",
    ),
    preflight(
        "gpu-below-heading",
        "the line that passes a GPU stands below a snapshot's heading",
        "test_gpus_are_passed_where_it_counts",
        conf(920, "/^dev0:/d; $a [by-hand]\\nsnaptime: 1\\ndev0: /dev/nvidia0"),
        "passes GPUs where that has no effect",
        diagnosis="A3",
    ),
    preflight(
        "kernel-log-closed",
        "the kernel's log can't be read",
        "test_kernel_log_is_read",
        node(
            "printf '#!/bin/sh\nexit 1\n' > /usr/local/sbin/dmesg; chmod 755 /usr/local/sbin/dmesg",
            "rm /usr/local/sbin/dmesg",
        ),
        "can't be read",
    ),
    preflight(
        "gpu-gone-from-node",
        "a GPU is gone from the node",
        "test_gpus_are_on_the_node",
        node("rm /dev/nvidia1", "mknod -m 666 /dev/nvidia1 c 195 1"),
        "the node's driver lists [0]",
        simulated=True,
    ),
    preflight(
        "gpu-memory-held",
        "another process holds a GPU's memory",
        "test_gpu_memory_is_free",
        gpus_say("gpu1.process = 4242, python3, 15000"),
        "PID 4242",
        simulated=True,
        diagnosis="D3",
    ),
    preflight(
        "node-driver-differs",
        "the node's driver is of another version than the libraries inside",
        "test_driver_is_the_same_inside",
        gpus_say("gpu0.driver_version = 570.86.10", "gpu1.driver_version = 570.86.10"),
        "570.86.10",
        simulated=True,
        diagnosis="B3",
    ),
    preflight(
        "image-needs-newer-driver",
        "the image brings a newer CUDA than the driver serves",
        "test_driver_serves_the_image",
        setting(),
        "install a newer driver on the node, or set vllm_image",
        words=("-o", "vllm_image=vllm/vllm-openai:stand-in-new-cuda"),
        simulated=True,
        diagnosis="B10",
    ),
    preflight(
        "image-without-kernels",
        "the image is not built for these GPUs",
        "test_image_has_kernels_for_the_gpus",
        setting(),
        "has compute capability 12.0",
        words=("-o", "vllm_image=vllm/vllm-openai:stand-in-old-gpus"),
        simulated=True,
        diagnosis="D1",
    ),
    preflight(
        "model-not-divisible",
        "the model can't be shared by two GPUs",
        "test_model_can_be_split",
        declared(vllm_tensor_parallel_size=2),
        "vllm_tensor_parallel_size is 2",
        diagnosis="D5",
    ),
    preflight(
        "model-too-large",
        "the model does not fit the GPUs",
        "test_model_fits_the_gpus",
        gpus_say(*(f"gpu{index}.memory.{what} = 200" for index in (0, 1) for what in ("total", "free"))),
        "MiB of GPU memory are available",
        simulated=True,
        diagnosis="D3",
    ),
)

FAULTS = (
    *FORESEEN,
    preflight(
        "no-proxmox",
        "the node's `pveversion` is of something else",
        "test_node_is_proxmox",
        node(
            "cd /usr/sbin && mv pveversion /root/pveversion.kept && printf '#!/bin/sh\\necho other\\n' > pveversion "
            "&& chmod 755 pveversion",
            "mv /root/pveversion.kept /usr/sbin/pveversion",
        ),
        "`pveversion` prints 'other'",
    ),
    preflight(
        "parent-renamed",
        "the parent has another name than declared",
        "test_parent_is_as_declared",
        conf(903, "0,/^hostname:/s/^hostname:.*/hostname: Other/"),
    ),
    preflight(
        "parent-half-made",
        "the parent's snapshot is half made",
        "test_parent_snapshot_is_whole",
        conf(903, rf"{PARENT_SECTION} snapstate: prepare"),
        "is incomplete (snapstate: ",
        diagnosis="A13",
    ),
    preflight(
        "parent-bind-mount",
        "the parent has a folder of the node mounted",
        "test_parent_has_no_bind_mount",
        conf(903, rf"{PARENT_SECTION} mp0: /srv,mp=/srv"),
        "bind mounts can't be cloned or snapshotted",
        diagnosis="A5",
    ),
    preflight(
        "storage-without-snapshots",
        "the storage is a plain folder, which has no snapshots",
        "test_storage_can_snapshot",
        edited("/etc/pve/storage.cfg", "s/^btrfs:/dir:/"),
        "has no snapshots for containers",
        diagnosis="A5",
    ),
    preflight(
        "storage-full",
        "the storage is nearly full",
        "test_storage_has_room",
        FULL,
        "GiB free",
        words=HUGE,
        quick=True,
        diagnosis="A12",
    ),
    preflight(
        "disk-too-small",
        "the declared disk is too small for the image",
        "test_declared_disk_is_large_enough",
        declared(storage_size_gb=16),
        "storage_size_gb is 16",
        words=HUGE,
        diagnosis="A12",
    ),
    preflight(
        "memory-too-small",
        "more memory is asked for than the node has",
        "test_node_has_the_memory",
        setting(),
        "the node has only",
        words=("-o", "server_memory_mb=99999999"),
    ),
    preflight(
        "lock-left",
        "a task that died has left its lock",
        "test_nothing_holds_a_lock",
        conf(920, "1i lock: backup"),
        "pct unlock 920",
        diagnosis="A6",
    ),
    preflight(
        "half-made-unlocked",
        "a half-made snapshot, its lock removed by hand",
        "test_storage_agrees_with_the_configuration",
        node(
            f"echo 'snapshot-half = die' > /etc/pve/lab-faults; pct snapshot 920 {SNAPSHOT} || true; "
            "rm /etc/pve/lab-faults; pct unlock 920",
            f"pct delsnapshot 920 {SNAPSHOT} --force",
        ),
        f"pct delsnapshot 920 {SNAPSHOT} --force",
        diagnosis="A13",
    ),
    Fault(
        "snapshot-half-made",
        "a snapshot whose task died",
        STAGE,
        ("test_storage_agrees_with_the_configuration",),
        node(
            f"echo 'snapshot-half = die' > /etc/pve/lab-faults; pct snapshot 920 {SNAPSHOT} || true; "
            "rm /etc/pve/lab-faults",
            f"pct unlock 920; pct delsnapshot 920 {SNAPSHOT} --force",
        ),
        (f"920@{SNAPSHOT} is incomplete (snapstate: prepare)", f"pct delsnapshot 920 {SNAPSHOT} --force"),
        diagnosis="A13",
    ),
    preflight(
        "snapshot-on-the-storage-only",
        "the storage has a snapshot that the configuration does not know, as an ended `pct snapshot` leaves it",
        "test_storage_agrees_with_the_configuration",
        node(
            "btrfs -q subvolume snapshot -r /lxc-disks/subvol-920-disk-0 "
            f"/lxc-disks/.snapshots/subvol-920-disk-0@{SNAPSHOT}",
            f"btrfs -q subvolume delete /lxc-disks/.snapshots/subvol-920-disk-0@{SNAPSHOT}",
        ),
        "that the configuration does not know",
        diagnosis="A23",
    ),
    Fault(
        "situation-unknown",
        "what earlier runs have sealed can't be read",
        STAGE,
        ("test_situation_is_known", "test_nothing_half_made_is_left", "test_snapshot_may_be_replaced"),
        node(
            "cd /var/lib/phoenix-920; [ ! -e generations ] || mv generations kept; echo x > generations",
            "cd /var/lib/phoenix-920; rm generations; [ ! -e kept ] || mv kept generations",
        ),
        ("the state of 920 could not be read, so nothing is changed",),
        paired="all ask the journal of generations",
    ),
    preflight(
        "earlier-change-unreadable",
        "what an earlier run has left running can't be read",
        "test_earlier_changes_have_ended",
        node(
            "mkdir -p /var/lib/phoenix-920/tasks/920/1; echo half > /var/lib/phoenix-920/tasks/920/1/task.json",
            "rm -r /var/lib/phoenix-920/tasks/920/1",
        ),
        "it is unknown whether an earlier run is still active",
    ),
    Fault(
        "half-made-clone-that-stays",
        "a clone of ours whose worker died, on a node that does not unlock it",
        STAGE,
        ("test_nothing_half_made_is_left",),
        both(
            node(f"printf '{HALF_MADE}' > /etc/pve/lxc/920.conf", "rm /etc/pve/lxc/920.conf"), command("unlock = die")
        ),
        ("pct unlock 920",),
        ground=Ground.NONE,
    ),
    preflight(
        "snapshot-of-another",
        "--rebuild where somebody else made the snapshot",
        "test_snapshot_may_be_replaced",
        node(f"pct snapshot 920 {SNAPSHOT} --description 'made by hand'", f"pct delsnapshot 920 {SNAPSHOT}"),
        "was not made by this suite",
        words=("--rebuild",),
    ),
    preflight(
        "container-protected",
        "--rebuild-clone where 920 is protected, as it may be by its parent",
        "test_container_may_be_destroyed",
        node("pct set 920 --protection 1", "pct set 920 --delete protection"),
        "pct set 920 --delete protection",
        words=("--rebuild-clone",),
        diagnosis="A22",
    ),
    preflight(
        "number-taken",
        "920 is a container of another name",
        "test_number_is_free_or_a_container",
        conf(920, "0,/^hostname:/s/^hostname:.*/hostname: Other/"),
        "920 is used by the container 'Other'",
    ),
    preflight(
        "address-taken",
        "another container has the address of 920",
        "test_address_is_free",
        node(f"printf '{TWIN}' > /etc/pve/lxc/951.conf", "rm /etc/pve/lxc/951.conf"),
        "10.0.0.220 is the address of [951], too",
        diagnosis="A9",
    ),
    preflight(
        "clone-left-locked",
        "a throw-away clone of an earlier run is locked by another task",
        "test_no_clone_is_left",
        node(f"printf '{LEFT_CLONE}' > /etc/pve/lxc/990.conf", "rm /etc/pve/lxc/990.conf"),
        "pct unlock 990",
        diagnosis="A6",
    ),
    preflight(
        "no-number-for-a-clone",
        "no number is free for a throw-away clone",
        "test_clone_has_a_place",
        setting(),
        "set clone_ctids",
        words=("-o", "clone_ctids=903-903"),
        clones=True,
    ),
    Fault(
        "pvesh-hangs",
        "the node's API hangs",
        STAGE,
        ("test_storage_has_room",),
        command("pvesh = hang"),
        ("took longer than 2 s",),
        words=("-o", "command_deadline=2"),
        outcome="timeout",
    ),
    Fault(
        "pvesh-dies",
        "the node's API dies",
        STAGE,
        ("test_storage_has_room",),
        command("pvesh = die"),
        ("ended with 137",),
    ),
    preflight(
        "node-files-unreadable",
        "the folder /etc/pve is not whole, as where pmxcfs has just died",
        "test_parent_is_as_declared",
        node("mv /etc/pve/.members /root/.members", "mv /root/.members /etc/pve/.members"),
        "cannot open .members",
    ),
    Fault(
        "several-at-once",
        "a lock, too small a disk and a full storage, all seen in one run",
        STAGE,
        ("test_nothing_holds_a_lock", "test_declared_disk_is_large_enough", "test_storage_has_room"),
        both(
            conf(903, "1i lock: backup"),
            declared(storage_size_gb=16),
            FULL,
        ),
        words=HUGE,
        ground=Ground.NONE,
    ),
)
