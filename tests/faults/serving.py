"""Faults of the image and of the server: registry, disk, memory, and everything that a server can answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from fixtures.serving.all_reduce import HOST, NCCL
from tests.faults.fault import ROOT, Fault, Ground, Put, Words, both, docker, inside, node, setting, stand_in
from tests.faults.stack import REAL, cards_say
from tests.lab.harness import Lab, until

LARGE = "stand-in-large"
SOON = ("-o", "pull_deadline=12")
# It strikes when Docker is asked for our containers and the second GPU's server has come and gone.
AFTER_LAST = """'run --detach'*device=1*) echo "$*" | grep -o 'io.phoenix-920.run=[0-9a-f-]*' > /run/second;;
'ps --all --format ['*)
  if [ -e /run/second ] && [ -z "$(/usr/bin/docker ps --all --quiet --filter label=phoenix-920)" ]; then {}; fi;;"""
LABELS = "--label phoenix-920=x --label $(cat /run/second)"
BACK = f"/usr/bin/docker create {LABELS} --name back vllm/vllm-openai:stand-in >/dev/null"
LEFT = "/usr/bin/docker create --name left vllm/vllm-openai:stand-in >/dev/null"
LISTEN = "setsid timeout 20 python3 -m http.server 8000 >/dev/null 2>&1 </dev/null & " + until(
    "bash -c ': > /dev/tcp/127.0.0.1/8000' 2>/dev/null"
)


def registry(mode: str) -> Put:
    """A registry that fails; see lab/stand_in/registry.py."""
    run = "env PYTHONPATH=/usr/share/pve-lab PYTHONDONTWRITEBYTECODE=1 setsid python3 -m lab.stand_in.registry"
    asked = "curl --silent http://10.0.0.1:5000/ >/dev/null"
    up, down = until(asked), until(f"! {asked}")
    return node(
        f"kill $(cat /run/registry.pid); {down}; {run} {mode} >/run/bad-registry.log 2>&1 </dev/null & "
        f"echo $! > /run/bad-registry.pid; {'true' if mode == 'refuse' else up}",
        f"kill $(cat /run/bad-registry.pid); {down}; "
        "setsid docker-registry serve /run/registry.json >/run/registry.log 2>&1 </dev/null & "
        f"echo $! > /run/registry.pid; {up}",
    )


def other(tag: str) -> Put:
    """Another image, which is not left in 920: a template with two of them is not tidy."""
    name = f"vllm/vllm-openai:{tag}"

    @contextmanager
    def fault(lab: Lab) -> Iterator[Words]:
        yield ("-o", f"vllm_image={name}")
        lab.inside("sh", "-c", f"docker image rm --force {name} >/dev/null 2>&1 || true")

    return fault


def image(name: str, what: str, put: Put, *said: str, check: str = "test_image_is_pulled", **more: object) -> Fault:
    """A fault of the image stage."""
    return Fault(name, what, "image", (check,), put, said, **more)  # type: ignore[arg-type]


def serving(name: str, what: str, failed: tuple[str, ...], put: Put, *said: str, **more: object) -> Fault:
    """A fault of the serving stage."""
    return Fault(name, what, "serving", failed, put, said, **more)  # type: ignore[arg-type]


def tidy(name: str, what: str, check: str, put: Put, *said: str, **more: object) -> Fault:
    """A fault of the tidy stage."""
    return Fault(name, what, "tidy", (check,), put, said, **more)  # type: ignore[arg-type]


def answers(fault: str, what: str, check: str, *said: str, **more: object) -> Fault:
    """A fault of the server itself, on each GPU."""
    words = (*stand_in(fault), *(("-o", "ready_deadline=60") if fault == "eats" else ()))  # 4 GB are not eaten at once
    return serving(f"server-{fault}", what, (f"{check}[gpu]",), setting(), *said, words=words, **more)


IMAGE = (
    image(
        "clone-not-measured",
        "what 920 held as a clone can't be noted",
        inside(
            "mkdir -p /etc/phoenix; cd /etc/phoenix; [ ! -e clone.json ] || mv clone.json /root/clone.json; "
            "mkdir clone.json",
            "cd /etc/phoenix; rmdir clone.json; mv /root/clone.json . || true",
        ),
        check="test_clone_is_measured",
    ),
    image(
        "unknown-tag",
        "there is no such tag",
        setting(),
        "docker pull",
        "vllm/vllm-openai:no-such-tag",
        words=("-o", "vllm_image=vllm/vllm-openai:no-such-tag"),
        quick=True,
        diagnosis="C5",
    ),
    image(
        "unknown-entrypoint",
        "the image does not serve",
        other("stand-in-shell"),
        "neither `vllm serve` nor the API server's module",
        check="test_entrypoint_is_known",
        diagnosis="C11",
    ),
    image(
        "registry-refuses",
        "the registry refuses connections",
        both(other(LARGE), registry("refuse")),
        words=SOON,
        diagnosis="C5",
    ),
    image(
        "registry-slow", "the registry is too slow", both(other(LARGE), registry("slow")), words=SOON, outcome="timeout"
    ),
    image(
        "registry-cut",
        "the registry cuts every layer off",
        both(other(LARGE), registry("cut")),
        words=SOON,
        outcome="timeout",
    ),
    image(
        "registry-full",
        "the registry allows no more downloads",
        both(other(LARGE), registry("full")),
        words=SOON,
        diagnosis="C5",
    ),
    image(
        "container-disk-full",
        "the container's disk is full when the image is unpacked",
        both(
            other(LARGE),
            docker("pull*) sleep 8;;"),  # so that it is not full when the inherited stack is checked
            inside(
                "mkdir -p /var/lib/docker/tmp; mount -t tmpfs tmpfs /var/lib/docker/tmp", "umount /var/lib/docker/tmp"
            ),
            node(
                "btrfs quota enable /lxc-disks; btrfs quota rescan -w /lxc-disks >/dev/null; sync; "
                f"used=$(btrfs qgroup show --raw -f {ROOT} | tail -n 1 | awk '{{print $2}}'); "
                f"btrfs qgroup limit $((used + 8000000)) {ROOT}",
                "btrfs quota disable /lxc-disks",
            ),
        ),
        words=("-o", "pull_deadline=40"),
    ),
)

ADDS_UP_WRONG = json.dumps([{"name": name, "state": "wrong", "detail": "sums"} for name in (NCCL, HOST)])
# The test model has nine attention heads, which two GPUs can't share; the stand-in reads no model
CONFIG = "/lxc-disks/subvol-903-disk-0/models/test-model/config.json"
SPLIT = node(f"""sed -i 's/heads": 9/heads": 8/' {CONFIG}""", f"""sed -i 's/heads": 8/heads": 9/' {CONFIG}""")
SERVING = (
    serving(
        "gpus-add-up-wrong",
        "the GPUs together add up to wrong sums in every way",
        ("test_gpus_add_up_together",),
        docker(f"*all_reduce_probe*) cat >/dev/null; echo '{ADDS_UP_WRONG}'; exit 0;;"),
        "every all-reduce method fails: no tensor parallel",
        simulated=True,
        diagnosis="D42",
    ),
    serving(
        "tensor-parallel-dies",
        "a server over all GPUs dies while it loads",
        ("test_all_gpus_serve_together",),
        SPLIT,
        "the server died while",
        words=stand_in("dies-together"),
        simulated=True,
    ),
    serving(
        "tensor-parallel-answers-otherwise",
        "all GPUs together give other answers than one alone",
        ("test_all_gpus_answer_as_one_does",),
        SPLIT,
        "all GPUs together differ from those of one GPU (all)",
        words=stand_in("other-scores-together"),
        simulated=True,
    ),
    serving(
        "model-missing",
        "the model's folder is not there",
        ("test_server_gets_ready[gpu]",),
        setting(),
        "docker run ended with 125",
        "bind source path does not exist: /models/none",
        words=("-o", "test_model=/models/none"),
        diagnosis="D9",
    ),
    serving(
        "wrong-word",
        "the answer does not have the expected word",
        ("test_server_answers[gpu]",),
        setting(),
        "the answer has no 'Berlin': 'The capital of France is Paris.'",
        "expected the word 'Berlin'",
        words=("-o", "expected_word=Berlin"),
        quick=True,
        diagnosis="D11",
    ),
    answers("dies", "the server dies while it loads", "test_server_gets_ready", "the server died while"),
    answers(
        "eats",
        "the server needs more memory than 920 has",
        "test_server_gets_ready",
        "exit status 137",
        diagnosis="A14",
    ),
    answers(
        "silent",
        "the server never gets ready",
        "test_server_gets_ready",
        "timed out after",
        outcome="timeout",
        diagnosis="D4",
    ),
    answers(
        "mute",
        "the server accepts connections and says nothing",
        "test_server_gets_ready",
        outcome="timeout",
        diagnosis="D4",
    ),
    answers("no-json", "the server answers with a page of HTML", "test_server_gets_ready", "It works!"),
    answers("http-500", "the server answers with status 500", "test_server_gets_ready", "answered with 500"),
    answers("endless", "the answer never ends", "test_server_gets_ready", "does not end", outcome="timeout"),
    answers(
        "other-model",
        "another model is served",
        "test_server_gets_ready",
        "the server lists",
        diagnosis="D2",
    ),
    answers("two-models", "a second model is served", "test_server_lists_the_model", "another/model", diagnosis="D2"),
    answers("empty", "the answer is empty", "test_server_answers"),
    answers(
        "garbled",
        "the answer is one character again and again",
        "test_server_answers",
        "one character repeated",
        diagnosis="D5",
    ),
    serving(
        "server-dies-later",
        "the server dies at its first question",
        ("test_server_answers[gpu]",),
        setting(),
        "the chat was not answered",
        words=stand_in("dies-later"),
    ),
    serving(
        "runtime-gives-all",
        "the NVIDIA runtime gives every server all GPUs",
        ("test_server_sees_its_gpus[gpu1]",),
        node(
            f"cp -a {ROOT}/usr/bin/nvidia-container-runtime /root/runtime.kept; "
            f"sed -i 's/if wanted == \"all\":/if True:/' {ROOT}/usr/bin/nvidia-container-runtime",
            f"cp -a /root/runtime.kept {ROOT}/usr/bin/nvidia-container-runtime",
        ),
        simulated=True,
    ),
    serving(
        "server-comes-back",
        "something starts a test server again after the last one",
        ("test_no_server_is_left",),
        both(inside("true", "docker rm back"), docker(AFTER_LAST.format(BACK))),
    ),
    serving(
        "port-stays",
        "something listens on the port after the last server",
        ("test_port_is_free_again",),
        both(inside("true", "pkill --full 'http.server 800[0]'"), docker(AFTER_LAST.format(LISTEN))),
    ),
)

TIDY = (
    tidy(
        "container-after-serving",
        "somebody makes a container in Docker after the last server",
        "test_docker_holds_no_container",
        both(
            inside("true", "docker rm left; rm -f /run/made"),
            docker(AFTER_LAST.format(f"[ -e /run/made ] || {{ touch /run/made; {LEFT}; }}")),
        ),
        "docker rm --force",
    ),
    tidy(
        "volume-left",
        "a volume is in Docker",
        "test_docker_holds_nothing_but_the_image",
        inside("docker volume create left >/dev/null", "docker volume rm left"),
    ),
    tidy(
        "secret-inside",
        "a file with passwords is inside",
        "test_no_secret_is_inside",
        inside("echo machine hub login me password it > /root/.netrc", "rm /root/.netrc"),
        "/root/.netrc",
        quick=True,
    ),
    tidy(
        "history-inside",
        "the history of a shell is inside",
        "test_nothing_typed_is_inside",
        inside("echo ls > /root/.bash_history", "rm /root/.bash_history"),
        "/root/.bash_history",
    ),
    tidy(
        "busy-log",
        "something writes a log all the time",
        "test_no_log_of_the_build_is_inside",
        inside(
            "setsid sh -c 'while :; do echo busy >> /var/log/busy.log; sleep 0.02; done' >/dev/null 2>&1 </dev/null & "
            "echo $! > /run/busy.pid",
            "kill $(cat /run/busy.pid); rm /var/log/busy.log",
        ),
        "/var/log/busy.log",
    ),
    tidy(
        "ballast-inside",
        "a large file was added",
        "test_only_image_and_caches_were_added",
        inside("head -c 90000000 /dev/urandom > /opt/ballast", "rm /opt/ballast"),
        "/opt/ballast",
    ),
)

MEASURED = (
    answers("short-stream", "a streamed answer is cut short", "test_server_is_measured", "tokens were requested"),
    answers(
        "no-number",
        "the probabilities of the answers are no numbers",
        "test_server_scores_its_answers",
        "NaN",
    ),
    answers(
        "drifts",
        "the server answers differently when many ask at once",
        "test_answers_agree",
        "differ from those under load",
    ),
    Fault(
        "server-dies-of-scores",
        "the server dies when it is asked for probabilities, after all else was proved",
        "none",
        (),
        setting(),
        ("unknown: whether the answers are right",),
        words=stand_in("dies-of-scores"),
        outcome="built",
    ),
    serving(
        "image-worse",
        "in a rebuild another image is more surprised by plain English than the limit allows",
        ("test_image_change_is_within_its_limit",),
        other(LARGE),
        "perplexity of plain English: ",
        "% worse",
        words=("--rebuild", "-o", "image_change_limit=50", *stand_in("other-scores")),
        ground=Ground.ACCEPTED,
    ),
    serving(
        "gpu-hot-under-load",
        "a GPU gets too hot while the server works",
        ("test_gpu_is_healthy_under_load[gpu1]",),
        both(
            inside("true", "rm -f /etc/simulated-gpu.conf"),
            docker("'run --detach'*device=1*) echo gpu1.temperature.gpu = 95 > /etc/simulated-gpu.conf;;"),
        ),
        "GPU 1: ",
        simulated=True,
    ),
    image(
        "torch-missing",
        "GPUs that call themselves real, and an image without torch",
        both(cards_say(*REAL), setting()),
        check="test_torch_computes_on_gpu[gpu]",
        words=("--deselect", "tests_920/test_030_inherited_stack.py::test_gpu_computes"),
        simulated=True,
    ),
)

XID = "NVRM: Xid (PCI:0000:02:00): 79, pid=4242, GPU has fallen off the bus. (SIMULATED)"
LOGGED = (
    serving(
        "xid-logged",
        "the kernel reports a GPU fault while the servers run",
        ("test_no_gpu_fault_was_logged",),
        both(
            node(f"ln -s {ROOT}/root/xid /run/simulated-kernel-log", f"rm /run/simulated-kernel-log {ROOT}/root/xid"),
            docker(f"'run --detach'*) echo '{XID}' > /root/xid;;"),
        ),
        "GPU faults",
        simulated=True,
        diagnosis="B11",
    ),
)

FAULTS = (*IMAGE, *SERVING, *LOGGED, *MEASURED, *TIDY)
