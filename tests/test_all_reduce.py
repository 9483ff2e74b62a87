"""The sums of several GPUs: each verdict is produced by a fault, on a stub of PyTorch; tests/lab has the real one."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fixtures.base.number import write_json
from fixtures.proxmox import docker
from fixtures.run import answers
from fixtures.serving import all_reduce, caches
from fixtures.serving.all_reduce import NO_FIX, WITHOUT_OWN, WITHOUT_PEER, AllReduce, Fix, Way
from fixtures.serving.image import Image
from tests.suite_run import TOP

STUB, FAULT = TOP / "tests/stub", TOP / "tests/faults/all_reduce"
PATH = f"{FAULT}:{STUB}"
LIMIT, SHORT = 60.0, 2.0  # seconds: for what comes to its end, and for what hangs


@functools.cache
def probe_file() -> str:
    """The probe as it lies in the image."""
    file = Path(tempfile.mkdtemp(prefix="phoenix-all-reduce-"), "all_reduce_probe.py")
    file.write_bytes(all_reduce.PROBE)
    atexit.register(shutil.rmtree, file.parent)
    return str(file)


def proved(fault: str = "", gpus: int = 2, spoilt: str = "", cards: Sequence[str] = ()) -> AllReduce:
    """The verdict with a fault, which spoils the ways of these names."""

    def attempt(ways: Sequence[dict[str, Any]]) -> list[Way]:
        return [way for each in ways for way in probe(each, fault, gpus)]

    def probe(way: dict[str, Any], fault: str, gpus: int) -> list[Way]:
        limit = SHORT if fault.endswith("hang") and way["name"] in spoilt.split("|") else LIMIT
        asked = {"ranks": gpus, "cuda": False, "dtypes": ["float16", "float32"], "sizes": [4, 67], "cards": cards}
        words, environment = [sys.executable, probe_file()], {**os.environ, "PYTHONPATH": PATH}
        asked |= {"ways": [way], "environment": {"PYTHONPATH": PATH, "ALL_REDUCE": fault}}
        while True:
            text = json.dumps({**asked, "deadline": limit})
            done = subprocess.run(words, input=text, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            found = all_reduce.read(json.loads(done.stdout))
            if "was not loaded" not in found[0].detail:  # on a busy machine that takes longer
                return found
            limit *= 3

    return all_reduce.judged(attempt)


@pytest.mark.parametrize("gpus", [2, 8])
def test_gpus_that_add_up_rightly_need_no_fix(gpus: int) -> None:
    found = proved(gpus=gpus)
    assert (found.verdict, found.fix) == (all_reduce.ALL_RIGHT, NO_FIX)
    assert [(way.name, way.state) for way in found.ways] == [(way["name"], "right") for way in all_reduce.WAYS]
    assert all(way.detail == "80 sums are those of the CPU" for way in found.ways)


WRONG = "wrong: GPU 0: float16, 4 B, repeat 1: 1 of 2 numbers are not the CPU's sum"
HUNG = "hung: GPU 0, GPU 1: no end within "
DIED = "died: GPU 1: ended with 3: RuntimeError: an illegal memory access was encountered"
OWN, PEER, ALL = "vLLM's all-reduce", "NCCL|vLLM's all-reduce", "NCCL|NCCL without peer-to-peer|vLLM's all-reduce"


@pytest.mark.parametrize(
    ("fault", "spoilt", "verdict", "fix", "said"),
    [
        ("own:wrong", OWN, all_reduce.OWN_WRONG, WITHOUT_OWN, WRONG),
        ("own:hang", OWN, all_reduce.OWN_WRONG, WITHOUT_OWN, HUNG),
        ("own:die", OWN, all_reduce.OWN_WRONG, WITHOUT_OWN, DIED),
        ("peer:wrong", PEER, all_reduce.PEER_WRONG, WITHOUT_PEER, WRONG),
        ("peer:hang", PEER, all_reduce.PEER_WRONG, WITHOUT_PEER, HUNG),
        ("all:die", ALL, all_reduce.NOTHING_RIGHT, NO_FIX, DIED),
    ],
)
def test_each_fault_is_named_with_its_fix(fault: str, spoilt: str, verdict: str, fix: Fix, said: str) -> None:
    found = proved(fault, spoilt=spoilt)
    assert (found.verdict, found.fix) == (verdict, fix)
    for way in found.ways:
        text = f"{way.state}: {way.detail}"
        assert text.startswith(said if way.name in spoilt.split("|") else "right: 80 sums")
    assert len(found.ways) == (4 if fix != NO_FIX else 3)
    assert all_reduce.fix_of({"all_reduce": asdict(found)}) == fix


def test_wrong_card_is_named_as_its_owner_knows_it() -> None:
    names = ("GPU 1 (H100, 00000000:01:00.0, GPU-a)", "GPU 0 (H100, 00000000:41:00.0, GPU-b)")
    assert proved("all:die", spoilt=ALL, cards=names).ways[0].detail.startswith(f"{names[1]}: ended with 3: ")


@pytest.mark.parametrize(
    ("states", "verdict", "fix"),
    [
        ("right wrong right", all_reduce.ALL_RIGHT, NO_FIX),  # no server takes that way
        ("right right unknown", all_reduce.NOT_KNOWN, NO_FIX),
        ("unknown right wrong", all_reduce.NOT_KNOWN, NO_FIX),
        ("wrong unknown wrong", all_reduce.NOT_KNOWN, NO_FIX),
        ("died right unknown", all_reduce.PEER_WRONG, WITHOUT_PEER),
    ],
)
def test_what_could_not_be_tried_is_never_right_or_wrong(states: str, verdict: str, fix: Fix) -> None:
    names = (way["name"] for way in all_reduce.WAYS)
    assert all_reduce.judge(dict(zip(names, states.split(), strict=True))) == (verdict, fix)


@pytest.mark.parametrize(("state", "verdict"), [("wrong", all_reduce.NOTHING_RIGHT), ("unknown", all_reduce.NOT_KNOWN)])
def test_fix_that_does_not_help_is_none(state: str, verdict: str) -> None:
    def attempt(ways: Sequence[dict[str, Any]]) -> list[Way]:
        return [
            Way(each["name"], {"NCCL": "right", "NCCL without peer-to-peer": "right"}.get(each["name"], "wrong"), "")
            if len(ways) > 1
            else Way(each["name"], state, "")
            for each in ways
        ]

    found = all_reduce.judged(attempt)
    assert (found.verdict, found.fix) == (verdict, NO_FIX)


def test_image_without_pytorch_is_not_known(tmp_path: Path) -> None:
    words, asked = [sys.executable, "-S", probe_file()], {"ways": list(all_reduce.WAYS)}
    done = subprocess.run(words, input=json.dumps(asked), stdout=subprocess.PIPE, text=True, check=True, cwd=tmp_path)
    assert [way.state for way in all_reduce.read(json.loads(done.stdout))] == ["unknown"] * 3


def loaded(folder: Path, vllm: str, *, limit: float = LIMIT, at_once: bool = False) -> list[Way]:
    """All ways with an image whose module `vllm` has this text in front."""
    if not (folder / "image").exists():
        shutil.copytree(STUB, folder / "image")
    (folder / "image/vllm/__init__.py").write_text(vllm)
    asked = {"ranks": 2, "cuda": False, "dtypes": ["float32"], "sizes": [4], "deadline": limit, "ways": all_reduce.WAYS}
    asked["at_once"] = at_once
    text = json.dumps({**asked, "environment": {"PYTHONPATH": str(folder / "image")}})
    environment = {**os.environ, "PYTHONPATH": str(folder / "image")}
    words = [sys.executable, probe_file()]
    done = subprocess.run(words, input=text, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return all_reduce.read(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("vllm", "said"),
    [
        ("import os; print('out of luck', flush=True); os.kill(os.getpid(), 11)", "ended with -11: out of luck"),
        ("import os; os.kill(os.getpid(), 9)", "its process was killed, as the kernel does when memory is short"),
        ("raise SystemExit(4)", "ended with 4: no output"),
    ],
)
def test_vllm_that_breaks_while_it_loads_spoils_no_other_way(tmp_path: Path, vllm: str, said: str) -> None:
    ways = loaded(tmp_path, vllm)
    assert [way.state for way in ways] == ["right", "right", "unknown"]
    assert ways[-1].detail == f"vLLM could not be loaded: {said}"


def test_vllm_that_never_loads_is_not_known(tmp_path: Path) -> None:
    ways = loaded(tmp_path, "import signal; signal.pause()", limit=5)
    assert (ways[-1].state, ways[-1].detail) == ("unknown", "vLLM was not loaded within 5 s")


def test_another_vllm_is_not_known(tmp_path: Path) -> None:
    ways = loaded(tmp_path, "raise ImportError('not this one')")
    assert [way.state for way in ways] == ["right", "right", "unknown"]
    assert ways[-1].detail == "vLLM's all-reduce could not be set up: ImportError: not this one"


def test_processes_load_by_themselves_if_loading_initialised_cuda(tmp_path: Path) -> None:
    """A fork can't use CUDA then; PyTorch says so as soon as it is given a GPU."""
    note = f"open({str(tmp_path / 'loads')!r}, 'a').write('x')"
    refuse = "raise RuntimeError('Cannot re-initialize CUDA in forked subprocess')"
    ways = loaded(tmp_path, f"{note}\nimport torch\ndef refuse(*_): {refuse}\ntorch.device = refuse\n")
    assert [way.state for way in ways] == ["right"] * 3
    assert (tmp_path / "loads").read_text() == "x" * 3  # the loader, and each of two


