"""Serving: a test server, started like those of clones, serves the model on each GPU."""

import pytest

from fixtures.base.errors import Simulated, Unseen, unexpected
from fixtures.base.settings import Settings
from fixtures.gpu import gpus, health
from fixtures.proxmox import docker
from fixtures.proxmox.container import Container
from fixtures.run import answers
from fixtures.run.build import Build
from fixtures.run.stages import SIMULATED
from fixtures.serving import agreement, fingerprint, image_change, performance
from fixtures.serving.client import ServerError
from fixtures.serving.image import Image
from fixtures.serving.reference import Reference
from fixtures.serving.server import Server
from fixtures.serving.server_group import ServerGroup
from fixtures.template.template import Template

READY = pytest.mark.needs("test_server_gets_ready[gpu]")
ANSWERS = pytest.mark.needs_answer("test_server_answers[gpu]")
pytestmark = [pytest.mark.stage("serving"), pytest.mark.order(50), pytest.mark.deep]


class TestServer:
    """The first server has all GPUs and proves GPU 0; each further GPU has one that sees it alone.

    They start together where memory allows it; all else is asked of one server at a time.
    """

    def test_server_gets_ready(self, server: Server, servers: ServerGroup, image: Image, template: Template) -> None:
        """The server becomes ready: healthy, model listed, one chat completed."""
        seconds = servers.get_ready(server, image, template.declared.tensor_parallel)
        assert seconds > 0, unexpected(f"the server answered after {seconds} s", "more than 0 s", run=server.pasteable)

    @READY
    def test_server_lists_the_model(self, ready_server: Server, settings: Settings) -> None:
        """The server lists the requested model and no other."""
        found = ready_server.client.models()
        assert found == [settings.test_model], unexpected(
            f"the server lists {found}", f"only {settings.test_model}", run=ready_server.pasteable
        )

    @READY
    def test_server_answers(self, ready_server: Server, settings: Settings) -> None:
        """The server answers a chat with the expected word."""
        answer = ready_server.chat(settings.test_prompt)
        if (answer.status, answer.model) != (200, settings.test_model) or answer.tokens < 1:
            seen = f"asked {answer.question!r}: status {answer.status}, {answer.tokens} tokens of {answer.model!r}"
            expected = f"status 200, tokens of {settings.test_model!r}"
            raise ServerError(unexpected(seen, expected, run=ready_server.pasteable))  # no answer, so none is judged
        problem = answer.lacks(settings.expected_word)
        assert not problem, unexpected(
            problem, f"the word {settings.expected_word!r} in the answer", run=ready_server.pasteable
        )

    @READY
    @ANSWERS
    def test_server_sees_its_gpus(self, ready_server: Server, build: Build) -> None:
        """The server's container lists exactly the GPUs that it was given."""
        wanted = ready_server.gpus.removeprefix("device=")
        given = [gpu.uuid for gpu in build.gpus if wanted in ("all", str(gpu.index))]
        seen = gpus.uuids(ready_server.devices())
        ask = build.template.container.pasteable("nvidia-smi", "-L")
        assert given, unexpected(
            f"{ready_server.gpus} is unknown: nvidia-smi listed {build.gpus} before", "its UUID", run=ask
        )
        assert sorted(seen) == sorted(given), unexpected(
            f"the server was given {given} and sees {seen}",
            "the same GPUs",
            cause="the NVIDIA runtime ignores --gpus: check mode and NVIDIA_VISIBLE_DEVICES in its config.toml"
            if {*seen} - {*given}
            else "its container did not get all of them, or has lost one",
            run=build.template.container.pasteable("cat", "/etc/nvidia-container-runtime/config.toml"),
        )

    @READY
    @ANSWERS
    def test_server_is_measured(self, ready_server: Server, build: Build) -> None:
        """The server's speed is measured: time to first token, one request, and many at once."""
        figures = ready_server.record.figures = performance.measure(
            ready_server, performance.effort_for(build.simulated)
        )
        idle = [figure.name for figure in figures if not figure.value > 0]
        assert not idle, unexpected(f"{', '.join(idle)}: 0", "more", run=ready_server.pasteable)

    @READY
    @ANSWERS
    def test_gpu_is_healthy_under_load(
        self, ready_server: Server, container: Container, build: Build, gpu: int, index: int
    ) -> None:
        """This GPU is healthy under load: memory errors, clocks, temperature, PCIe link."""
        with performance.load(ready_server, performance.effort_for(build.simulated)):
            values = gpus.state(container, index, build.gpus).values
        build.health[f"GPU {gpu} under load"] = values
        failures, notes = health.judge(values, loaded=not build.simulated)
        assert not failures, unexpected(
            "; ".join(failures), "a healthy GPU", run=f"nvidia-smi -q -i {gpus.selector(build.gpus, gpu)}"
        )
        health.report(build.card(gpu), notes)

    @READY
    @pytest.mark.needs("test_server_is_measured[gpu]")
    def test_server_is_fast_enough(
        self, ready_server: Server, image: Image, build: Build, gpu: int, index: int
    ) -> None:
        """The server is as fast as the reference of this GPU and image; without a reference, speed is not judged."""
        if build.simulated:
            raise Simulated(SIMULATED)
        reference = Reference(build.settings, gpus.at(build.gpus, index), image)
        slow = performance.compare(ready_server, reference, build.card(gpu), add=build.write_reference)
        assert not slow, unexpected(
            "; ".join(slow),
            "figures within the reference's bounds",
            cause=health.clocks(build.health.get(f"GPU {gpu} under load", {})),
            run=f"nvidia-smi -q -i {gpus.selector(build.gpus, gpu)} -d PERFORMANCE,CLOCK",
        )

    @READY
    @ANSWERS
    def test_server_scores_its_answers(self, ready_server: Server, settings: Settings) -> None:
        """The server gives the probability of every token, and predicts plain English well."""
        if not settings.fingerprint:
            raise Unseen("unknown: whether answers agree: the fingerprint is off (-o fingerprint=on)")
        found = ready_server.record.fingerprint = fingerprint.take(ready_server, settings.answer_deadline)
        assert not found.wrong, unexpected(
            found.wrong,
            "finite log probabilities of a model that knows English",
            cause="damaged weights, a wrong tokenizer, or a faulty kernel",
            run=ready_server.pasteable,
        )
        if found.refused:
            raise Unseen(f"unknown: whether the answers are right: {found.refused}")

    @READY
    @pytest.mark.needs("test_server_answers[gpu]", "test_server_scores_its_answers[gpu]")  # wrong ones never agree
    def test_answers_agree(self, ready_server: Server, image: Image, build: Build, gpu: int, index: int) -> None:
        """The answers agree, token by token, with the reference and with every server of the same model."""
        if not (taken := ready_server.record.fingerprint) or taken.refused:
            raise Unseen("unknown: whether answers agree: the server gave no probabilities")
        found = answers.compare(build, ready_server, image, index)
        apart = [str(each) for each in found if each.contradicts]
        assert not apart, unexpected(
            f"its answers {'; '.join(apart)}",
            "the same answers",
            cause="different weights, tokenizer, chat template or kernels, or a faulty GPU",
            run=ready_server.pasteable,
        )
        agreement.report(build.card(gpu), found)


def test_image_change_is_within_its_limit(image: Image, build: Build, settings: Settings) -> None:
    """A new image is compared with the old one; nothing is worse by more than `image_change_limit`."""
    build.image_change = answers.image_changes(build, image)
    worse = image_change.beyond(build.image_change, settings.image_change_limit)
    assert not worse, unexpected(
        f"with the image {image.digest}: {'; '.join(worse)}",
        f"at most {settings.image_change_limit:g} % worse than the image that it replaces",
        cause="another release of vLLM; the report compares both images",
        run=build.again("-o", f"vllm_image={build.image_change[0].was}"),
    )


def test_no_server_is_left(container: Container) -> None:
    """The test servers were stopped and removed."""
    left = docker.own(container)
    assert left == [], unexpected(
        f"Docker still holds {left}", "no test server", run=container.pasteable("docker", "rm", "--force", *left)
    )


def test_port_is_free_again(container: Container, settings: Settings) -> None:
    """Nothing listens on the test server's port."""
    holders = container.listeners(settings.server_port)
    assert not holders, unexpected(
        f"port {settings.server_port} is still in use: {holders}",
        "a free port",
        run=container.pasteable("ss", "-ltnp", f"sport = :{settings.server_port}"),
    )
