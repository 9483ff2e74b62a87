"""Inherited stack: systemd, Docker, the NVIDIA runtime and every GPU, inherited from the parent, work."""

from functools import partial

import pytest

from fixtures.base.declaration import Declared
from fixtures.base.errors import Inconclusive, Simulated, Unseen, unexpected
from fixtures.base.settings import Settings
from fixtures.gpu import gpus, health
from fixtures.proxmox import disk, docker
from fixtures.proxmox.container import Container
from fixtures.run.build import Build
from fixtures.run.stages import SIMULATED
from fixtures.template.template import Template

DOCKER = pytest.mark.needs("test_docker_is_running")
GPU = pytest.mark.needs("test_gpus_are_listed", "test_gpu_may_be_used[gpu]")
pytestmark = [
    pytest.mark.stage("inherited stack"),
    pytest.mark.order(30),
    pytest.mark.needs_answer("test_systemd_is_healthy"),
    pytest.mark.needs("test_commands_reach_the_container"),
]


def test_systemd_is_healthy(container: Container, settings: Settings) -> None:
    """systemd has started, and no unit has failed."""
    state = container.wait_until_booted(settings.boot_deadline)
    assert state == "running", unexpected(
        f"systemd is {state}; failed: {container.failed_units()}",
        "running",
        run=container.pasteable("systemctl", "--failed"),
    )


def test_commands_reach_the_container(container: Container, declared: Declared) -> None:
    """Commands for the template run in it, not on the node."""
    name, kind = container.ask("hostname"), container.ask("systemd-detect-virt", "--container")
    assert (name, kind) == (declared.name, "lxc"), unexpected(
        f"commands run in {name!r} ({kind})",
        f"{declared.name!r} (lxc)",
        cause="its host name was changed, or the node's `pct` is not Proxmox VE's",
        run=container.pasteable("hostname"),
    )


def test_address_is_as_declared(container: Container, declared: Declared) -> None:
    """The container has its declared address, so that its server can be reached."""
    said = container.ask("ip", "-brief", "address", "show", "scope", "global")
    found = [word.partition("/")[0] for line in said.splitlines() for word in line.split()[2:]]
    assert declared.network.address in found, unexpected(
        f"its addresses are {', '.join(found) or 'none'}",
        declared.network.address,
        cause="a file in it overrides what Proxmox VE writes (/etc/netplan, cloud-init, /etc/systemd/network): "
        "remove it in the parent, and retake its snapshot",
        run=container.pasteable("sh", "-c", "ip -brief address; ls /etc/netplan /etc/systemd/network"),
    )


def test_os_is_as_declared(container: Container, declared: Declared) -> None:
    """The operating system is the one in the declared template's name."""
    distribution, release = declared.os
    found = container.system_info
    if not release[:1].isdigit() or (found.distribution == distribution and found.release is None):
        stated = f"/etc/os-release states {found.distribution or 'no system'} {found.release or 'without a release'}"
        raise Unseen(f"unknown: whether the system matches {declared.template}; {stated}")
    as_declared = found.release == release or str(found.release).startswith(f"{release}.")
    assert found.distribution == distribution and as_declared, unexpected(  # noqa: PT018 - one fact
        f"the operating system is {found.distribution} {found.release}",
        f"{distribution} {release}",
        cause="the parent was created from another template, or upgraded",
        run=container.pasteable("cat", "/etc/os-release"),
    )


def test_container_is_privileged(container: Container) -> None:
    """The container is privileged: root is the node's root, and owns the system files."""
    ids = container.ask("cat", "/proc/self/uid_map").split()
    assert ids == ["0", "0", "4294967295"], unexpected(
        f"user ids are mapped as {' '.join(ids)}",
        "0 0 4294967295",
        cause="the container is unprivileged",
        run=f"pct config {container.ctid} | grep unprivileged",
    )
    owners = container.ask("stat", "--format", "%u", "/", "/usr/bin", "/etc/passwd").split()
    assert owners == ["0", "0", "0"], unexpected(
        f"/, /usr/bin and /etc/passwd have owners {owners}",
        "root, 0",
        cause="the parent was unprivileged; only a restore with --unprivileged 0 changes the owners",
        run=container.pasteable("stat", "--format", "%u %n", "/", "/usr/bin", "/etc/passwd"),
    )


