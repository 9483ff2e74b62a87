"""GPUs and model: driver, GPUs, image and model are compatible, as far as is known. Changes nothing."""

import re
import shlex
from collections.abc import Collection

import pytest

from fixtures.base.errors import refuse_unseen, unexpected
from fixtures.base.settings import Settings
from fixtures.base.warning import warn
from fixtures.gpu import fit, health, node_gpus, reboot
from fixtures.gpu.gpu import Gpu
from fixtures.gpu.node_gpus import NodeGpus
from fixtures.gpu.reboot import Boot
from fixtures.proxmox.disk import Disk
from fixtures.proxmox.node import Node
from fixtures.run.build import Build
from fixtures.serving.model import POINTERS, Model
from fixtures.serving.registry import Published
from fixtures.template.template import Template

pytestmark = [
    pytest.mark.stage("preflight"),
    pytest.mark.order(14),
    pytest.mark.needs_answer("test_parent_is_as_declared", "test_gpus_are_on_the_node"),
]

LIBRARIES = "/usr/lib/x86_64-linux-gnu"
LEGACY = (
    "the last driver of Fermi cards is 390, of Kepler cards 470: no vLLM image runs on such a card, use another GPU; "
    "for a newer card install a newer driver on the node"
)

QUERY = "nvidia-smi --query-gpu=index,name,compute_cap,memory.total,driver_version --format=csv"
# vLLM builds for no older compute capability (its CMakeLists.txt, CUDA_SUPPORTED_ARCHS; vllm-project/vllm#963)
OLDEST = (7,)


def without(template: Template, unfit: Collection[int], before: str = "") -> str:
    """What to declare so that only those assigned GPUs are used that are not unfit; empty if there are none."""
    declared = template.declared
    left = [gpu for gpu in declared.gpus if gpu not in unfit]
    fewer = f", vllm_tensor_parallel_size to {len(left)}" * (declared.tensor_parallel > len(left))
    return f'{before}set gpu_assignment to "{",".join(map(str, left))}", leaving it out{fewer}' if left else ""


def image_for(gpu: Gpu, built: str) -> str:
    """What helps a GPU that an image has no kernels for: a newer image, an older one, or none."""
    mine, known = fit.version(gpu.capability), [fit.version(each) for each in re.findall(r"\d+\.\d+", built)]
    if mine < OLDEST:
        return f"no image of vLLM is built for {gpu.capability}, only for 7.0 and later: use another GPU"
    if mine < min(known, default=mine):
        return f"set vllm_image to an older one{', of CUDA 12' * (mine < (7, 5))}, or use another GPU"
    return f"set vllm_image to {'a newer' if mine >= max(known, default=mine) else 'another'} one, or use another GPU"


@pytest.mark.deep
def test_kernel_log_is_read(node: Node, build: Build) -> None:
    """The kernel log can be read; a warning shows GPU faults from before this run."""
    build.xids = node_gpus.xid_lines(node)
    if build.xids:
        warn(f"the kernel logged GPU faults before this run: {build.xids[-1]}")


def test_gpus_are_on_the_node(template: Template, gpus_of_node: NodeGpus) -> None:
    """The node has every GPU that the template is assigned, and each is healthy."""
    assert not gpus_of_node.broken, unexpected(
        gpus_of_node.unseen,
        "a driver that works on the node; the container's own libraries must then be of the same version",
        run="cat /proc/driver/nvidia/version; dkms status; dpkg -l 'nvidia*' 'libnvidia*' | grep ^ii",
    )
    refuse_unseen(gpus_of_node.unseen)
    for note in gpus_of_node.notes:
        warn(note)
    missing = set(template.declared.gpus) - set(gpus_of_node.gpus)
    assert not missing, unexpected(
        f"GPUs {template.declared.gpus} are assigned, but the node's driver lists {sorted(gpus_of_node.gpus)}",
        "every assigned GPU",
        cause="a GPU has failed, is bound to another driver, is newer than this one, or was never installed"
        + without(template, missing, "; meanwhile "),
        run="nvidia-smi -L; lspci -nnk -d 10de:; dmesg | grep NVRM | tail",
    )
    judged = [(gpu, health.judge(gpu.values, loaded=False)[0]) for gpu in gpus_of_node.of(template.declared.gpus)]
    seen = [(gpu, [line for line in lines if line != health.NONE_REPORTED]) for gpu, lines in judged]
    unfit = [f"{gpu}: {'; '.join(lines)}" for gpu, lines in seen if lines]
    assert not unfit, unexpected(
        "; ".join(unfit),
        "healthy GPUs",
        cause=without(template, [gpu.number for gpu, lines in seen if lines], "meanwhile "),
        run="nvidia-smi -q",
    )
    refuse_unseen(*(f"the health of {gpu}" for gpu, lines in judged if health.NONE_REPORTED in lines))


