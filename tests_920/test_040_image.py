"""Image: the template has the vLLM image, by digest, and its entrypoint is known."""

from functools import partial

import pytest

from fixtures.base.errors import Simulated, Unseen, unexpected
from fixtures.base.settings import Settings
from fixtures.gpu import gpus
from fixtures.proxmox import docker
from fixtures.proxmox.container import Container
from fixtures.run.build import Build
from fixtures.run.stages import SIMULATED
from fixtures.serving import vllm
from fixtures.serving.image import Image
from fixtures.template import tidy
from fixtures.template.prefetch import Prefetch

pytestmark = [pytest.mark.stage("image"), pytest.mark.order(40)]


def test_clone_is_measured(container: Container) -> None:
    """The template's contents before the image pull are recorded, so later additions can be found."""
    size = tidy.note(container)
    assert size > 0, unexpected(
        f"container {container.ctid} uses {size} bytes", "more than 0", run=container.pasteable("df")
    )


def test_image_is_pulled(prefetch: Prefetch, build: Build) -> None:
    """The vLLM image is pulled, and its digest is used from then on."""
    build.image = prefetch.image()  # on its way since Docker was proved
    assert "@sha256:" in build.image.digest, unexpected(
        f"the image is named {build.image.digest!r}",
        "a name with @sha256:",
        cause="it was loaded or built locally, not pulled",
        run=build.template.container.pasteable("docker", "image", "ls", "--digests"),
    )


@pytest.mark.needs("test_image_is_pulled")
def test_entrypoint_is_known(image: Image, settings: Settings) -> None:
    """The image's entrypoint is known to serve a model."""
    words = vllm.serve_command(image, settings.test_model, [])
    assert settings.test_model in words, unexpected(
        f"the server is started with {words}",
        f"the model {settings.test_model}",
        run=f"docker image inspect {image.digest}",
    )


@pytest.mark.usefixtures("all_reduce_beside")
@pytest.mark.needs("test_image_is_pulled")
def test_torch_computes_on_gpu(build: Build, image: Image, container: Container, bytecode: list[str], gpu: int) -> None:
    """PyTorch in the image computes a matrix product on this GPU that equals the CPU's."""
    if build.simulated:
        raise Simulated(SIMULATED)
    index, deadline = build.index(gpu), build.settings.boot_deadline
    with docker.leaving_nothing(container):
        ask = partial(gpus.torch_computes, container, image.digest, words=bytecode, deadline=deadline)
        said = build.ask_gpu(index, "torch", ask)
    right, _, count, used = [*said.split(), "", "", "", ""][:4]
    assert right == "True", unexpected(
        f"torch and the CPU compute different results: {said}",
        "True",
        cause="a faulty card, or an image that is not built for it",
        run=f"nvidia-smi -q -i {gpus.selector(build.gpus, gpu)} -d ECC",
    )
    given = gpus.at(build.gpus, index)
    assert count == "1", unexpected(f"torch finds {count} GPUs: {said}", f"only {given}", run="nvidia-smi -L")
    if used == "?":  # torch before 2.5
        raise Unseen(f"unknown: which GPU torch used, as it reports no UUID; it was given {given}")
    assert given.uuid.endswith(used[-12:]), unexpected(
        f"torch used the GPU of UUID {used}", str(given), run="nvidia-smi -L"
    )
