"""Inherited stack: what 903 gave to 920 works: systemd, Docker, the NVIDIA runtime and every GPU."""

import pytest

from fixtures.build import Build
from fixtures.declaration import Declared
from fixtures.gpu import gpus, health
from fixtures.machines import docker, file_system
from fixtures.machines.container import Container
from fixtures.settings import Settings
from fixtures.stages import SIMULATED, Inconclusive, NotProved
from fixtures.warning import warn

pytestmark = [pytest.mark.stage("inherited stack"), pytest.mark.order(30)]


def test_systemd_is_healthy(container: Container, settings: Settings) -> None:
    """systemd has started, and no unit has failed."""
    state = container.wait_until_booted(settings.boot_deadline)
    failed = container.ask("systemctl", "--failed", "--plain", "--no-legend")
    assert state == "running", f"systemd is {state}; failed: {failed}"


def test_commands_reach_the_container(container: Container, declared: Declared) -> None:
    """Commands for 920 run in 920, not on the node."""
    name, kind = container.ask("hostname"), container.ask("systemd-detect-virt", "--container")
    assert (name, kind) == (declared.name, "lxc"), (
        f"commands run in {name!r} ({kind}), not in {declared.name!r}: is `pct exec` on the node the real one?"
    )


def test_os_is_as_declared(container: Container, declared: Declared) -> None:
    """The operating system is the one that the declared template names."""
    distribution, release = declared.os
    found = container.system_info
    assert found.distribution == distribution
    assert found.release == release or found.release.startswith(f"{release}.")


def test_container_is_privileged(container: Container) -> None:
    """The container is privileged: root is the node's root, and owns the system files."""
    assert container.ask("cat", "/proc/self/uid_map").split() == ["0", "0", "4294967295"]
    owners = container.ask("stat", "--format", "%u", "/", "/usr/bin", "/etc/passwd").split()
    assert owners == ["0", "0", "0"], (
        f"owners {owners}: cloned from an unprivileged container; only a restore fixes that"
    )


def test_root_disk_has_its_size(container: Container, declared: Declared) -> None:
    """The root file system is as large as its declared disk."""
    found = file_system.root(container)
    fills = found.fills(declared.storage_size_gb)
    if fills is None:
        raise Inconclusive(f"whether a file system of kind {found.kind} fills its disk is not known")
    assert fills, (
        f"the root file system ({found.kind}) has {found.gib:.1f} GiB, its disk is declared with "
        f"{declared.storage_size_gb}: `pct resize` grows the disk even where the file system can't follow; its task "
        f"log says why. With {declared.ctid} off: pct fsck {declared.ctid}; then pct resize {declared.ctid} rootfs +1G"
    )


def test_docker_is_running(container: Container) -> None:
    """The Docker service is running and starts at boot."""
    service = container.service("docker")
    assert service.is_running
    assert service.is_enabled


def test_docker_storage_is_sane(container: Container) -> None:
    """Docker stores its layers in overlayfs."""
    driver = docker.info(container)["Driver"]
    assert driver in ("overlay2", "overlayfs"), f"the storage driver is {driver}; overlay2 on ZFS needs OpenZFS 2.2"


def test_docker_runs_a_container(container: Container) -> None:
    """Docker runs a container."""
    assert docker.run_probe(container) == "the probe ran"


def test_no_foreign_container(container: Container) -> None:
    """Docker has no container that this suite did not make."""
    assert docker.foreign(container) == []


def test_port_is_free(container: Container, settings: Settings) -> None:
    """The test server's port is free; a test server of an earlier run is removed first."""
    docker.remove_own(container)
    holders = container.listeners(settings.server_port)
    assert not holders, f"port {settings.server_port} is held: {holders}; stop it in the parent, or set server_port"


def test_nvidia_runtime_is_registered(container: Container) -> None:
    """Docker knows the NVIDIA runtime."""
    runtimes = sorted(docker.info(container)["Runtimes"])
    assert "nvidia" in runtimes, (
        f"Docker knows only {runtimes}; in 903: nvidia-ctk runtime configure --runtime=docker; systemctl restart docker"
    )


@pytest.mark.deep
def test_gpus_are_listed(container: Container, declared: Declared, build: Build) -> None:
    """nvidia-smi lists as many GPUs as are assigned to 920."""
    build.gpus = gpus.listed(container, build.settings.command_deadline)
    assigned, seen = declared.gpus, [str(gpu) for gpu in build.gpus]
    assert len(seen) == len(assigned), f"assigned are {assigned}, listed are {seen}"
    assert len({gpu.uuid for gpu in build.gpus}) == len(assigned), f"two GPUs have one UUID: {seen}"


def test_gpu_may_be_used(container: Container, build: Build, gpu: int) -> None:
    """The device files of this GPU are in the container, and its device rules allow access."""
    wrong = gpus.unusable_nodes(container, gpu)
    if any(line.startswith(f"/dev/nvidia{gpu} ") for line in wrong):
        build.missing.add(gpu)
    nodes = " ".join(line.split()[0] for line in wrong)
    assert not wrong, f"GPU {gpu}: {'; '.join(wrong)}; pass through: {nodes}; one each: pct set CTID --devN PATH"


def test_gpu_is_healthy(container: Container, build: Build, gpu: int, index: int) -> None:
    """This GPU is healthy before load: memory, clocks, temperature, power, modes."""
    values = build.health[f"GPU {gpu} before load"] = health.read(container, index, build.settings.command_deadline)
    failures, notes = health.judge(values, loaded=False)
    name = gpus.named(build.gpus, gpu, index)
    assert not failures, f"{name}: {'; '.join(failures)}"
    for note in notes:
        warn(f"{name}: {note}")


def test_gpu_has_room(container: Container, build: Build, settings: Settings, gpu: int, index: int) -> None:
    """This GPU has enough free memory for a test server."""
    room = gpus.room(container, index, settings.command_deadline)
    name = gpus.named(build.gpus, gpu, index)
    if room.free is None or room.total is None:
        warn(f"not seen: the memory of {name}, which its driver does not report")
        return
    wanted = settings.gpu_share * room.total
    assert room.free >= wanted, (
        f"{name} has {room.free} MiB free of {room.total}, the server takes {wanted:.0f}; others hold the rest: "
        f"{', '.join(room.processes) or 'no process of this container'}; end them, or let the server take less: "
        "-o server_args='--gpu-memory-utilization ...'"
    )


@pytest.mark.deep
def test_cuda_works_on_gpu(container: Container, build: Build, settings: Settings, gpu: int, index: int) -> None:
    """CUDA initialises on this GPU, copies data there and back, and allocates and frees memory."""
    result = build.cuda[gpu] = gpus.probe_cuda(container, index, settings.gpu_memory_mb, settings.command_deadline)
    assert not result.error, f"GPU {gpu}: {result.error} (CUDA counts {result.count} GPUs)"
    assert result.copied > 0
    assert result.taken > 0
    listed = build.gpus[index].uuid if index < len(build.gpus) else ""
    last_group = result.uuid[-12:]
    assert listed.endswith(last_group), f"GPU {gpu}: CUDA uses the card ...-{last_group}, nvidia-smi lists {listed}"


@pytest.mark.deep
def test_gpu_computes(build: Build, gpu: int) -> None:
    """A matrix product on this GPU equals the CPU's."""
    result = build.cuda.get(gpu)
    if result is None or result.error:
        pytest.skip("CUDA does not work on this GPU")
    if result.product == "not supported" and build.simulated:
        raise NotProved(SIMULATED)
    assert result.product == "right", f"GPU {gpu}: a product is {result.product} by its driver"