def test_root_disk_has_its_size(container: Container, declared: Declared) -> None:
    """The root file system is as large as its declared disk."""
    found = disk.file_system(container)
    fills, ctid = found.fills(declared.storage_size_gb), declared.ctid
    if fills is None:
        raise Inconclusive(f"whether a file system of kind {found.kind} fills its disk is not known")
    assert fills, unexpected(
        f"the root file system ({found.kind}) has {found.gib:.1f} GiB, the disk is declared with "
        f"{declared.storage_size_gb} GB",
        "a file system that fills the disk",
        cause="`pct resize` grows the disk even where the file system can't follow; its task log says why",
        run=f"pct shutdown {ctid}; pct fsck {ctid}; pct resize {ctid} rootfs +1G",
    )


def test_docker_is_running(container: Container) -> None:
    """Docker is running and enabled at boot."""
    service = container.service("docker")
    assert service.is_running and service.is_enabled, unexpected(  # noqa: PT018 - the facts say which
        docker.state(container), "active and enabled", run=container.pasteable("systemctl", "status", "docker")
    )


@DOCKER
def test_docker_storage_is_sane(container: Container) -> None:
    """Docker stores its layers in overlayfs."""
    driver = docker.info(container)["Driver"]
    assert driver in ("overlay2", "overlayfs"), unexpected(
        f"the storage driver is {driver}",
        "overlay2",
        cause="daemon.json sets it, Docker keeps it because of old data in /var/lib/docker, or overlay2 does not work "
        "(on ZFS it needs OpenZFS 2.2)",
        run=container.pasteable("docker", "info", "--format", "{{.Driver}}"),
    )


@DOCKER
def test_docker_runs_a_container(container: Container) -> None:
    """Docker runs a container."""
    said = docker.run_probe(container)
    assert said == "the probe ran", unexpected(
        f"a Docker container printed {said!r}",
        "'the probe ran'",
        run=container.pasteable("journalctl", "-u", "docker", "-n", "20"),
    )


@DOCKER
def test_no_foreign_container(container: Container) -> None:
    """Docker has no container that this suite did not make."""
    found = docker.foreign(container)
    assert not found, unexpected(
        f"Docker holds {', '.join(found)}",
        "no container, because every clone would inherit it",
        cause="it comes from the parent: remove it there",
        run=container.pasteable("docker", "ps", "--all"),
    )


@pytest.mark.needs("test_no_foreign_container")
@DOCKER
def test_port_is_free(container: Container, settings: Settings) -> None:
    """The test server's port is free; a test server of an earlier run is removed first."""
    docker.remove_own(container)
    holders = container.listeners(settings.server_port)
    assert not holders, unexpected(
        f"port {settings.server_port} is in use: {holders}",
        "a free port",
        cause="stop it in the parent, or set server_port",
        run=container.pasteable("ss", "-ltnp", f"sport = :{settings.server_port}"),
    )


@pytest.mark.usefixtures("pull_afterwards")
@DOCKER
def test_nvidia_runtime_is_registered(container: Container) -> None:
    """Docker knows the NVIDIA runtime."""
    runtimes = sorted(docker.info(container)["Runtimes"])
    fix = "nvidia-ctk runtime configure --runtime=docker; systemctl restart docker"
    assert "nvidia" in runtimes, unexpected(
        f"Docker knows only {runtimes}",
        "the nvidia runtime",
        cause="NVIDIA's toolkit is not configured in the parent",
        run=container.pasteable("sh", "-c", fix),
    )


def test_gpu_may_be_used(container: Container, template: Template, build: Build, gpu: int) -> None:
    """The device files of this GPU are in the container, and its device rules allow access."""
    wrong = build.unusable[gpu] = gpus.unusable_nodes(container, gpu)
    before = [other for other, lines in build.unusable.items() if other != gpu and wrong and {*wrong} <= {*lines}]
    if before:  # a device that all GPUs share
        raise build.ledger.blocked_by(f"test_gpu_may_be_used[gpu{before[0]}]")
    assert not wrong, unexpected(
        "; ".join(wrong),
        "device files that the container may use",
        cause="pass them through in the parent and retake its snapshot",
        run=gpus.passing(container, template.parent.ctid, wrong),
    )


