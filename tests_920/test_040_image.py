"""Image: the vLLM image is in 920, named by its digest, and it is known how to start it."""

import pytest

from fixtures.build import Build
from fixtures.gpu import gpus
from fixtures.machines.container import Container
from fixtures.settings import Settings
from fixtures.stages import SIMULATED, NotProved
from fixtures.templates import tidy
from fixtures.vllm.ahead import Ahead
from fixtures.vllm.image import Image

pytestmark = [pytest.mark.stage("image"), pytest.mark.order(40)]


def test_clone_is_measured(container: Container) -> None:
    """The contents of 920 before the image are noted, so that additions can be found later."""
    assert tidy.note(container) > 0


def test_image_is_pulled(ahead: Ahead, build: Build) -> None:
    """The vLLM image is pulled, and its digest is used from then on."""
    build.image = ahead.image()  # on its way since Docker was proved
    assert "@sha256:" in build.image.digest


def test_entrypoint_is_known(image: Image, settings: Settings) -> None:
    """The image's entrypoint is known to serve a model."""
    assert settings.test_model in image.serve_command(settings.test_model, [])


def test_torch_computes_on_gpu(build: Build, image: Image, container: Container, gpu: int, index: int) -> None:
    """PyTorch in the image computes a matrix product on this GPU that equals the CPU's."""
    if build.simulated:
        raise NotProved(SIMULATED)
    said = gpus.torch_computes(container, image, index, build.settings.boot_deadline)
    assert said.startswith("True"), f"GPU {gpu}: torch computes other numbers than the CPU: {said}"