def test_gpu_memory_is_free(template: Template, gpus_of_node: NodeGpus, settings: Settings) -> None:
    """No other container or process holds GPU memory that the test server needs."""
    held, hidden, wanted = dict[int, str](), list[str](), settings.gpu_share
    for gpu in gpus_of_node.of(template.declared.gpus):
        others = [str(holder) for holder in gpu.processes if holder.ctid != template.ctid]
        if gpu.free_mib is None or gpu.memory_mib is None:
            hidden.append(f"the memory of {gpu}")
            continue
        free = gpu.free_mib + sum(holder.memory_mib or 0 for holder in gpu.processes if holder.ctid == template.ctid)
        if free < wanted * gpu.memory_mib:
            held[gpu.number] = f"{gpu}: {free} of {gpu.memory_mib} MiB free: {'; '.join(others) or 'holder unknown'}"
        elif others:
            warn(f"{gpu} is shared: {'; '.join(others)}")
    assert not held, unexpected(
        f"the server needs {wanted:.0%} of each GPU's memory. {' '.join(held.values())}",
        "that much free memory",
        cause="stop those processes, or let the server use less (server_args=--gpu-memory-utilization 0.5)"
        + without(template, held, ", or "),
        run="nvidia-smi",
    )
    refuse_unseen(*hidden)


def test_devices_are_made_before_guests_start(boot: Boot) -> None:
    """After a reboot, the node's NVIDIA devices exist before guests start."""
    uvm = reboot.UVM
    refuse_unseen("" if "nvidia-uvm" in boot.majors else "nvidia-uvm in the node's /proc/devices")
    assert boot.early or boot.late, unexpected(
        f"no udev rule, enabled unit, list of modules, cron job or hook creates {uvm}",
        "one that does so before guests start",
        cause="a program created it after the last boot; at the next boot guests start without it",
        run="systemctl cat nvidia-persistenced; grep -r nvidia /etc/udev/rules.d /etc/modules-load.d",
    )
    refuse_unseen("" if boot.early else f"whether {', '.join(boot.late)} creates {uvm} before guests start")


@pytest.mark.needs("test_parent_is_as_declared")
def test_device_rules_outlast_a_reboot(node: Node, template: Template, boot: Boot) -> None:
    """No device rule of the container names a major number that may change."""
    refuse_unseen("" if boot.majors else "any NVIDIA device in the node's /proc/devices")
    there, effective = (template.ctid, "") if template.exists else (template.parent.ctid, template.parent_snapshot)
    found = node.read_conf(there)
    assert found, unexpected(f"container {there} does not exist", "its configuration", run=f"pct config {there}")
    section = found.sections.get(effective, found.head) if effective else found.head
    rules, wrong = reboot.pinned(section.lines, boot)
    assert not wrong, unexpected(
        f"container {there} has {'; '.join(rules)}, nvidia-uvm is {boot.majors['nvidia-uvm']}",
        "the major number in /proc/devices",
        cause="modules were loaded in another order; use devN lines, which name paths"
        + (f", in {there} itself, and retake its snapshot {effective}" if effective else ""),
        run=f"nano /etc/pve/lxc/{there}.conf",
    )
    if rules:
        warn(f"{'; '.join(rules)}: this number may change at a reboot; use a devN line, which names the path")


def test_driver_is_the_same_inside(template: Template, gpus_of_node: NodeGpus, parent_disk: Disk) -> None:
    """The parent's NVIDIA libraries have the version of the node's driver."""
    found = (re.fullmatch(r"libnvidia-ml\.so\.(\d+\.[\d.]+)", name) for name in parent_disk.sizes(LIBRARIES))
    inside = {name[1] for name in found if name}
    drivers = {gpu.driver for gpu in gpus_of_node.gpus.values()}
    if not inside or not drivers or not all(map(fit.version, drivers)):
        refuse_unseen(f"the driver's version {'on the node' if inside else 'in the parent'}")
    old = [driver for driver in drivers if fit.branch(driver) < fit.CUDA_12]
    assert inside & drivers or not old, unexpected(
        f"the node's driver {old} serves CUDA {fit.cuda_of(old[0]) or 'unknown'}",
        f"branch {fit.CUDA_12} or newer, as CUDA 12 needs (docs.nvidia.com/deploy/cuda-compatibility)",
        cause=LEGACY,
        run="nvidia-smi --query-gpu=name,driver_version --format=csv",
    )
    assert inside & drivers, unexpected(  # an older one beside it may be left over
        f"the parent has NVIDIA libraries of version {sorted(inside)}, the node's driver is {sorted(drivers)}",
        "the same version",
        cause="install that version in the parent (runfile with --no-kernel-modules), retake its snapshot",
        run=f"pct exec {template.parent.ctid} -- sh -c 'ls {LIBRARIES}/libnvidia-ml.so.*'",
    )


