"""Faults of the clone and of what it has inherited: commands of the node, systemd, Docker, GPUs."""

from __future__ import annotations

import shlex

from tests.faults.fault import Fault, Ground, Put, both, command, conf, cut, docker, docker_daemon, inside, node, parent

MORE = "/lxc-disks/subvol-920-disk-7"
SIMULATED = "/etc/simulated-gpu.conf"
CARDS = [f"GPU-0000000{index}-0000-0000-0000-00000000000{index}" for index in (0, 1)]  # end as CUDA's own do
REAL = [f"gpu{index}.{what}" for index in (0, 1) for what in ("name = NVIDIA GPU", f"uuid = {CARDS[index]}")]
LISTENER = """cat > etc/systemd/system/squatter.service <<EOF
[Service]
ExecStart=/usr/bin/python3 -m http.server 8000
EOF
ln -s ../squatter.service etc/systemd/system/multi-user.target.wants/"""
NO_RUNTIME = """python3 - <<EOF
import json
path = "etc/docker/daemon.json"
settings = json.load(open(path))
del settings["runtimes"]
json.dump(settings, open(path, "w"))
EOF"""
STAT = "/usr/local/sbin/stat"
SMALL = """#!/bin/sh
case $* in *--file-system*) echo 1000000 4096 ext2/ext3 ;; *) exec /usr/bin/stat "$@" ;; esac"""
FAILING = "systemd-run --quiet --wait --unit fails false || systemctl --quiet is-failed fails"


def gpus_say(*lines: str) -> Put:
    """Other values of the simulated GPUs in 920."""
    text = "".join(f"{line}\\n" for line in lines)
    return inside(f"printf '{text}' > {SIMULATED}", f"rm {SIMULATED}")


def cards_say(*lines: str) -> Put:
    """Other names of the cards, on the node and in 920 alike."""
    text = "".join(f"{line}\\n" for line in lines)
    return both(node(f"printf '{text}' > {SIMULATED}", f"rm {SIMULATED}"), gpus_say(*lines))


def moved(path: str) -> Put:
    """A file of 920 is not in its place."""
    return inside(f"mv {path} /root/moved", f"mv /root/moved {path}")


def clone(name: str, what: str, failed: tuple[str, ...], put: Put, *said: str, **more: object) -> Fault:
    """A fault of the clone stage."""
    return Fault(name, what, "clone", failed, put, said, **more)  # type: ignore[arg-type]


def destroyed(name: str, what: str, put: Put, *said: str, **more: object) -> Fault:
    """A fault of --rebuild-clone: what would be destroyed is not all the suite's."""
    return Fault(name, what, "preflight", ("test_container_may_be_destroyed",), put, said, **more)  # type: ignore[arg-type]


def stack(name: str, what: str, failed: tuple[str, ...], put: Put, *said: str, **more: object) -> Fault:
    """A fault of the inherited stack."""
    return Fault(name, what, "inherited stack", failed, put, said, **more)  # type: ignore[arg-type]