def test_all_processes_have_what_was_loaded_once(tmp_path: Path) -> None:
    loaded(tmp_path, f"open({str(tmp_path / 'loads')!r}, 'a').write('x')")
    assert (tmp_path / "loads").read_text() == "x"


def test_vllm_need_not_wait_for_the_other_ways_if_memory_allows_all_at_once(tmp_path: Path) -> None:
    """PyTorch is loaded by the one who tries its ways only when vLLM's are being tried."""
    tried = tmp_path / "tried"
    shutil.copytree(STUB, tmp_path / "image")
    wait = f"while 'PyTorch\"' in sys.argv[-1] and not os.path.exists({str(tried)!r}): time.sleep(0.01)"
    with Path(tmp_path, "image/torch/__init__.py").open("a") as text:
        text.write(f"\nimport os, sys, time\n{wait}\n")
    with Path(tmp_path, "image/vllm/distributed/parallel_state.py").open("a") as text:
        text.write(f"\n_join = init_distributed_environment\n{JOIN.format(tried=str(tried))}")
    assert [way.state for way in loaded(tmp_path, "", at_once=True)] == ["right"] * 3


JOIN = """
def init_distributed_environment(**words):
    _join(**words)
    open({tried!r}, "w").close()
"""


@pytest.mark.parametrize("fix", [NO_FIX, WITHOUT_OWN, WITHOUT_PEER])
def test_later_runs_take_the_fix_from_the_record(monkeypatch: pytest.MonkeyPatch, fix: Fix) -> None:
    """A run that only accepts a clone, or resumes after sealing, has not tried the GPUs itself."""
    found = AllReduce(all_reduce.OWN_WRONG, [], fix)
    monkeypatch.setattr(answers, "sealed_record", lambda _: {"all_reduce": json.loads(write_json(asdict(found)))})
    assert answers.all_reduce_fix(cast(Any, SimpleNamespace(all_reduce=None))) == fix
    assert answers.all_reduce_fix(cast(Any, SimpleNamespace(all_reduce=found))) == fix