@pytest.mark.deep
def test_gpus_are_listed(container: Container, declared: Declared, build: Build) -> None:
    """nvidia-smi lists as many GPUs as are assigned to the template."""
    build.gpus = gpus.listed(container)
    there = [gpu for gpu in declared.gpus if gpu not in build.missing]  # another check names the missing devices
    seen, ask = [str(gpu) for gpu in build.gpus], container.pasteable("nvidia-smi", "-L")
    assert len({gpu.uuid for gpu in build.gpus}) == len(seen), unexpected(
        f"two GPUs have the same UUID: {seen}", "a UUID for each GPU", cause="one card is passed through twice", run=ask
    )
    assert len(seen) >= len(there), unexpected(
        f"GPUs {declared.gpus} are assigned, but {seen} are listed", f"{len(there)} GPUs", run=ask
    )
    assert len(seen) == len(there), unexpected(
        f"more GPUs are listed than the assigned {declared.gpus}: {seen}",
        f"{len(there)} GPUs",
        cause="the configuration passes a device that is not assigned: correct gpu_assignment, or delete that line "
        "from the parent and retake its snapshot",
        run=f"grep nvidia /etc/pve/lxc/{container.ctid}.conf",
    )
    other = gpus.others(build.gpus, build.node_gpus)
    assert not other, unexpected(
        f"in the container {'; '.join(other)}",
        "the node's cards",
        cause="the container was made for another node, or nvidia-smi was replaced",
        run="nvidia-smi -L",
    )


@GPU
def test_gpu_is_healthy(container: Container, build: Build, gpu: int, index: int) -> None:
    """This GPU is healthy before load: memory, clocks, temperature, power, modes."""
    values = gpus.state(container, index, build.gpus).values
    build.health[f"GPU {gpu} before load"] = values
    failures, notes = health.judge(values, loaded=False)
    ask = f"nvidia-smi -q -i {gpus.selector(build.gpus, gpu)}"
    assert not failures, unexpected("; ".join(failures), "a healthy GPU", run=ask)
    health.report(build.card(gpu), notes)


@GPU
def test_gpu_has_room(container: Container, build: Build, settings: Settings, gpu: int, index: int) -> None:
    """This GPU has enough free memory for a test server."""
    now = gpus.state(container, index, build.gpus)
    if now.free_mib is None or now.memory_mib is None:
        raise Unseen(f"unknown: the memory of {build.card(gpu)}, which its driver does not report")
    wanted, holders = settings.gpu_share * now.memory_mib, "; ".join(map(str, now.processes))
    assert now.free_mib >= wanted, unexpected(
        f"{now.free_mib} of {now.memory_mib} MiB are free, the server needs {wanted:.0f} MiB",
        "enough for the server",
        cause=f"the rest is held by {holders or 'processes outside this container'}; stop them, or let the server use "
        "less (-o server_args='--gpu-memory-utilization 0.5')",
        run="nvidia-smi",
    )


@GPU
@pytest.mark.deep
def test_cuda_works_on_gpu(container: Container, build: Build, settings: Settings, gpu: int, index: int) -> None:
    """CUDA initialises on this GPU, copies data there and back, and allocates and frees memory."""
    result = build.cuda[gpu] = build.ask_gpu(
        index, "CUDA", partial(gpus.probe_cuda, container, memory_mb=settings.gpu_memory_mb)
    )
    fault = result.fault(gpus.at(build.gpus, index).uuid)
    assert not fault, unexpected(*fault, run=container.pasteable("nvidia-smi"))


@pytest.mark.needs("test_cuda_works_on_gpu[gpu]")
@pytest.mark.deep
def test_gpu_computes(build: Build, gpu: int) -> None:
    """A matrix product on this GPU equals the CPU's."""
    result = build.cuda.get(gpu)
    if result is None:
        pytest.skip("CUDA was not tried on this GPU")
    if result.product == "not supported" and build.simulated:
        raise Simulated(SIMULATED)
    assert result.product == "right", unexpected(
        f"the matrix product is {result.product} through its driver",
        "the CPU's numbers",
        cause="a faulty card or driver",
        run=f"nvidia-smi -q -i {gpus.selector(build.gpus, gpu)} -d ECC",
    )