CLONE = (
    destroyed(
        "container-of-another",
        "--rebuild-clone where somebody else made 920",
        node(
            "cp /etc/pve/lxc/920.conf /root/920.kept; pct set 920 --description somebody",
            "cp /root/920.kept /etc/pve/lxc/920.conf",
        ),
        "it was not made by this suite (its description is 'somebody')",
        words=("--rebuild-clone",),
    ),
    destroyed(
        "clone-with-a-volume-more",
        "--rebuild-clone where 920 has a mount point that is not the suite's",
        both(
            node(f"btrfs subvolume create {MORE}", f"btrfs subvolume delete {MORE}"),
            conf(920, "1i mp0: lxc-disks:subvol-920-disk-7,mp=/data,size=1G"),
        ),
        "volumes that this suite did not create would be removed with it: mp0",
        words=("--rebuild-clone",),
    ),
    destroyed(
        "clone-with-an-unused-volume",
        "--rebuild-clone where 920 has an unused volume",
        conf(920, "1i unused0: lxc-disks:subvol-920-disk-7"),
        "volumes that this suite did not create would be removed with it: unused0",
        words=("--rebuild-clone",),
    ),
    clone(
        "snapshot-meanwhile",
        "--rebuild-clone, and the owner takes a snapshot of 920 meanwhile",
        ("test_container_is_cloned",),
        both(node("true", "pct delsnapshot 920 mine"), command("stop = sh pct snapshot 920 mine")),
        "it has snapshots that are not recorded as this suite's: mine",
        words=("--rebuild-clone",),
    ),
    clone(
        "set-lies",
        "`pct set` says yes and does nothing",
        ("test_container_is_as_declared",),
        both(node("pct set 920 --memory 3000", "pct set 920 --memory 4096"), command("set = lie")),
        "memory 3000 → 4096",
        quick=True,
    ),
    clone(
        "set-dies",
        "`pct set` dies",
        ("test_container_is_cloned",),
        both(node("pct set 920 --memory 3000", "pct set 920 --memory 4096"), command("set = die")),
        "ended with 137",
    ),
    clone(
        "start-dies",
        "`pct start` dies",
        ("test_container_starts",),
        both(node("pct shutdown 920", "true"), command("start = die")),
        "ended with 137",
    ),
    clone(
        "start-hangs",
        "`pct start` hangs",
        ("test_container_starts",),
        both(node("pct shutdown 920", "true"), command("start = hang")),
        "pct start 920",
        words=("-o", "boot_deadline=5"),
        outcome="timeout",
    ),
    clone(
        "clone-dies",
        "`pct clone` dies half-way",
        ("test_container_is_cloned",),
        both(node("true", "pct unlock 903; pct unlock 920; pct destroy 920"), command("clone-half = die")),
        ground=Ground.NONE,
    ),
    clone(
        "clone-hangs",
        "`pct clone` hangs",
        ("test_container_is_cloned",),
        command("clone = hang"),
        "pct clone 903 920",
        words=("-o", "clone_deadline=5"),
        ground=Ground.NONE,
        outcome="timeout",
    ),
    clone(
        "resize-dies",
        "`pct resize` dies",
        ("test_container_is_cloned",),
        command("resize = die"),
        "ended with 137",
        ground=Ground.NONE,
    ),
    clone(
        "ssh-cut",
        "ssh is cut while 920 starts",
        ("test_container_starts",),
        both(node("pct shutdown 920", "true"), cut("start")),
    ),
)

HEALTH = (
    stack(
        "gpu-hot",
        "a GPU is too hot",
        ("test_gpu_is_healthy[gpu1]",),
        gpus_say("gpu1.temperature.gpu = 95"),
        "GPU 1: ",
        simulated=True,
    ),
    stack(
        "gpu-full-inside",
        "a GPU's memory is taken, as seen from 920",
        ("test_gpu_has_room[gpu1]",),
        gpus_say("gpu1.memory.free = 4000"),
        "4000 of",
        simulated=True,
    ),
    stack(
        "gpu-computes-nothing",
        "GPUs that call themselves real compute nothing",
        ("test_gpu_computes[gpu]",),
        cards_say(*REAL),
        simulated=True,
    ),
)

