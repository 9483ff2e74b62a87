"""Clone acceptance: a clone of the snapshot boots, has its own identity, and serves.

The clone is a throw-away one with its own number, name and address, and is destroyed at the end. With
`--accept` it is a declared container; one that existed before is not changed.
"""

import pytest

from fixtures.base.errors import Inconclusive, Unseen, unexpected
from fixtures.base.settings import Settings
from fixtures.base.warning import warn
from fixtures.gpu import gpus
from fixtures.proxmox import docker
from fixtures.run.clone_acceptance import CloneAcceptance
from fixtures.serving import agreement, fingerprint
from fixtures.serving.served_model import log_file
from fixtures.serving.server import Server
from fixtures.template import guest, identity
from fixtures.template.clone import Clone

BOOTED = pytest.mark.needs_answer("test_clone_boots_beside_its_template")
MADE = pytest.mark.needs_answer("test_clone_is_made")
LOADING = pytest.mark.usefixtures("loading")  # the server of test_clone_serves loads meanwhile
COMPARED = pytest.mark.needs_answer("test_clone_is_what_was_sealed")
pytestmark = [pytest.mark.stage("clone acceptance"), pytest.mark.order(80), pytest.mark.deep]


def test_clone_can_work(acceptance: CloneAcceptance) -> None:
    """Nothing known before copying prevents the clone from working as declared."""
    refused, ctid = "; ".join(acceptance.refusals), acceptance.clone.ctid
    assert not refused, unexpected(
        f"{ctid} {acceptance.clone.declared.name} is refused: {refused}",
        "a clone that can run on this node as declared",
        run="pct list; pvesm status",
    )


@pytest.mark.needs("test_clone_can_work")
def test_clone_is_made(acceptance: CloneAcceptance) -> None:
    """The clone has its own number, name, address and MAC, set before its first start."""
    if acceptance.refusals:
        raise acceptance.build.ledger.blocked_by("test_clone_can_work")
    acceptance.make()
    differences = acceptance.differences()
    assert not differences, unexpected(
        f"clone {acceptance.clone.ctid} differs from its declaration: {differences}",
        "no difference",
        run=f"pct config {acceptance.clone.ctid}",
    )


@MADE
def test_clone_boots_beside_its_template(acceptance: CloneAcceptance) -> None:
    """The clone boots beside its template, and no systemd unit has failed."""
    if not acceptance.made:
        raise acceptance.build.ledger.blocked_by("test_clone_is_made")
    state, inside = acceptance.start(), acceptance.clone.container
    assert state == "running", unexpected(
        f"systemd in clone {acceptance.clone.ctid} is {state}; failed: {inside.failed_units()}",
        "running",
        run=inside.pasteable("systemctl", "--failed"),
    )


@MADE
@BOOTED
def test_docker_works_in_the_clone(acceptance: CloneAcceptance, clone: Clone) -> None:
    """Docker runs a container in the clone, and a new clone holds none."""
    docker.remove_own(clone.container)  # of a run that was killed
    said = docker.run_probe(clone.container)
    assert said == "the probe ran", unexpected(
        f"a Docker container in clone {clone.ctid} printed {said!r}",
        "'the probe ran'",
        run=clone.container.pasteable("journalctl", "-u", "docker", "-n", "20"),
    )
    brought = [] if acceptance.was_there else docker.foreign(clone.container)
    left = docker.own(clone.container) + brought
    assert not left, unexpected(
        f"Docker in clone {clone.ctid} holds {left}",
        "no container",
        cause="the snapshot contains one, or the probe was not removed",
        run=clone.container.pasteable("docker", "ps", "--all"),
    )


@MADE
@BOOTED
def test_clone_sees_every_gpu(acceptance: CloneAcceptance, clone: Clone) -> None:
    """nvidia-smi in the clone lists the GPUs that are assigned to it."""
    listed = gpus.listed(clone.container)
    seen = {(gpu.minor, gpu.uuid) for gpu in listed}
    # a run that did not list them knows their number only
    given = {(gpu.minor, gpu.uuid) for gpu in acceptance.build.gpus} or seen
    assigned, names = clone.declared.gpus, ", ".join(map(str, listed)) or "none"
    said = f"GPUs {assigned} are assigned, but {names} are listed in clone {clone.ctid}"
    if len(listed) > len(assigned):
        said = f"in clone {clone.ctid} more GPUs are listed than the assigned {assigned}: {names}"
    elif len(listed) == len(assigned):
        said = f"in clone {clone.ctid} other GPUs are listed than in the template: {names}"
    assert (len(listed), seen) == (len(assigned), given), unexpected(
        said,
        f"{len(assigned)} GPUs: {', '.join(map(str, acceptance.build.gpus))}",
        cause=f"difference to the template: {acceptance.lost_gpus or 'none'}",
        run=clone.container.pasteable("nvidia-smi", "-L"),
    )


@MADE
@BOOTED
@pytest.mark.needs("test_clone_sees_every_gpu")
def test_cuda_works_in_the_clone(acceptance: CloneAcceptance, clone: Clone, settings: Settings, gpu: int) -> None:
    """In the clone, CUDA initialises on this GPU and copies data there and back."""
    memory = settings.gpu_memory_mb
    listed = gpus.listed(clone.container)
    index = gpus.index_of(listed, gpu, clone.declared.gpus)
    if acceptance.was_there:
        memory = memory or guest.CUDA_MIB  # never all that its owner's programs may be about to take
        if full := guest.no_room(clone, index, mib=memory + guest.CUDA_MIB):
            raise Inconclusive(full)
    result = gpus.probe_cuda(clone.container, index, memory)
    fault = result.fault(gpus.at(listed, index).uuid)
    if not fault and result.product not in ("right", "not supported"):
        fault = f"the matrix product is {result.product!r}", "the CPU's numbers"
    assert not fault, unexpected(
        f"in clone {clone.ctid}: {fault[0]}", fault[1], run=clone.container.pasteable("nvidia-smi")
    )


