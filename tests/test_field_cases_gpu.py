"""GPUs of public reports, fed to the checks of the suite themselves."""

from __future__ import annotations

import re
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.base.errors import Unseen
from fixtures.gpu import gpus, node_gpus
from fixtures.gpu.node_gpus import NodeGpus
from fixtures.serving.registry import Published

HERE = Path(__file__).parent
CASES = HERE / "data/cases"
STACK = "test_030_inherited_stack"
TEMPLATE: Any = SimpleNamespace(ctid=920, declared=SimpleNamespace(gpus=(0,), tensor_parallel=1))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What checks warn of."""
    texts: list[str] = []
    monkeypatch.setattr("fixtures.base.warning.warn", texts.append)
    monkeypatch.setattr("fixtures.session.core_fixtures.warn", texts.append, raising=False)
    monkeypatch.setattr("fixtures.gpu.gpus.warn", texts.append)
    return texts


def check(name: str, module: str = "test_014_gpus_and_model") -> Any:
    """A check of the suite."""
    return runpy.run_path(str(HERE.parent / f"tests_920/{module}.py"))[name]


def container(log: str, status: int = 0) -> Any:
    """A container in which nvidia-smi says this."""
    named = log if "<uuid>" in log else log.replace("</product_name>", "</product_name><uuid>GPU-0</uuid>")
    done = SimpleNamespace(out=named, err="", exit_status=status)  # public reports come without a UUID
    return SimpleNamespace(ctid=920, execute=lambda *_, **__: done, pasteable=lambda *words: " ".join(words))


def inside(log: str, status: int = 0) -> Any:
    """The checks of the container that ask nvidia-smi: listed, healthy, with room for a server."""
    asked, settings = container(log, status), SimpleNamespace(command_deadline=1, gpu_share=0.9)
    build: Any = SimpleNamespace(gpus=[], node_gpus={}, health={}, missing=set(), settings=settings)
    build.card = lambda gpu: gpus.named(build.gpus, gpu, gpu)
    check("test_gpus_are_listed", STACK)(asked, SimpleNamespace(gpus=(0,)), build)
    check("test_gpu_is_healthy", STACK)(asked, build, 0, 0)
    check("test_gpu_has_room", STACK)(asked, build, settings, 0, 0)
    return build


def node(driver: str, cuda: str, name: str, brand: str, memory: str) -> NodeGpus:
    card = (
        f'<gpu id="00000000:0B:00.0"><product_name>{name}</product_name><product_brand>{brand}</product_brand>'
        f"<uuid>GPU-0</uuid><minor_number>0</minor_number>"
        f"<fb_memory_usage><total>{memory}</total><free>{memory}</free></fb_memory_usage></gpu>"
    )
    return node_gpus.parse(f"<nvidia_smi_log><driver_version>{driver}</driver_version>{cuda}{card}</nvidia_smi_log>")


def env(case: str) -> Published:
    return Published(env=tuple((CASES / case / "image_env.txt").read_text().splitlines()))


def test_case_01_umd_header(said: list[str]) -> None:
    gpus = node("610.43.02", "<cuda_umd_version>13.3</cuda_umd_version>", "NVIDIA GeForce RTX 5090", "GeForce", "1 MiB")
    check("test_driver_serves_the_image")(TEMPLATE, env("01-umd-header"), gpus)
    assert said == []


def test_driver_that_names_only_its_two_parts(said: list[str]) -> None:
    """Driver 615 announces that driver_version and cuda_version go (NVIDIA/k8s-test-infra, qx-vrnvl72.xml)."""
    gpus = node("", "<cuda_umd_version>13.4</cuda_umd_version>", "NVIDIA Graphics Device", "NVIDIA", "1 MiB")
    assert gpus.gpus[0].driver == ""
    parts = "<kmd_version>570.211.01</kmd_version><cuda_umd_version>12.8</cuda_umd_version>"
    card = "<gpu><product_brand>NVIDIA Cloud Gaming</product_brand><minor_number>0</minor_number></gpu>"
    found = node_gpus.parse(f"<nvidia_smi_log>{parts}{card}</nvidia_smi_log>")
    check("test_driver_serves_the_image")(TEMPLATE, env("03-t4-brand"), found)
    assert "compatibility library (brand=cloudgaming,driver>=570,driver<571)" in said[0]


def test_card_of_an_unknown_brand_is_not_refused() -> None:
    gpus = node("550.163.01", "<cuda_version>12.4</cuda_version>", "NVIDIA L4", "N/A", "1 MiB")
    with pytest.raises(Unseen, match="unknown: whether the node has"):
        check("test_driver_serves_the_image")(TEMPLATE, env("03-t4-brand"), gpus)


def test_case_02_cuda_na_header(said: list[str]) -> None:
    gpus = node("575.64.03", "<cuda_version>N/A</cuda_version>", "NVIDIA GeForce RTX 5070", "GeForce", "1 MiB")
    with pytest.raises(Unseen, match="unknown: whether the node has"):
        check("test_driver_serves_the_image")(TEMPLATE, env("02-cuda-na-header"), gpus)


@pytest.mark.parametrize(
    "brand", ["Tesla", "NVIDIA", "NVIDIA RTX", "Quadro RTX", "NVIDIA RTX Virtual Workstation", "NVIDIA Virtual PC"]
)
def test_case_03_t4_brand(said: list[str], brand: str) -> None:
    gpus = node("550.163.01", "<cuda_version>12.4</cuda_version>", "Tesla T4", brand, "15360 MiB")
    check("test_driver_serves_the_image")(TEMPLATE, env("03-t4-brand"), gpus)
    assert "compatibility library" in said[0]


def test_case_03_geforce_with_the_same_driver_is_refused() -> None:
    gpus = node("550.163.01", "<cuda_version>12.4</cuda_version>", "GeForce RTX 2080", "GeForce", "8192 MiB")
    with pytest.raises(AssertionError, match=r"cuda>=12\.9"):
        check("test_driver_serves_the_image")(TEMPLATE, env("03-t4-brand"), gpus)


@pytest.mark.parametrize(
    ("driver", "name", "image", "said"),
    [
        (
            "390.157",
            "GeForce 410M",
            "03-t4-brand",
            "driver 390.157 serves CUDA 9.1; expected branch 525 or newer.*Fermi",
        ),
        ("340.108", "GeForce 210", "", "driver 340.108 serves CUDA 6.5; expected branch 525 or newer.*Fermi"),
        (
            "470.256.02",
            "GeForce GT 710",
            "03-t4-brand",
            "needs cuda>=12.9, .* CUDA 11.4, with .*Kepler cards 470",
        ),
    ],
)
def test_legacy_driver_serves_no_image(driver: str, name: str, image: str, said: str) -> None:
    """It says nothing of CUDA, and that was taken for unknown; the advice was a driver that the card can't have."""
    gpus = node(driver, "", name, "GeForce", "1024 MiB")
    with pytest.raises(AssertionError, match=said):
        check("test_driver_serves_the_image")(TEMPLATE, env(image) if image else Published(), gpus)