@pytest.mark.parametrize("document", [None, {}, {"all_reduce": None}, {"all_reduce": {"fix": {"arguments": ["--x"]}}}])
def test_record_that_names_no_known_fix_gives_none(monkeypatch: pytest.MonkeyPatch, document: Any) -> None:
    monkeypatch.setattr(answers, "sealed_record", lambda _: document)
    assert answers.all_reduce_fix(cast(Any, SimpleNamespace(all_reduce=None))) == NO_FIX


class Machine:
    """A container that answers the probe when it may, and counts what it was asked."""

    def __init__(self) -> None:
        self.may, self.asked, self.removed = threading.Event(), list[dict[str, Any]](), 0
        self.node, self.channel = SimpleNamespace(run_id="a-run"), SimpleNamespace(waiting=lambda *_: nullcontext())

    def ask(self, *words: str) -> str:
        if words[-1] == docker.REMOVE:
            self.removed += 1
            self.may.set()
        return ""

    def execute(self, *_: str, only_reads: bool) -> SimpleNamespace:
        assert only_reads
        return SimpleNamespace(succeeded=True, out="GPU0 X NV18\n")

    def ask_json(self, _form: Any, *words: str, deadline: float, stdin: bytes) -> list[dict[str, str]]:
        assert deadline > 0
        assert words[:2] == ("docker", "run")
        assert "--volume=/a:/b" in words
        self.asked.append(json.loads(stdin[len(all_reduce.PROBE) :]))
        assert self.may.wait(LIMIT)
        return [{"name": way["name"], "state": "right", "detail": ""} for way in self.asked[-1]["ways"]]


