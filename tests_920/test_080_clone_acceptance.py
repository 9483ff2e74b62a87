"""Clone acceptance: a clone of the snapshot boots, is itself, and serves: that is what the template is for.

The clone is a throw-away one, with a number, a name and an address of its own, and is destroyed in the
end. With `--accept` it is a container as it is declared; of one that was there before, nothing is changed.
"""

import pytest

from fixtures.gpu import gpus
from fixtures.machines import docker
from fixtures.settings import Settings
from fixtures.stages import Inconclusive
from fixtures.templates import guest, identity
from fixtures.templates.acceptance import Trial
from fixtures.templates.clone import Clone
from fixtures.vllm.image import Image
from fixtures.vllm.server import Server
from fixtures.warning import warn

pytestmark = [pytest.mark.stage("clone acceptance"), pytest.mark.order(80), pytest.mark.deep]


def test_clone_can_work(trial: Trial) -> None:
    """Nothing known before copying prevents the clone from working as declared."""
    refused = "; ".join(trial.refusals)
    assert not refused, f"{trial.clone.ctid} {trial.clone.declared.name} is refused: {refused}"


def test_clone_is_made(trial: Trial) -> None:
    """The clone has its own number, name, address and MAC, set before its first start."""
    if trial.refusals:
        pytest.skip("nothing is copied for what can't work")
    trial.make()
    differences = trial.differences()
    assert not differences, differences


def test_clone_boots_beside_its_template(trial: Trial) -> None:
    """The clone boots beside its template, and no unit of its systemd has failed."""
    if not trial.made:
        pytest.skip("there is no clone")
    assert trial.start() == "running", trial.clone.container.ask("systemctl", "--failed", "--plain", "--no-legend")


def test_clone_has_an_identity_of_its_own(trial: Trial, clone: Clone) -> None:
    """The clone has regenerated its identity: ids, keys, name and addresses differ from the template's."""
    template, found = trial.identities()
    assert identity.shared(template, found) == []
    assert identity.missing(found, ssh=clone.container.exists("sshd")) == []
    assert f"{clone.declared.network.address}/" in found["addresses"]


def test_docker_works_in_the_clone(trial: Trial, clone: Clone) -> None:
    """Docker runs a container in the clone, and a new clone holds none."""
    docker.remove_own(clone.container)  # of a run that was killed
    assert docker.run_probe(clone.container) == "the probe ran"
    brought = [] if trial.was_there else docker.foreign(clone.container)
    left = docker.own(clone.container) + brought
    assert not left, (
        f"Docker in clone {clone.ctid} holds {left}, expected is no container: the snapshot holds one, or the "
        f"probe stays; find out: pct exec {clone.ctid} -- docker ps --all"
    )


def test_clone_is_what_was_sealed(trial: Trial, clone: Clone) -> None:
    """Image, model, packages, files and software in a new clone are the ones that were sealed."""
    drifts = "; ".join(str(drift) for drift in trial.comparison.in_template)
    if trial.is_of_earlier_generation:
        warn(f"{clone.ctid} was cloned from an earlier generation of the template")
    if trial.was_there and drifts:
        warn(f"{clone.ctid} has changed since it was made: {drifts}")
    else:
        assert not drifts, f"clone {clone.ctid} differs from the template that was sealed: {drifts}"


def test_clone_knows_what_it_came_from(trial: Trial, clone: Clone) -> None:
    """The clone carries the record, and /etc/phoenix/verify shows its origin."""
    said = clone.container.execute("/etc/phoenix/verify").out
    assert f"came from {trial.build.template.subject}, manifest sha256:{trial.comparison.digest}" in said


def test_clone_sees_every_gpu(trial: Trial, clone: Clone, settings: Settings) -> None:
    """nvidia-smi in the clone lists as many GPUs as are assigned to it."""
    listed = gpus.listed(clone.container, settings.command_deadline)
    lost = [str(drift) for drift in trial.comparison.around if drift.field.startswith("gpus")]
    assert len(listed) == len(clone.declared.gpus), (
        f"assigned are {clone.declared.gpus}, listed are {[gpu.uuid for gpu in listed]} in clone {clone.ctid}; "
        f"unlike in the template: {'; '.join(lost) or 'nothing'}"
    )


def test_cuda_works_in_the_clone(trial: Trial, clone: Clone, settings: Settings, gpu: int) -> None:
    """In the clone, CUDA initialises on this GPU and copies data there and back."""
    index, deadline, memory = clone.declared.gpus.index(gpu), settings.command_deadline, settings.gpu_memory_mb
    if trial.was_there:
        memory = memory or guest.CUDA_MIB  # never all that its owner's programs may be about to take
        if full := guest.no_room(clone, index, deadline, mib=memory + guest.CUDA_MIB):
            raise Inconclusive(full)
    result = gpus.probe_cuda(clone.container, index, memory, deadline)
    assert not result.error, f"GPU {gpu} in clone {clone.ctid}: {result.error} (CUDA counts {result.count} GPUs)"


def test_clone_serves(clone: Clone, clone_image: Image, clone_server: Server, settings: Settings) -> None:
    """The clone serves its model from the sealed image and gives the expected answer."""
    clone_server.start(clone_image, clone.declared.tensor_parallel)
    clone_server.wait_until_ready()
    answer = clone_server.chat(settings.test_prompt)
    assert (answer.status, answer.model) == (200, clone_server.model)
    assert not (problem := answer.lacks(settings.expected_word)), problem


def test_clone_is_destroyed(trial: Trial) -> None:
    """The clone is destroyed without leftovers; with --keep a declared clone stays."""
    if not trial.made:
        pytest.skip("there is no clone")
    trial.end()
    assert trial.clone.exists == trial.keeps