INHERITED = (
    stack(
        "exec-dies",
        "`pct exec` dies",
        ("test_commands_reach_the_container",),
        command("exec = die"),
        "ended with 137 without output",
    ),
    stack(
        "root-not-grown",
        "the root file system did not grow with its disk",
        ("test_root_disk_has_its_size",),
        inside(f"printf '%s\\n' {shlex.quote(SMALL)} > {STAT}; chmod +x {STAT}", f"rm {STAT}"),
        "(ext2/ext3) has 3.8 GiB",
        "pct fsck 920",
    ),
    stack(
        "unit-failed",
        "a unit of systemd has failed",
        ("test_systemd_is_healthy",),
        inside(FAILING, "systemctl reset-failed fails"),
        "systemd is degraded",
    ),
    stack(
        "other-hostname",
        "920 says another name: commands land elsewhere",
        ("test_commands_reach_the_container",),
        inside("hostname other", "hostname BaseTemplateVLLM"),
        diagnosis="A11",
    ),
    stack(
        "other-address",
        "netplan in 920 gives it another address than the declared one",
        ("test_address_is_as_declared",),
        inside(
            "ip address del 10.0.0.220/24 dev eth0; ip address add 10.0.0.203/24 dev eth0",
            "ip address del 10.0.0.203/24 dev eth0; ip address add 10.0.0.220/24 dev eth0; "
            "ip route replace default via 10.0.0.1",
        ),
        "its addresses are 10.0.0.203",
    ),
    stack(
        "other-os",
        "the parent was made from another release",
        ("test_os_is_as_declared",),
        inside(
            "cp -a /usr/lib/os-release /root/moved; sed -i s/12/11/g /usr/lib/os-release",
            "mv /root/moved /usr/lib/os-release",
        ),
    ),
    stack(
        "unprivileged-owners",
        "files belong to another than root, as in a converted container",
        ("test_container_is_privileged",),
        inside("chown 100000 /etc/passwd", "chown 0 /etc/passwd"),
        "the parent was unprivileged",
        diagnosis="A4",
    ),
    stack(
        "docker-stopped",
        "the Docker service is off in the parent",
        ("test_docker_is_running",),
        parent("rm etc/systemd/system/multi-user.target.wants/docker.service"),
        "docker.service is",
        ground=Ground.NONE,
        diagnosis="C7",
    ),
    stack(
        "docker-broken",
        "Docker does not start, as its settings have a mistake",
        ("test_docker_is_running",),
        inside(
            "echo '{' > /etc/docker/daemon.json.kept; mv /etc/docker/daemon.json /root/kept.json; "
            "mv /etc/docker/daemon.json.kept /etc/docker/daemon.json; systemctl restart docker || true; "
            "systemctl stop docker.socket; systemctl reset-failed",
            "mv /root/kept.json /etc/docker/daemon.json; systemctl reset-failed docker; systemctl restart docker",
        ),
        "docker.service is",
        diagnosis="C29",
    ),
    stack(
        "docker-vfs",
        "Docker copies its layers instead of stacking them",
        ("test_docker_storage_is_sane",),
        docker_daemon("settings['storage-driver'] = 'vfs'"),
        "the storage driver is vfs",
        diagnosis="C1",
    ),
    stack(
        "runc-missing",
        "Docker's runc is not there",
        ("test_docker_runs_a_container",),
        inside("mv $(command -v runc) /root/moved", "mv /root/moved /usr/sbin/runc"),
        diagnosis="C16",
    ),
    stack(
        "docker-refuses",
        "Docker refuses to run a container",
        ("test_docker_runs_a_container",),
        docker("'run --rm'*) echo refused; exit 125;;"),
        "refused",
        quick=True,
    ),
    stack(
        "foreign-container",
        "somebody's container is in Docker",
        ("test_no_foreign_container",),
        inside("docker create --name web vllm/vllm-openai:stand-in >/dev/null", "docker rm web"),
        "web (vllm/vllm-openai:stand-in",
    ),
    stack(
        "foreign-container-same-name",
        "somebody's container has the test server's name",
        ("test_no_foreign_container",),
        inside(
            "docker create --name vllm_test_container vllm/vllm-openai:stand-in >/dev/null",
            "docker rm vllm_test_container",
        ),
        "vllm_test_container (vllm/vllm-openai:stand-in",
    ),
    stack(
        "port-taken",
        "a service of the parent holds the test server's port",
        ("test_port_is_free",),
        parent(LISTENER),
        "port 8000 is in use",
        '"python3"',
        ground=Ground.NONE,
        diagnosis="C3",
    ),
    stack(
        "runtime-missing",
        "the NVIDIA runtime is not registered in the parent's Docker",
        ("test_nvidia_runtime_is_registered",),
        parent(NO_RUNTIME),
        "nvidia-ctk runtime configure --runtime=docker",
        ground=Ground.NONE,
        diagnosis="B6",
    ),
    stack(
        "gpus-with-one-uuid",
        "two GPUs have one UUID",
        ("test_gpus_are_listed",),
        gpus_say("gpu1.uuid = GPU-SIMULATED-0000-0000-0000-000000000000"),
        "two GPUs have the same UUID",
        simulated=True,
    ),
    stack(
        "nvidia-smi-missing",
        "nvidia-smi is not there",
        ("test_gpus_are_listed",),
        moved("/usr/bin/nvidia-smi"),
        simulated=True,
    ),
    stack(
        "driver-mismatch",
        "driver and userspace are of two versions",
        ("test_gpus_are_listed",),
        inside(
            "mv /usr/bin/nvidia-smi /root/moved; printf '#!/bin/sh\\necho Failed to initialize NVML: "
            "Driver/library version mismatch\\nexit 18\\n' > /usr/bin/nvidia-smi; chmod 755 /usr/bin/nvidia-smi",
            "mv /root/moved /usr/bin/nvidia-smi",
        ),
        "Driver/library version mismatch",
        simulated=True,
        diagnosis="B3",
    ),
    stack(
        "gpu-missing",
        "one GPU's device is not passed through",
        ("test_gpu_may_be_used[gpu1]",),
        parent("sed -i '/dev1: /d' /etc/pve/lxc/903.conf"),
        "/dev/nvidia1 does not exist",
        "pct set 903 --dev",
        ground=Ground.NONE,
        simulated=True,
        diagnosis="B12",
    ),
    stack(
        "first-gpu-missing",
        "the first GPU's device is not passed through, so the second is the first of those that are seen",
        ("test_gpu_may_be_used[gpu0]",),
        parent("sed -i '/dev0: /d' /etc/pve/lxc/903.conf"),
        "/dev/nvidia0 does not exist",
        "pct set 903 --dev",
        ground=Ground.NONE,
        simulated=True,
        diagnosis="B12",
    ),
    stack(
        "uvm-missing",
        "/dev/nvidia-uvm is gone: nvidia-smi works, CUDA does not",
        ("test_gpu_may_be_used[gpu0]",),
        inside("touch /run/plain; mount --bind /run/plain /dev/nvidia-uvm", "umount /dev/nvidia-uvm"),
        "/dev/nvidia-uvm is not a device",
        simulated=True,
        diagnosis="B4",
    ),
    stack(
        "cuda-fails-on-one",
        "CUDA fails on one of the GPUs",
        ("test_cuda_works_on_gpu[gpu1]",),
        gpus_say("gpu1.cuda.error = 46"),
        "cuCtxCreate_v2: 46",
        simulated=True,
    ),
)

LOSE = "for id in $(docker ps -q); do rm -f /proc/$(docker inspect -f {{.State.Pid}} $id)/root/dev/nvidia[01]; done"
LASTING = (
    stack(
        "gpus-lost-by-reload",
        "Docker containers lose their GPUs when systemd reloads",
        ("test_gpus_survive_a_reload",),
        inside(
            f'printf \'#!/bin/sh\\n[ "$1" != daemon-reload ] || {LOSE}\\nexec /bin/systemctl "$@"\\n\' '
            "> /usr/local/sbin/systemctl; chmod 755 /usr/local/sbin/systemctl",
            "rm /usr/local/sbin/systemctl",
        ),
        "before `systemctl daemon-reload`",
        simulated=True,
        diagnosis="B1",
    ),
)

FAULTS = (*CLONE, *INHERITED, *HEALTH, *LASTING)