@LOADING
@MADE
@BOOTED
def test_clone_has_an_identity_of_its_own(acceptance: CloneAcceptance, clone: Clone) -> None:
    """The clone has regenerated its identity: ids, keys, name and addresses differ from the template's."""
    template, found = acceptance.identities()
    name, ask = f"clone {clone.ctid}", clone.container.pasteable("cat", "/etc/machine-id")
    shared = identity.shared(template, found)
    assert not shared, unexpected(
        f"{name} shares {', '.join(shared)} with its template",
        "its own",
        cause=f"{identity.UNIT} did not run when the template was sealed",
        run=clone.container.pasteable("systemctl", "status", identity.UNIT),
    )
    missing = identity.missing(found, ssh=clone.container.exists("sshd"))
    assert not missing, unexpected(
        f"{name} has no {', '.join(missing)}", "its own, generated at its first boot", run=ask
    )
    address = clone.declared.network.address
    assert f"{address}/" in found["addresses"], unexpected(
        f"{name} has the addresses {found['addresses']}", address, run=clone.container.pasteable("ip", "address")
    )
    if unknown := identity.missing(template, ssh=False):
        raise Unseen(f"unknown: {', '.join(unknown)} of the template, so they cannot be compared with the clone's")


@LOADING
@MADE
@BOOTED
def test_clone_is_what_was_sealed(acceptance: CloneAcceptance, clone: Clone) -> None:
    """Image, model, packages, files and software in a new clone match the sealed template."""
    drifts = "; ".join(str(drift) for drift in acceptance.comparison.in_template)
    if acceptance.is_of_earlier_generation:
        warn(f"{clone.ctid} was cloned from an earlier generation of the template")
    if acceptance.was_there and drifts:
        warn(f"{clone.ctid} has changed since it was cloned: {drifts}")
    else:
        assert not drifts, unexpected(
            f"clone {clone.ctid} differs from the template that was sealed: {drifts}",
            "no difference",
            cause="something changes it at its first boot",
            run=clone.container.pasteable("/etc/phoenix/verify"),
        )


@LOADING
@MADE
@BOOTED
@COMPARED
def test_clone_knows_what_it_came_from(acceptance: CloneAcceptance, clone: Clone) -> None:
    """The clone carries the record, and /etc/phoenix/verify shows its origin."""
    said = acceptance.says.result()
    origin = f"came from {acceptance.build.template.subject}"
    manifest = f"manifest sha256:{acceptance.comparison.digest}"
    told = said.partition("\n")[0].split(", ")
    numbered = all(each.removeprefix("generation ").isdecimal() for each in told[1:-1])  # a record may name it
    assert (told[0], told[-1], numbered) == (origin, manifest, True), unexpected(
        f"/etc/phoenix/verify in clone {clone.ctid} prints {said!r}",
        f"{origin}, {manifest}",
        run=clone.container.pasteable("/etc/phoenix/verify"),
    )


@MADE
@BOOTED
@pytest.mark.usefixtures("clone")
def test_clone_serves(acceptance: CloneAcceptance, clone_server: Server, settings: Settings) -> None:
    """The clone serves its model from the sealed image and gives the expected answer."""
    acceptance.ready.result()
    answer = clone_server.chat(settings.test_prompt)
    show = f"zless {settings.report_folder}/latest/{log_file('clone')}"
    assert (answer.status, answer.model) == (200, clone_server.model), unexpected(
        f"asked {answer.question!r}: status {answer.status} of {answer.model!r}",
        f"status 200 of {clone_server.model!r}",
        run=show,
    )
    problem = answer.lacks(settings.expected_word)
    assert not problem, unexpected(problem, f"the word {settings.expected_word!r} in the answer", run=show)
    if settings.fingerprint:
        clone_server.record.fingerprint = fingerprint.take(clone_server, settings.answer_deadline)
        acceptance.served = clone_server


@MADE
@BOOTED
@pytest.mark.needs("test_clone_serves")
def test_clone_answers_as_its_template(acceptance: CloneAcceptance, clone: Clone) -> None:
    """The answers of the clone's server agree, token by token, with those of its template."""
    found = acceptance.agreements()
    apart = [str(each) for each in found if each.contradicts]
    assert not apart, unexpected(
        f"the answers of clone {clone.ctid} {'; '.join(apart)}",
        "the same answers as its template",
        cause="something that the server depends on differs in the clone",
        run=f"zless {acceptance.build.settings.report_folder}/latest/{log_file('clone')}",
    )
    agreement.report(f"clone {clone.ctid}", found)


@MADE
def test_clone_is_destroyed(acceptance: CloneAcceptance) -> None:
    """The clone is destroyed without leftovers; with --keep a declared clone stays."""
    if not acceptance.made:
        raise acceptance.build.ledger.blocked_by("test_clone_is_made")
    acceptance.end()
    there = {True: "exists", False: "does not exist"}
    assert acceptance.clone.exists == acceptance.keeps, unexpected(
        f"clone {acceptance.clone.ctid} {there[acceptance.clone.exists]}",
        f"that it {there[acceptance.keeps]}",
        run="pct list",
    )