def test_driver_serves_the_image(template: Template, published: Published, gpus_of_node: NodeGpus) -> None:
    """The node's driver is new enough for the image's CUDA on every assigned GPU."""
    for gpu in (seen := gpus_of_node.of(template.declared.gpus)):
        assert not 0 < fit.branch(gpu.driver) < fit.CUDA_11, unexpected(
            f"{gpu}: the node's driver {gpu.driver} serves CUDA {fit.cuda_of(gpu.driver) or 'unknown'}",
            f"branch {fit.CUDA_12} or newer, as CUDA 12 needs (docs.nvidia.com/deploy/cuda-compatibility)",
            cause=LEGACY,
            run="nvidia-smi --query-gpu=name,driver_version --format=csv",
        )
    refuse_unseen(fit.unstated(published.env, "NVIDIA_REQUIRE_CUDA"))
    unseen, unfit = list[str](), dict[int, str]()
    legacy = 0 < fit.branch(seen[0].driver) < fit.CUDA_12  # which names no CUDA version before 410
    cuda = gpus_of_node.cuda or (fit.cuda_of(seen[0].driver) if legacy else "")
    for gpu in seen:
        lacks, unknown, note = fit.driver_lacks(published.env, cuda, gpu.driver, gpu.brand, gpu.capability)
        asked = f"({gpu}, driver {gpu.driver}, CUDA {cuda or 'unknown'})"
        if lacks:
            unfit[gpu.number] = lacks
        if unknown:
            unseen.append(f"{unknown} {asked}")
        if note:
            warn(f"{note} {asked}")
    for gpu in (each for each in seen if each.number in unfit):
        fix = "install a newer driver on the node, or set vllm_image to an older image"
        if not re.match("(cuda|driver)>", lacks := unfit[gpu.number]):
            fix = image_for(gpu, lacks) if "arch" in lacks else "set vllm_image to a newer image"
        assert not unfit, unexpected(
            f"the image needs {lacks}, the node's driver {gpu.driver} supports CUDA {cuda or 'unknown'}, with {gpu}",
            "a driver and a GPU that it supports",
            cause=without(template, unfit) or (LEGACY if legacy else fix),
            run=QUERY,
        )
    refuse_unseen(*unseen)


def test_image_has_kernels_for_the_gpus(template: Template, published: Published, gpus_of_node: NodeGpus) -> None:
    """The image is built for the architecture of every assigned GPU."""
    refuse_unseen(fit.unstated(published.env, "TORCH_CUDA_ARCH_LIST"))
    seen = [(gpu, fit.kernels_lack(published.env, gpu.capability)) for gpu in gpus_of_node.of(template.declared.gpus)]
    unfit = {gpu.number: (gpu, lacks) for gpu, lacks in seen if lacks}
    assert not unfit, unexpected(
        "; ".join(f"{gpu} has compute capability {gpu.capability}" for gpu, _ in unfit.values())
        + f", the image is built for {next(iter(unfit.values()))[1]}",
        "an image built for it",
        cause=without(template, unfit)
        or "; ".join(dict.fromkeys(image_for(gpu, built) for gpu, built in unfit.values())),
        run=QUERY,
    )
    hidden = [f"{gpu}: its architecture or the image's list is unknown" for gpu, lacks in seen if lacks is None]
    refuse_unseen(*(f"whether the image has kernels for {each}" for each in hidden))


def test_model_can_be_split(template: Template, model: Model) -> None:
    """The model can be split across the declared number of GPUs."""
    problem, ways = model.split_problem(template.declared.tensor_parallel), template.declared.tensor_parallel
    assert not problem, unexpected(
        f"{problem}; vllm_tensor_parallel_size is {ways}",
        "a number that divides it",
        cause="declare another number, or use another test_model",
        run="nvidia-smi -L",
    )
    refuse_unseen(model.unseen or ("" if model.heads else "how many attention heads the model has"))


def test_model_fits_the_gpus(template: Template, model: Model, gpus_of_node: NodeGpus, settings: Settings) -> None:
    """The model's weights fit into the memory of the GPUs that serve it."""
    assert not 0 < model.weights < POINTERS, unexpected(
        f"the weights of {settings.test_model} are {model.weights} bytes",
        "more than Git LFS pointers",
        run=f"git -C {shlex.quote(settings.test_model)} lfs pull",
    )
    gpus = gpus_of_node.of(template.declared.gpus)
    totals = [gpu.memory_mib for gpu in gpus if gpu.memory_mib is not None]
    if not model.weights or len(totals) < len(gpus):
        refuse_unseen("the memory of the GPUs" if len(totals) < len(gpus) else "the size of the model's weights")
    room = min(totals) * template.declared.tensor_parallel * settings.gpu_share
    needed = model.weights / 2**20
    less = settings.server_option("--cpu-offload-gb", "--pipeline-parallel-size", "-pp", "--quantization", "-q")
    if needed >= room and less:
        refuse_unseen("what part of the model's weights a GPU holds with these server_args")
    unfit = [gpu.number for gpu in gpus if needed >= (gpu.memory_mib or 0) * settings.gpu_share]
    assert needed < room, unexpected(
        f"its weights are {needed:.0f} MiB, but {room:.0f} MiB of GPU memory are available"
        + (f" on {gpus[totals.index(min(totals))]}" if min(totals) < max(totals) else ""),
        "a model that fits",
        cause=(without(template, unfit) if template.declared.tensor_parallel == 1 else "")
        or "use a smaller or quantised test_model, or more GPUs with tensor parallel",
        run=QUERY,
    )
