"""The simulated GPU stack answers as the real tools do: compared with what they said on a machine with an H100."""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import json
import os
import re
import runpy
import shlex
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

from fixtures.diagnosis.failure_modes import diagnose
from lab.gpu import install

HERE = Path(__file__).parent
RECORDED = HERE / "data/nvidia-h100"
CHECKOUT = HERE.parent
NAME = "SIMULATED NVIDIA GPU"
UUIDS = [f"GPU-SIMULATED-0000-0000-0000-00000000000{number}" for number in range(2)]


class Machine:
    """A folder that stands for a machine with two GPUs: plain files are its device nodes."""

    def __init__(self, root: Path, built: Path) -> None:
        self.root, self.built = root, built

    def reset(self) -> None:
        for name in ("dev", "etc", "usr"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        libraries = self.root / "usr/lib/x86_64-linux-gnu"
        for folder in (self.root / "dev", self.root / "etc", libraries):
            folder.mkdir(parents=True)
        for name, _, _ in install.device_nodes():
            (self.root / "dev" / name).touch()
        for name in ("libcuda", "libnvidia-ml"):
            shutil.copyfile(self.built / f"{name}.so.580.76.05", libraries / f"{name}.so.1")

    def remove(self, *names: str) -> None:
        for name in names:
            (self.root / "dev" / name).unlink()

    def settings(self, text: str) -> None:
        (self.root / "etc/simulated-gpu.conf").write_text(text)

    @property
    def libraries(self) -> Path:
        return self.root / "usr/lib/x86_64-linux-gnu"

    def smi(self, *words: str) -> tuple[int, str]:
        run = subprocess.run(
            [self.built / "nvidia-smi", *words], capture_output=True, text=True, check=False, timeout=20
        )
        assert not run.stderr
        return run.returncode, run.stdout

    def query(self, fields: str, *words: str) -> list[str]:
        status, text = self.smi(f"--query-gpu={fields}", "--format=csv,noheader,nounits", *words)
        assert status == 0, text
        return text.splitlines()

    def python(self, code: str, **environment: str) -> Any:
        """What a Python program prints as JSON, run where libcuda is found."""
        variables = {"LD_LIBRARY_PATH": str(self.libraries), "PATH": os.environ["PATH"], **environment}
        run = subprocess.run(
            [sys.executable, "-c", CUDA + code], env=variables, capture_output=True, text=True, check=False, timeout=20
        )
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    root = tmp_path_factory.mktemp("machine")
    folder = root / "built"
    folder.mkdir()
    install.compile_to(folder, root=str(root))
    return Machine(root, folder)


@pytest.fixture
def machine(built: Machine) -> Machine:
    built.reset()
    return built


def recorded(name: str) -> tuple[list[str], str, int]:
    """A recorded command's words, what it printed, and its exit status."""
    text = (RECORDED / name).read_text()
    command, text = text.split("\n", 1)
    printed, _, end = text.rpartition("[exit ")
    return shlex.split(command.removeprefix("$ "))[1:], printed, int(end.rstrip("]\n"))


# ---- nvidia-smi: formats ----


@pytest.mark.parametrize("name", ["nvidia-smi-L.txt", "bad-field.txt", "no-such-gpu.txt", "query-compute-apps.csv"])
def test_same_words_as_recorded(machine: Machine, name: str) -> None:
    machine.remove("nvidia1")
    words, printed, status = recorded(name)
    printed = printed.replace("NVIDIA H100 80GB HBM3", NAME).replace(
        "GPU-00000000-1111-2222-3333-444444444444", UUIDS[0]
    )
    assert machine.smi(*words) == (status, printed)


def columns(line: str) -> list[int]:
    return [place for place, letter in enumerate(line) if letter in "|+"]


def test_table_has_the_recorded_layout(machine: Machine) -> None:
    machine.remove("nvidia1")
    _, printed, _ = recorded("nvidia-smi.txt")
    status, seen = machine.smi()
    assert status == 0
    assert len(seen.splitlines()) == len(printed.splitlines())
    for ours, real in zip(seen.splitlines()[1:], printed.splitlines()[1:], strict=True):
        assert (len(ours), columns(ours)) == (len(real), columns(real)), ours
        if not re.search(r"\d", real):
            assert ours == real or "N/A" in ours
    assert re.fullmatch(r"\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4} {7}", seen.splitlines()[0])
    assert f"|   0  {NAME}           On  |   00000000:01:00.0 Off |                  N/A |" in seen


def test_table_lists_processes_and_shortens_names(machine: Machine) -> None:
    machine.settings("gpu1.process = 4242, VLLM::EngineCore, 15000\ngpu0.name = A SIMULATED GPU with a long name\n")
    _, seen = machine.smi()
    line = "|    1   N/A  N/A            4242      C   VLLM::EngineCore                      15000MiB |"
    assert line in seen.splitlines()
    assert "|   0  A SIMULATED GPU with a l...    On  |" in seen
    assert {len(line) for line in seen.splitlines()[1:] if line} == {91}


@pytest.mark.parametrize(
    "name",
    ["query-gpu.csv", "query-gpu-nounits.csv", "under-load-query-gpu.csv", "under-load-compute-apps.csv"],
)
def test_queries_have_the_recorded_shape(machine: Machine, name: str) -> None:
    machine.remove("nvidia1")
    machine.settings("gpu0.process = 619, python3, 1002\n")
    words, printed, status = recorded(name)
    assert machine.smi(*words)[0] == status
    ours, real = machine.smi(*words)[1].splitlines(), printed.replace("NVIDIA H100 80GB HBM3", NAME).splitlines()
    assert len(ours) == len(real)
    if "noheader" not in words[-1]:
        assert ours[0] == real[0]
    for seen, meant in zip(ours[-1].split(", "), real[-1].split(", "), strict=True):
        assert seen.rpartition(" ")[2].isalpha() == meant.rpartition(" ")[2].isalpha() or seen == "[N/A]"


def test_text_report_has_the_recorded_lines(machine: Machine) -> None:
    machine.remove("nvidia1")
    _, printed, _ = recorded("nvidia-smi-q.txt")
    status, seen = machine.smi("-q")
    assert status == 0

    def labels(text: str) -> list[str]:
        return [
            line.split(" : ")[0].rstrip() + ("" if " : " not in line else f"@{line.index(' : ')}")
            for line in text.splitlines()
            if not line.startswith("GPU 0000")
        ]

    assert labels(seen) == labels(printed)
    assert f"    Product Name                                       : {NAME}\n" in seen
    assert "    Processes                                          : None\n" in seen


def test_xml_report_has_the_recorded_elements(machine: Machine) -> None:
    status, seen = machine.smi("-q", "-x")
    assert status == 0

    def shape(gpu: ElementTree.Element) -> list[str]:
        for clocks in gpu.iter("supported_mem_clock"):
            clocks.clear()
        return [element.tag for element in gpu.iter()]

    ours = ElementTree.fromstring(seen).findall("gpu")
    real = ElementTree.fromstring((RECORDED / "nvidia-smi-q.xml").read_text()).find("gpu")
    assert real is not None
    wanted = shape(real)
    wanted.remove("supported_mem_clock")  # the H100 has two
    assert [gpu.findtext("uuid") for gpu in ours] == UUIDS
    assert [shape(gpu) for gpu in ours] == [wanted, wanted]
    assert ours[1].findtext("pci/pci_bus") == "02"
    assert seen.splitlines()[:3] == (RECORDED / "nvidia-smi-q.xml").read_text().splitlines()[:3]


def test_topology_has_the_recorded_layout(machine: Machine) -> None:
    _, printed, _ = recorded("topo-m.txt")
    machine.remove("nvidia1")
    status, seen = machine.smi("topo", "-m")
    assert status == 0
    ours, real = seen.splitlines(), printed.splitlines()
    assert (ours[0], ours[2:]) == (real[0], real[2:])
    assert re.sub(r"\d+(-\d+)?\t", "N\t", ours[1]) == re.sub(r"\d+(-\d+)?\t", "N\t", real[1])


def test_every_field_can_be_queried(machine: Machine) -> None:
    fields = re.findall(
        r'^    \{"([a-z_.]+)", (?:"([a-z_.]+)"|NULL)', (install.HERE / "gpus.c").read_text(), re.MULTILINE
    )
    names = [name for pair in fields for name in pair if (name and "." in name) or name in ("index", "uuid", "name")]
    assert len(names) > 50
    for line in machine.query(",".join(names)):
        assert all(value.strip() for value in line.split(","))


# ---- nvidia-smi: choosing, settings, faults ----


@pytest.mark.parametrize("word", ["1", UUIDS[1], "00000000:02:00.0", "7,1"])
def test_one_gpu_is_chosen(machine: Machine, word: str) -> None:
    assert machine.query("index,uuid", "-i", word) == [f"1, {UUIDS[1]}"]
    assert machine.smi("-L", f"--id={word}") == (0, f"GPU 1: {NAME} (UUID: {UUIDS[1]})\n")


def test_a_gpu_keeps_its_uuid_where_it_is_alone(machine: Machine) -> None:
    machine.remove("nvidia0")
    assert machine.query("index,uuid,pci.bus_id") == [f"0, {UUIDS[1]}, 00000000:02:00.0"]


def test_settings_change_what_is_shown(machine: Machine) -> None:
    machine.settings(
        "# a comment\n"
        "gpu1.temperature.gpu = 95\n"
        "gpu1.ecc.errors.uncorrected.volatile.total=3\n"
        "gpu1.clocks_throttle_reasons.active = 0x0000000000000048\n"
        "gpu1.process = 12, python3, 300\n"
        "gpu1.process = 13, other, 11\n"
        "gpu0.memory.used = 20000\n"
    )
    fields = (
        "temperature.gpu,ecc.errors.uncorrected.volatile.total,clocks_event_reasons.active,"
        "clocks_event_reasons.hw_thermal_slowdown,clocks_event_reasons.gpu_idle,memory.used,memory.free"
    )
    assert machine.query(fields) == [
        "34, [N/A], 0x0000000000000001, Not Active, Active, 20000, 0",
        "95, 3, 0x0000000000000048, Active, Not Active, 311, 15541",
    ]
    assert "HW Thermal Slowdown                        : Active" in machine.smi("-q", "-i", "1")[1]
    assert "    Name                                       : other\n" in machine.smi("-q", "-i", "1")[1]
    report = ElementTree.fromstring(machine.smi("-q", "-x")[1])
    assert [element.text for element in report.iter("used_memory")] == ["300 MiB", "11 MiB"]


def test_without_library(machine: Machine) -> None:
    (machine.libraries / "libnvidia-ml.so.1").unlink()
    _, printed, status = recorded("no-libnvml.txt")
    assert machine.smi() == (status, printed)


def test_without_control_node(machine: Machine) -> None:
    machine.remove("nvidiactl")
    status, seen = machine.smi("-L")
    assert status == 9
    assert seen.startswith("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")


def test_another_device_in_the_place_of_the_control_node(machine: Machine) -> None:
    machine.remove("nvidiactl")
    (machine.root / "dev/nvidiactl").mkdir()
    assert machine.smi("-L") == (17, "Failed to initialize NVML: GPU access blocked by the operating system\n")


def test_without_gpu_nodes(machine: Machine) -> None:
    machine.remove("nvidia0", "nvidia1")
    assert machine.smi() == (6, "No devices were found\n")
    assert machine.smi("--query-gpu=name", "--format=csv") == (6, "No devices were found\n")
    assert machine.smi("-L") == (0, "No devices found.\n")
    assert machine.smi("-L", "-i", "5") == (6, "No devices found.\n")


@pytest.mark.parametrize("words", ["--frobnicate", "frobnicate", "-i", "--query-gpu", "topo"])
def test_unknown_option(machine: Machine, words: str) -> None:
    line = f"ERROR: Option {words} is not recognized. Please run 'nvidia-smi -h' for help.\n\n"
    assert machine.smi(words) == (2, line)


@pytest.mark.parametrize("words", ["-x", "-L -q", "--query-gpu=name", "--format=csv", "--query-gpu=name --format=xml"])
def test_options_that_do_not_fit(machine: Machine, words: str) -> None:
    status, seen = machine.smi(*words.split())
    assert status == 2
    assert seen.startswith("Invalid combination of input arguments.")


def test_loop_prints_the_header_once(machine: Machine) -> None:
    words = [str(machine.built / "nvidia-smi"), "--query-gpu=index", "--format=csv", "-lms", "20", "-i", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert [process.stdout.readline() for _ in range(3)] == ["index\n", "0\n", "0\n"]
        process.kill()


def test_help_and_version_say_simulated(machine: Machine) -> None:
    assert "SIMULATED" in machine.smi("-h")[1]
    assert "SIMULATED" in machine.smi("--version")[1]


# ---- libcuda and libnvidia-ml ----

CUDA = """
import ctypes, json
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint64, c_void_p, create_string_buffer
cuda = ctypes.CDLL("libcuda.so.1")
number, pointer, context = c_int(), c_uint64(), c_void_p()
MIB = 2**20
def name(error):
    text = c_char_p()
    return text.value.decode() if cuda.cuGetErrorName(error, byref(text)) == 0 else ""
def opened(device=0):
    assert cuda.cuInit(0) == 0
    assert cuda.cuCtxCreate_v2(byref(context), 0, device) == 0
"""


def test_cuda_lists_devices(machine: Machine) -> None:
    seen = machine.python("""
buffer, uuid, total, answer = create_string_buffer(64), (ctypes.c_ubyte * 16)(), c_size_t(), []
cuda.cuInit(0), cuda.cuDeviceGetCount(byref(number))
for index in range(number.value):
    device = c_int()
    assert cuda.cuDeviceGet(byref(device), index) == 0
    assert cuda.cuDeviceGetName(buffer, 64, device) == 0
    assert cuda.cuDeviceGetUuid_v2(uuid, device) == 0
    assert cuda.cuDeviceTotalMem_v2(byref(total), device) == 0
    values = [c_int(), c_int()]
    for value, attribute in zip(values, (75, 76)):
        assert cuda.cuDeviceGetAttribute(byref(value), attribute, device) == 0
    answer.append([buffer.value.decode(), bytes(uuid).hex(), total.value // MIB, *(value.value for value in values)])
cuda.cuDriverGetVersion(byref(number))
print(json.dumps([number.value, answer]))
""")
    uuids = [(b"SIMULATED" + bytes(6) + bytes([minor])).hex() for minor in range(2)]
    assert seen == [13000, [[NAME, uuid, 15852, 12, 0] for uuid in uuids]]


@pytest.mark.parametrize(
    ("removed", "error"),
    [
        ([], [0, "CUDA_SUCCESS"]),
        (["nvidia-uvm"], [999, "CUDA_ERROR_UNKNOWN"]),
        (["nvidia-uvm-tools"], [0, "CUDA_SUCCESS"]),
        (["nvidia0", "nvidia1"], [100, "CUDA_ERROR_NO_DEVICE"]),
        (["nvidiactl"], [100, "CUDA_ERROR_NO_DEVICE"]),
    ],
)
def test_cuda_faults_come_from_nodes(machine: Machine, removed: list[str], error: list[object]) -> None:
    machine.remove(*removed)
    assert machine.python("error = cuda.cuInit(0); print(json.dumps([error, name(error)]))") == error


@pytest.mark.parametrize(
    ("visible", "minors"),
    [("0,1", [0, 1]), ("1,0", [1, 0]), ("1", [1]), ("1,7,0", [1]), ("1,1", [1]), ("", []), ("-1", []), (UUIDS[1], [1])],
)
def test_cuda_visible_devices(machine: Machine, visible: str, minors: list[int]) -> None:
    code = """
uuid, answer = (ctypes.c_ubyte * 16)(), []
cuda.cuInit(0), cuda.cuDeviceGetCount(byref(number))
for index in range(number.value):
    cuda.cuDeviceGetUuid(uuid, index)
    answer.append(uuid[15])
print(json.dumps(answer))
"""
    assert machine.python(code, CUDA_VISIBLE_DEVICES=visible) == minors


def test_cuda_copies_there_and_back(machine: Machine) -> None:
    assert machine.python("""
import os
opened()
sent, received, words = os.urandom(MIB), create_string_buffer(MIB), (ctypes.c_uint32 * 4)()
errors = [cuda.cuMemAlloc_v2(byref(pointer), c_size_t(MIB)),
          cuda.cuMemcpyHtoD_v2(pointer, sent, c_size_t(MIB)), cuda.cuMemcpyDtoH_v2(received, pointer, c_size_t(MIB)),
          cuda.cuMemsetD32_v2(pointer, 0x01020304, c_size_t(4)), cuda.cuMemsetD8_v2(pointer, 9, c_size_t(4)),
          cuda.cuMemcpyDtoH_v2(words, pointer, c_size_t(16)),
          cuda.cuMemFree_v2(pointer), cuda.cuMemFree_v2(pointer)]
print(json.dumps([errors, received.raw == sent, list(words)]))
""") == [[0] * 7 + [1], True, [0x09090909] + [0x01020304] * 3]


def test_cuda_refuses_what_lies_outside(machine: Machine) -> None:
    assert machine.python("""
opened()
buffer = create_string_buffer(64)
cuda.cuMemAlloc_v2(byref(pointer), c_size_t(32))
print(json.dumps([cuda.cuMemcpyHtoD_v2(pointer, buffer, c_size_t(33)), cuda.cuMemcpyDtoH_v2(buffer, c_uint64(16), 8),
                  cuda.cuMemAlloc_v2(byref(pointer), c_size_t(0))]))
""") == [1, 1, 1]


def test_cuda_memory_ends(machine: Machine) -> None:
    machine.settings("gpu1.process = 4242, python3, 15000\n")
    code = """
opened(%d)
free, total = c_size_t(), c_size_t()
first = cuda.cuMemAlloc_v2(byref(pointer), c_size_t(800 * MIB))
cuda.cuMemGetInfo_v2(byref(free), byref(total))
second = cuda.cuMemAlloc_v2(byref(c_uint64()), c_size_t(800 * MIB))
cuda.cuMemFree_v2(pointer)
third = cuda.cuMemAlloc_v2(byref(c_uint64()), c_size_t(800 * MIB))
print(json.dumps([first, free.value // MIB, total.value // MIB, name(second), third]))
"""
    assert machine.python(code % 0) == [0, 15052, 15852, "CUDA_SUCCESS", 0]
    assert machine.python(code % 1) == [0, 52, 15852, "CUDA_ERROR_OUT_OF_MEMORY", 0]


def test_cuda_errors(machine: Machine) -> None:
    machine.settings("gpu1.cuda.error = 46\n")
    assert machine.python("""
before = cuda.cuDeviceGetCount(byref(number))
cuda.cuInit(0)
answer = [before, cuda.cuInit(1), cuda.cuDeviceGet(byref(number), 2), cuda.cuMemAlloc_v2(byref(pointer), c_size_t(1)),
          cuda.cuCtxCreate_v2(byref(context), 0, 1), cuda.cuDevicePrimaryCtxRetain(byref(context), 1),
          cuda.cuCtxCreate_v2(byref(context), 0, 0), cuda.cuModuleLoadData(byref(c_void_p()), b"")]
text = c_char_p()
cuda.cuGetErrorString(2, byref(text))
print(json.dumps([[name(error) for error in answer], text.value.decode()]))
""") == [
        [
            "CUDA_ERROR_NOT_INITIALIZED",
            "CUDA_ERROR_INVALID_VALUE",
            "CUDA_ERROR_INVALID_DEVICE",
            "CUDA_ERROR_INVALID_CONTEXT",
            "CUDA_ERROR_DEVICE_UNAVAILABLE",
            "CUDA_ERROR_DEVICE_UNAVAILABLE",
            "CUDA_SUCCESS",
            "CUDA_ERROR_NOT_SUPPORTED",
        ],
        "out of memory",
    ]


def test_cuda_contexts(machine: Machine) -> None:
    assert machine.python("""
opened()
kept, free, total = c_void_p(), c_size_t(), c_size_t()
cuda.cuMemAlloc_v2(byref(pointer), c_size_t(100 * MIB))
answer = [cuda.cuDevicePrimaryCtxRetain(byref(kept), 0), cuda.cuCtxDestroy_v2(context),
          cuda.cuMemGetInfo_v2(byref(free), byref(total)), cuda.cuCtxSetCurrent(kept),
          cuda.cuMemGetInfo_v2(byref(free), byref(total)), free.value == total.value,
          cuda.cuDevicePrimaryCtxRelease(0)]
print(json.dumps(answer))
""") == [0, 0, 201, 0, 0, True, 0]


def test_the_probe_of_the_suite_runs(machine: Machine) -> None:
    run = subprocess.run(
        [sys.executable, CHECKOUT / "fixtures/remote/cuda_probe.py", "1", "256"],
        env={"LD_LIBRARY_PATH": str(machine.libraries)},
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    found = json.loads(run.stdout)
    assert (found["error"], found["count"]) == ("", 2)
    assert found["uuid"].endswith("000000000001")
    assert (found["copied"], found["taken"], found["product"]) == (16 * 2**20, 256 * 2**20, "not supported")


def test_nvml_lists_devices(machine: Machine) -> None:
    code = """
nvml = ctypes.CDLL("libnvidia-ml.so.1")
handle, buffer, memory, count = c_void_p(), create_string_buffer(96), (ctypes.c_ulonglong * 3)(), ctypes.c_uint()
before = nvml.nvmlDeviceGetCount_v2(byref(count))
error = nvml.nvmlInit_v2()
nvml.nvmlErrorString.restype = c_char_p
answer = [before, error, nvml.nvmlErrorString(error).decode()]
if not error:
    nvml.nvmlDeviceGetCount_v2(byref(count))
    nvml.nvmlDeviceGetHandleByIndex_v2(count.value - 1, byref(handle))
    nvml.nvmlDeviceGetUUID(handle, buffer, 96)
    nvml.nvmlDeviceGetMemoryInfo(handle, memory)
    answer += [count.value, buffer.value.decode(), [value // MIB for value in memory]]
print(json.dumps(answer))
"""
    assert machine.python(code) == [1, 0, "Success", 2, UUIDS[1], [16311, 15852, 459]]
    machine.remove("nvidiactl")
    assert machine.python(code) == [1, 9, "Driver Not Loaded"]
    (machine.root / "dev/nvidiactl").mkdir()
    assert machine.python(code) == [1, 17, "GPU access blocked by the operating system"]


def test_libraries_run_on_debian_12(machine: Machine) -> None:
    for name in ("libcuda", "libnvidia-ml"):
        needs = re.findall(rb"GLIBC_2\.(\d+)", (machine.libraries / f"{name}.so.1").read_bytes())
        assert needs
        assert max(map(int, needs)) <= 36


# ---- the container runtime ----


@pytest.fixture(scope="module")
def runtime() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("runtime", str(install.HERE / "nvidia-container-runtime"))
    spec = importlib.util.spec_from_loader("runtime", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, kept = True, sys.dont_write_bytecode
    loader.exec_module(module)
    sys.dont_write_bytecode = kept
    return module


@pytest.fixture
def placed(runtime: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The runtime, looking at our folder instead of the real machine."""
    places = {"DEV": "dev", "SMI": "built/nvidia-smi", "LIBRARIES": "usr/lib/x86_64-linux-gnu"}
    for name, place in places.items():
        monkeypatch.setattr(runtime, name, machine.root / place)
    monkeypatch.setattr(runtime, "SETTINGS", machine.root / "etc/simulated-gpu.conf")
    monkeypatch.setattr(runtime, "CONFIG", machine.root / "etc/config.toml")
    monkeypatch.setattr(runtime, "SPECIFICATIONS", (machine.root / "etc/cdi", machine.root / "run/cdi"))
    return runtime


def set_mode(machine: Machine, text: str) -> None:
    (machine.root / "etc/config.toml").write_text(f"[nvidia-container-cli]\n[nvidia-container-runtime]\n{text}\n")


def config(*environment: str) -> dict[str, Any]:
    hook = {"path": "/usr/bin/nvidia-container-runtime-hook", "args": ["nvidia-container-runtime-hook", "prestart"]}
    return {
        "process": {"env": ["PATH=/bin", *environment]},
        "mounts": [{"destination": "/proc"}],
        "hooks": {"prestart": [{"path": "/proc/1/exe"}, hook]},
        "linux": {"resources": {"devices": [{"allow": False, "access": "rwm"}]}},
    }


def devices(given: dict[str, Any]) -> list[str]:
    return [Path(device["path"]).name for device in given["linux"].get("devices", [])]


CONTROL = ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"]


@pytest.mark.parametrize(
    ("environment", "given"),
    [
        (["NVIDIA_VISIBLE_DEVICES=all"], ["nvidia0", "nvidia1", *CONTROL]),
        (["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=1"], ["nvidia1", *CONTROL]),
        (["NVIDIA_VISIBLE_DEVICES=1,0"], ["nvidia0", "nvidia1", *CONTROL]),
        ([f"NVIDIA_VISIBLE_DEVICES={UUIDS[1]}"], ["nvidia1", *CONTROL]),
        (["NVIDIA_VISIBLE_DEVICES=none"], CONTROL),
    ],
)
def test_runtime_gives_gpus(placed: ModuleType, environment: list[str], given: list[str]) -> None:
    spec = config(*environment)
    placed.give_gpus(spec)
    assert devices(spec) == given
    rules = spec["linux"]["resources"]["devices"]
    assert rules[0] == {"allow": False, "access": "rwm"}
    assert [rule["access"] for rule in rules[1:]] == ["rw"] * len(given)
    assert [mount["destination"] for mount in spec["mounts"]] == [
        "/proc",
        "/usr/bin/nvidia-smi",
        "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
        "/usr/lib/x86_64-linux-gnu/libcuda.so.1",
    ]
    assert all("ro" in mount["options"] and Path(mount["source"]).is_file() for mount in spec["mounts"][1:])


@pytest.mark.parametrize("environment", [[], ["NVIDIA_VISIBLE_DEVICES="], ["NVIDIA_VISIBLE_DEVICES=void"]])
def test_runtime_leaves_other_containers_alone(placed: ModuleType, environment: list[str]) -> None:
    spec = config(*environment)
    placed.give_gpus(spec)
    assert spec == config(*environment)


def test_runtime_gives_only_what_is_there(placed: ModuleType, machine: Machine) -> None:
    machine.remove("nvidia-uvm", "nvidia1")
    machine.settings("gpu0.temperature.gpu = 90\n")
    spec = config("NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=utility")
    placed.give_gpus(spec)
    assert devices(spec) == ["nvidia0", "nvidiactl", "nvidia-uvm-tools"]
    assert [Path(mount["destination"]).name for mount in spec["mounts"][1:]] == [
        "nvidia-smi",
        "libnvidia-ml.so.1",
        "simulated-gpu.conf",
    ]


def test_runtime_keeps_devices_that_are_given_already(placed: ModuleType, machine: Machine) -> None:
    spec = config("NVIDIA_VISIBLE_DEVICES=0")
    spec["linux"]["devices"] = [{"path": str(machine.root / "dev/nvidia0")}]
    placed.give_gpus(spec)
    assert devices(spec) == ["nvidia0", *CONTROL]


@pytest.mark.parametrize(
    ("removed", "wanted", "words"),
    [
        ([], "7", "device error: 7: unknown device"),
        (["nvidia1"], "0,1", "device error: 1: unknown device"),
        (["nvidiactl"], "all", "initialization error: nvml error: driver not loaded"),
    ],
)
def test_runtime_refuses(placed: ModuleType, machine: Machine, removed: list[str], wanted: str, words: str) -> None:
    machine.remove(*removed)
    with pytest.raises(placed.GpuError, match=f"^{words}$"):
        placed.give_gpus(config(f"NVIDIA_VISIBLE_DEVICES={wanted}"))


def test_runtime_without_library(placed: ModuleType, machine: Machine) -> None:
    (machine.libraries / "libnvidia-ml.so.1").unlink()
    with pytest.raises(placed.GpuError, match=r"load library failed: libnvidia-ml\.so\.1"):
        placed.give_gpus(config("NVIDIA_VISIBLE_DEVICES=all"))


def run_runtime(
    placed: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spec: dict[str, Any], *words: str
) -> list[str]:
    """The words that runc got."""
    (tmp_path / "config.json").write_text(json.dumps(spec))
    got: list[str] = []
    monkeypatch.setattr(placed.shutil, "which", lambda name: f"/usr/sbin/{name}")
    monkeypatch.setattr(placed.os, "execv", lambda _, argv: got.extend(argv))
    monkeypatch.setattr(sys, "argv", ["nvidia-container-runtime", *words])
    placed.main()
    return got


@pytest.mark.parametrize("words", ["create --bundle {}", "create --bundle={}", "run -b {}"])
def test_runtime_becomes_runc(placed: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str) -> None:
    argv = ["--root", "/run/create", "--log-format", "json", *words.format(tmp_path).split(), "--pid-file", "/p", "id"]
    got = run_runtime(placed, monkeypatch, tmp_path, config("NVIDIA_VISIBLE_DEVICES=all"), *argv)
    assert got == ["/usr/sbin/runc", *argv]
    spec = json.loads((tmp_path / "config.json").read_text())
    assert "nvidia1" in devices(spec)
    assert spec["hooks"]["prestart"] == [{"path": "/proc/1/exe"}]  # Docker's own stays


def test_runtime_passes_other_commands_on(placed: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = config("NVIDIA_VISIBLE_DEVICES=all")
    got = run_runtime(placed, monkeypatch, tmp_path, spec, "--root", "create", "start", "id")
    assert got == ["/usr/sbin/runc", "--root", "create", "start", "id"]
    assert json.loads((tmp_path / "config.json").read_text()) == spec


def test_runtime_fails_where_docker_looks(placed: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    words = ("--log", str(log), "--log-format", "json", "create", "--bundle", str(tmp_path), "id")
    with pytest.raises(SystemExit) as ended:
        run_runtime(placed, monkeypatch, tmp_path, config("NVIDIA_VISIBLE_DEVICES=7"), *words)
    assert ended.value.code == 1
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["level"] == "error"
    assert last["msg"].endswith("\nnvidia-container-cli: device error: 7: unknown device")


def test_hook_and_ctk() -> None:
    hook = subprocess.run(
        [install.HERE / "nvidia-container-runtime-hook", "prestart"], capture_output=True, check=False
    )
    assert hook.returncode == 1
    assert b"--runtime nvidia" in hook.stderr
    ctk = subprocess.run([install.HERE / "nvidia-ctk", "--version"], capture_output=True, text=True, check=True)
    assert ctk.stdout == "NVIDIA Container Toolkit CLI version 1.17.8 (SIMULATED)\n"


def test_ctk_links_devices_by_their_numbers(tmp_path: Path) -> None:
    ctk: dict[str, Any] = runpy.run_path(str(install.HERE / "nvidia-ctk"))
    (tmp_path / "nvidia0").symlink_to("/dev/null")
    (tmp_path / "nvidia-caps").mkdir()
    for _ in range(2):
        ctk["link_devices"](tmp_path, create_all=False)
    assert [link.name for link in (tmp_path / "char").iterdir()] == ["1:3"]
    assert (tmp_path / "char/1:3").readlink() == tmp_path / "nvidia0"
    with pytest.raises(SystemExit):
        ctk["link_devices"](tmp_path, create_all=True)


def test_ctk_registers_the_runtime_beside_what_is_there(tmp_path: Path) -> None:
    settings = tmp_path / "daemon.json"
    settings.write_text('{"storage-driver": "overlay2"}')
    words = ("runtime", "configure", "--runtime=docker", f"--config={settings}")
    subprocess.run([sys.executable, install.HERE / "nvidia-ctk", *words], capture_output=True, check=True)
    runtime = {"args": [], "path": "nvidia-container-runtime"}
    assert json.loads(settings.read_text()) == {"storage-driver": "overlay2", "runtimes": {"nvidia": runtime}}
    refused = subprocess.run(
        [sys.executable, install.HERE / "nvidia-ctk", "graphics"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "SIMULATED" in refused.stderr


def test_ctk_sets_keys_of_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('# a comment\n[nvidia-container-runtime]\nmode = "auto"\nlog-level = "info"\n')
    words = (
        "--set",
        "nvidia-container-runtime.mode=cdi",
        "--set",
        "nvidia-container-cli.no-cgroups=false",
        "--in-place",
    )
    command = [sys.executable, str(install.HERE / "nvidia-ctk"), "config", *words, f"--config={file}"]
    subprocess.run(command, capture_output=True, check=True)
    runtime = {"mode": "cdi", "log-level": "info"}
    assert tomllib.loads(file.read_text()) == {
        "nvidia-container-runtime": runtime,
        "nvidia-container-cli": {"no-cgroups": False},
    }
    assert file.read_text().startswith("# a comment\n")


# ---- its modes: each failure is that of the real one, and the catalogue knows it ----


def failure(placed: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wanted: str) -> list[str]:
    """The failure modes that fit what Docker would show of a refusal."""
    log = tmp_path / "log.json"
    words = ("--log", str(log), "--log-format", "json", "create", "--bundle", str(tmp_path), "id")
    with pytest.raises(SystemExit):
        run_runtime(placed, monkeypatch, tmp_path, config(f"NVIDIA_VISIBLE_DEVICES={wanted}"), *words)
    said = json.loads(log.read_text().splitlines()[-1])["msg"]
    docker = "docker: Error response from daemon: failed to create task for container: failed to create shim task: "
    shown = f"`sh -s` in container 920 ended with 125: {docker}OCI runtime create failed: {said}: unknown"
    return [finding.mode.id for finding in diagnose({"failure": shown})]


@pytest.mark.parametrize(
    "case",
    [
        ("legacy", [], "7", "B12"),
        ("legacy", ["nvidiactl"], "all", "B26"),
        ("jit-cdi", [], "7", "B12"),
        ("jit-cdi", [], "GPU-00000000-0000-0000-0000-000000000000", "B12"),
        ("jit-cdi", ["nvidiactl"], "all", "B26"),
        ("jit-cdi", ["libnvidia-ml.so.1"], "all", "B9"),
        ("cdi", [], "7", "B36"),
        ("cdi", ["specification"], "all", "B8"),
        ("cdi", ["nvidia1"], "1", "B18"),
        ("jit", [], "all", "B33"),
    ],
)
def test_runtime_fails_as_the_real_one_does_in_its_mode(
    placed: ModuleType,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    case: tuple[str, list[str], str, str],
) -> None:
    how, removed, wanted, mode = case
    set_mode(machine, f'mode = "{how}"')
    specify(placed, machine)
    places = {"specification": "etc/cdi/nvidia.yaml", "libnvidia-ml.so.1": "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"}
    for name in removed:
        (machine.root / places.get(name, f"dev/{name}")).unlink()
    assert failure(placed, monkeypatch, tmp_path, wanted) == [mode]


def specify(placed: ModuleType, machine: Machine) -> None:
    """As `nvidia-ctk cdi generate` does."""
    file = machine.root / "etc/cdi/nvidia.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(placed.specification()))


@pytest.mark.parametrize("how", ["legacy", "jit-cdi", "cdi", "auto"])
@pytest.mark.parametrize(
    ("wanted", "given"), [("all", ["nvidia0", "nvidia1"]), ("1", ["nvidia1"]), (UUIDS[1], ["nvidia1"])]
)
def test_runtime_gives_the_same_in_every_mode(
    placed: ModuleType, machine: Machine, how: str, wanted: str, given: list[str]
) -> None:
    set_mode(machine, f'mode = "{how}"')
    specify(placed, machine)
    spec = config(f"NVIDIA_VISIBLE_DEVICES={wanted}")
    placed.give_gpus(spec)
    assert sorted(devices(spec)) == sorted([*given, *CONTROL])
    mounted = {Path(mount["destination"]).name for mount in spec["mounts"]}
    assert {"nvidia-smi", "libcuda.so.1"} <= mounted


def test_runtime_names_a_file_of_the_specification_that_an_update_has_moved(
    placed: ModuleType, machine: Machine
) -> None:
    """It is runc that refuses it: see B18 in the catalogue."""
    set_mode(machine, 'mode = "cdi"')
    specify(placed, machine)
    library = (machine.libraries / "libcuda.so.1").resolve()
    spec = config("NVIDIA_VISIBLE_DEVICES=all")
    placed.give_gpus(spec)
    assert str(library) in [mount.get("source") for mount in spec["mounts"]]


def test_runtime_with_a_broken_configuration_tells_docker_nothing(
    placed: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_mode(machine, "mode = cdi")
    log = tmp_path / "log.json"
    with pytest.raises(SystemExit, match="failed to load config"):
        run_runtime(
            placed,
            monkeypatch,
            tmp_path,
            config("NVIDIA_VISIBLE_DEVICES=all"),
            "--log",
            str(log),
            "create",
            "-b",
            str(tmp_path),
        )
    assert not log.exists()


# ---- installation ----


@pytest.mark.skipif(os.geteuid() != 0, reason="ldconfig -r changes its root")
def test_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHOENIX_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "root"
    (root / "etc/ld.so.conf.d").mkdir(parents=True)
    (root / "etc/ld.so.conf").write_text("/usr/lib/x86_64-linux-gnu\n")
    install.install(root)
    install.install(root)
    for name in ("nvidia-smi", *install.SCRIPTS):
        assert stat.S_IMODE((root / "usr/bin" / name).stat().st_mode) == 0o755
    library = root / "usr/lib/x86_64-linux-gnu/libcuda.so.1"
    assert library.resolve().name == "libcuda.so.580.76.05"
    assert b"libcuda.so.1" in (root / "etc/ld.so.cache").read_bytes()
    assert "SIMULATED" in (root / "usr/share/doc/simulated-gpu/README").read_text()
    assert not list(root.rglob(".*.new"))


def test_static_programs_need_nothing(machine: Machine) -> None:
    """Linked statically: it names no loader, so it runs in an image without a C library."""
    headers = subprocess.run(
        ["readelf", "-lW", machine.built / "nvidia-smi"], capture_output=True, text=True, check=True
    )
    assert "LOAD" in headers.stdout
    assert "INTERP" not in headers.stdout


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has NVIDIA's nodes")
def test_installed_tools_look_at_the_machine(machine: Machine, tmp_path: Path) -> None:
    """Built as they are installed, they take no plain files for nodes."""
    install.compile_to(tmp_path)
    paths = {"LD_LIBRARY_PATH": str(machine.libraries)}
    assert subprocess.run([tmp_path / "nvidia-smi"], env=paths, capture_output=True, check=False).returncode == 9
    assert ctypes.CDLL(str(tmp_path / "libcuda.so.580.76.05")).cuInit(0) == 100