def trial(machine: Machine) -> all_reduce.Trial:
    settings = SimpleNamespace(boot_deadline=60.0, server_mounts=["/a:/b"], variables={"NAME": "value"})
    return all_reduce.Trial(cast(Any, machine), cast(Any, SimpleNamespace(digest="d")), cast(Any, settings), "ab", [])


def test_trial_that_goes_on_is_not_begun_again() -> None:
    machine = Machine()
    one = trial(machine)
    one.begin(cuda=True, at_once=True)
    machine.may.set()
    one.begin(cuda=False, at_once=False)
    assert one.result().verdict == all_reduce.ALL_RIGHT
    (asked,) = machine.asked
    assert (asked["ranks"], asked["cuda"], asked["at_once"]) == (2, True, True)
    assert asked["environment"] == {"NAME": "value", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    one.end()
    assert not machine.removed  # it has come to its end by itself


def test_trial_that_nobody_waits_for_is_ended() -> None:
    machine = Machine()
    trial(machine).end()  # which was not even begun
    one = trial(machine)
    one.begin(cuda=True, at_once=True)
    one.end()
    assert machine.removed == 1


@pytest.mark.parametrize("said", ["", "with bytecode", "with bytecode\ncomplete"])
@pytest.mark.parametrize("gpus", ["NVIDIA-H200", ""])
def test_bytecode_is_shared_by_all_programs_of_the_image(said: str, gpus: str) -> None:
    """Without it, or without knowing where it is, Python compiles: that is no failure."""

    def ask(_shell: str, _c: str, script: str, *words: str) -> str:
        if script == caches.GPUS:
            return gpus
        assert words == ("sh", "/caches/0123456789ab-NVIDIA-H200", image.digest)
        return said

    image = Image("vllm", "vllm@sha256:0123456789abcdef", (), 0)
    settings: Any = SimpleNamespace(warm_caches="/caches", server_env=[], server_mounts=[], keep_model="")
    container = cast(Any, SimpleNamespace(ask=ask, ctid=920, node=SimpleNamespace(run_id="r")))
    words = caches.bytecode(container, image, settings)
    mounted = "/caches/0123456789ab-NVIDIA-H200/bytecode:/var/cache/bytecode" + ":ro" * ("complete" in said)
    wanted = ["--env", "PYTHONPYCACHEPREFIX=/var/cache/bytecode", "--volume", mounted]
    assert words == (wanted if said and gpus else [])
    settings.server_env = ["PYTHONPYCACHEPREFIX=/elsewhere"]
    assert caches.bytecode(container, image, settings) == []
    settings.server_env, settings.server_mounts = [], ["/mine:/var/cache"]
    assert caches.bytecode(container, image, settings) == []