@pytest.mark.parametrize("driver", ["390.157", "470.256.02"])
def test_libraries_of_a_legacy_driver_are_not_advised(driver: str) -> None:
    gpus = node(driver, "", "GeForce", "GeForce", "1024 MiB")
    disk: Any = SimpleNamespace(sizes=lambda _: {"libnvidia-ml.so.580.159.04": 1})
    with pytest.raises(AssertionError) as caught:
        check("test_driver_is_the_same_inside")(TEMPLATE, gpus, disk)
    assert "expected branch 525 or newer" in str(caught.value)
    assert not re.search("in the parent|NVIDIA libraries of version", str(caught.value))


def test_case_03_card_that_is_not_assigned_does_not_count(said: list[str]) -> None:
    geforce = node("550.163.01", "<cuda_version>12.4</cuda_version>", "GeForce RTX 2080", "GeForce", "8192 MiB")
    tesla = node("550.163.01", "<cuda_version>12.4</cuda_version>", "Tesla T4", "Tesla", "15360 MiB")
    both = replace(geforce, gpus={**geforce.gpus, 1: tesla.gpus[0]})
    template: Any = SimpleNamespace(declared=SimpleNamespace(gpus=(1,)))
    check("test_driver_serves_the_image")(template, env("03-t4-brand"), both)
    assert "Tesla T4" in said[0]
    assert len(said) == 1


def test_case_04_gb10_memory_na(said: list[str]) -> None:
    gpus = node("580.126.09", "<cuda_version>13.0</cuda_version>", "NVIDIA GB10", "NVIDIA", "N/A")
    settings: Any = SimpleNamespace(gpu_share=0.9)
    with pytest.raises(Unseen, match="unknown: the memory"):
        check("test_gpu_memory_is_free")(TEMPLATE, gpus, settings)
    with pytest.raises(Unseen, match="unknown: the memory"):
        check("test_model_fits_the_gpus")(TEMPLATE, SimpleNamespace(weights=257 * 2**20), gpus, settings)


def test_case_05_inforom_14(said: list[str]) -> None:
    line = (CASES / "05-inforom-14/stdout.txt").read_text().splitlines()[1]
    status = int((CASES / "05-inforom-14/exit_status.txt").read_text())
    log = "<nvidia_smi_log><gpu id='00000000:0B:00.0'><minor_number>0</minor_number></gpu></nvidia_smi_log>"
    template: Any = SimpleNamespace(declared=SimpleNamespace(gpus=(0,)))
    with pytest.raises(Unseen, match="unknown: the health of GPU 0"):  # of which this report says nothing
        check("test_gpus_are_on_the_node")(template, node_gpus.parse(f"{log}\n{line}\n", status))
    assert [line, True] == [said[0], "InfoROM" in said[1]]


def test_case_04_gb10_in_the_container(said: list[str]) -> None:
    with pytest.raises(Unseen, match=r"unknown: the memory of GPU 0 .*NVIDIA GB10"):
        inside((HERE / "data/cards/gb10.xml").read_text())
    assert said == []


def test_case_05_inforom_14_in_the_container(said: list[str]) -> None:
    line = (CASES / "05-inforom-14/stdout.txt").read_text().splitlines()[1]
    status = int((CASES / "05-inforom-14/exit_status.txt").read_text())
    build = inside(f"{(HERE / 'data/cards/tesla-t4.xml').read_text()}{line}\n", status)
    assert [gpu.name for gpu in build.gpus] == ["Tesla T4"]
    assert said[0] == line
    assert "exited with 14 after a complete report: the InfoROM" in said[1]
