"""The catalogue of failure modes: each was seen to match, and does not match what only looks alike."""

from __future__ import annotations

import errno
import itertools
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.diagnosis import evidence, failure_modes
from fixtures.diagnosis.failure_modes import FailureMode, catalogue, diagnose, fits, recognise
from fixtures.diagnosis.reasons import HANDLING, deciding
from fixtures.diagnosis.root_cause import Diagnosis
from fixtures.diagnosis.words import OWN, REASON, SAID, heard
from tests import cause
from tests.pages import CATALOGUE, troubleshooting

TOP = Path(__file__).parent.parent
DATA = TOP / "tests/data/diagnosis"
LAYERS = ("pct", "shell", "dockerd", "pull", "smi", "http", "vllm", "end", REASON)
FIELDS = {"id", "what", "why", "fix", "confirm", "sources", "seen"}  # of a mode
RED_LOGS = {
    "bad-flag": ["D12"],
    "bad-local-path": ["D9"],
    "port-in-use-nethost": ["C3"],
    "wrong-model-online": ["D9"],
    "wrong-model-offline": ["D9"],
    "maxlen-too-big": ["D13"],
}


# What NVIDIA's toolkit 1.17 to 1.20 says (tests/data/nvidia-toolkit/messages.txt), and the mode that each message is.
TOOLKIT = {
    "seen 1.18.2 jit-cdi: no libnvidia-ml in ld cache": "B9",
    "source: jit-cdi driver not loaded": "B26",
    "source: jit-cdi version mismatch": "B3",
    "source: jit-cdi NVML unknown error": "B16",
    "seen 1.18.2 jit-cdi: device=5": "B12",
    "seen 1.18.2 cdi: stale spec": "B18",
    "seen 1.18.2 legacy: no nvidia-container-cli": "B19",
    "seen 1.18.2: broken config.toml": "B20",
    "seen 20.10: runtime's path wrong": "B6",
    "cli: driver not loaded": "B26",
    "cli: libnvidia-ml": "B9",
    "cli: driver rpc": "B27",
    "cli: cuda unknown": "B4",
    "cli: privilege": "B5",
    "cli: capability": "B5",
    "cli: bpf": "B5",
    "cli: device rules generic": "B22",
    "cli: cgroup v2 old lib": "B22",
    "cli: cgroup path v1": "B22",
    "cli: devices.allow": "B5",
    "cli: uvm": "B4",
    "cli: modeset": "B31",
    "cli: unknown device": "B12",
    "cli: requirement": "B10",
    "cli: ldconfig.real": "B24",
    "cli: ldconfig died": "B24",
    "cli: file exists": "B28",
    "cli: proc mount (LXC)": "B29",
    "hook direct (cdi)": "B8",
    "docker 28: cdi not there": "B7",
    "docker 28: cdi injection": "B8",
    "docker 25+: cdi driver unknown": "B17",
    "docker: cdi spec newer": "B18",
    "createContainer hook: nvidia-cdi-hook missing": "B19",
    "createContainer hook: update-ldcache": "B24",
    "smi: GPU lost": "B11",
    "python ValueError of the suite": "",  # a mistake of this suite once, no mode
    "false 610": "",
}


def cases(name: str) -> list[tuple[str, dict[str, str]]]:
    """The cases of a file: where each is from, and its texts by their kind."""
    path = DATA / name
    text = path.read_text() if path.exists() else ""
    pairs = [case.split("\n", 1) for case in re.split(r"^=== ", text, flags=re.MULTILINE) if case]
    return [(source, _texts(body)) for source, body in pairs]


def _texts(body: str) -> dict[str, str]:
    _, *parts = re.split(r"^--- (\w+)\n", body, flags=re.MULTILINE)
    return {kind: text.strip("\n") for kind, text in zip(parts[::2], parts[1::2], strict=True)}


def toolkit() -> dict[str, str]:
    """NVIDIA's messages by their headings."""
    blocks = re.split(r"^# ", (TOP / "tests/data/nvidia-toolkit/messages.txt").read_text(), flags=re.MULTILINE)[1:]
    return {head: text.strip() for head, _, text in (block.partition("\n") for block in blocks)}


def examples(identity: str) -> list[tuple[str, dict[str, str]]]:
    """Every recorded text of a mode: where it is from, and its texts by their kind."""
    messages = [(head, {"failure": text}) for head, text in toolkit().items() if TOOLKIT[head] == identity]
    return cases(f"{identity}.match.txt") + messages


EXAMPLES = [(identity, source, texts) for identity in catalogue() for source, texts in examples(identity)]
SOMEBODY = {  # the same words, said by somebody else
    "pct": "`pct config 920` on pve ended with 255: {}",
    "shell": "`cat /var/log/x` in container 920 ended with 1: {}",
    "check": "AssertionError: owners: {}",
    "answer": "AssertionError: asked 'x', the answer has no 'Paris': '{}'",
    "http": "the chat was answered with 500: {}",
}


@pytest.mark.parametrize("identity", catalogue())
def test_mode_is_recognised(identity: str) -> None:
    assert examples(identity)
    for source, texts in examples(identity):
        found = diagnose(texts)
        assert [finding.mode.id for finding in found] == [identity], source
        assert found[0].mode.general or all(line in texts[kind] for kind, line in found[0].places)


def test_each_member_of_a_mode_was_seen() -> None:
    """What a mode is for some sentences has a recorded text as well, and says what is wrong and how to fix it."""
    seen = {finding.mode.what for _, _, texts in EXAMPLES for finding in diagnose(texts)}
    assert not [what for what in seen if re.search("OBJECT|SAYS", what)]
    for mode in catalogue().values():
        for form, texts in mode.members:
            assert {"what", "fix"} <= set(texts) <= {"what", "fix", "why"}
            words = ".+".join(map(re.escape, re.split("OBJECT|SAYS", texts["what"])))
            assert any(re.fullmatch(words, each) for each in seen), (mode.id, form.pattern)


@pytest.mark.parametrize(
    "said",
    [
        "`pct start 920` on pve ended with 255: mkdir --all: File exists",
        "`pct start 920` on pve ended with 255: can't lock file '/run/lock/x /etc' - got timeout",
        "`docker run x` in container 920 ended with 125: docker: network --force not found",
    ],
)
def test_what_a_program_names_is_one_word_and_no_option_in_a_command(said: str) -> None:
    """A container could print it so that whoever pastes the fix does more than he meant."""
    (found,) = diagnose({"failure": said})
    assert "OBJECT" in found.mode.fix
    assert "OBJECT" not in found.mode.what


def test_long_line_is_shown_where_it_was_recognised() -> None:
    """Docker chains what was tried before the reason, which alone says which member of a mode it is."""
    chain = f"docker: Error response from daemon: {'step: ' * 99}nvidia-container-cli: ldcache error: process "
    said = f"`docker run x` in container 920 ended with 125: {chain}/sbin/ldconfig.real failed with error code: 1"
    (found,) = diagnose({"failure": said})
    assert "ldconfig.real" in found.mode.what
    assert found.places[0][1] in said


def test_of_a_find_over_several_lines_the_first_is_shown() -> None:
    """What stands behind it in a long text is another machine's business."""
    stopped = "Nov 30 06:20:42 ct systemd[1]: docker.service: Deactivated successfully."
    others = [f"Nov 30 06:21:{number} ct other[1]: what another unit says at such a time" for number in range(10, 22)]
    texts = {"check": "test_docker_is_running", "failure": "Cannot connect to the Docker daemon at unix:///x.sock"}
    (found,) = diagnose({**texts, "journal": "\n".join([stopped, *others])})
    assert found.places[-1] == ("journal", stopped)


def test_source_line_of_a_traceback_is_not_what_the_server_said() -> None:
    source = '(APIServer pid=1)     raise ValueError(f"Unknown quantization method: {method}")'
    (found,) = diagnose({"log": f"{source}\n(APIServer pid=1) ValueError: Unknown quantization method: awqx."})
    assert found.mode.what.endswith("awqx")


def fitting(texts: dict[str, str]) -> list[FailureMode]:
    """Every mode that fits a text; of the classes of reasons one at the most."""
    return [finding.mode for finding in failure_modes.fitting(texts, heard(texts))]


def test_no_text_is_of_two_modes() -> None:
    """Each recorded text of each mode, against every other mode: a second one has to be its declared cause."""
    confused = [
        (identity, other.id, source)
        for identity, source, texts in EXAMPLES
        for other in fitting(texts)
        if other.id != identity and not failure_modes.explains(catalogue()[identity], other)
    ]
    assert not confused


def test_every_class_of_reasons_gives_way_to_who_knows_more() -> None:
    """Each recorded text of each mode that is no class: where a class fits its deciding sentence too, it is silent."""
    silent = set()
    for identity, source, texts in EXAMPLES:
        if not catalogue()[identity].general and (classes := {mode.id for mode in fitting(texts) if mode.general}):
            silent |= classes
            assert [finding.mode.id for finding in diagnose(texts)] == [identity], source
    assert len(silent) > 12


@pytest.mark.parametrize(
    ("program", "words", "sentence"),
    [
        ("vLLM", "KeyError: 'a'\nDuring handling of the above\nValueError: b", "vLLM: KeyError: 'a'"),
        ("vLLM", "x | ERROR 01-01 00:00:00 [a.py:1] EngineCore failed to start.\nOSError: b", "vLLM: OSError: b"),
        ("vLLM", "pydantic.ValidationError: 2 validation errors for A\n  Value error, b", "Value error, b"),
        ("vLLM", "ERROR 01-01 00:00:00 [a.py:1] can't use a, which is harmless", ""),
        ("vLLM", "RuntimeError: Engine core initialization failed. See root cause above.", ""),
        ("pct", 'lxc_setup: 1 Failed to setup container "1"\nx: error b\nTASK ERROR: c', "pct: x: error b"),
        ("pct", "do_start: 12 Permission denied - Failed to open", "pct: Permission denied - Failed to open"),
        ("pct", "unable to create CT 1 - command 'tar' failed: exit code 2", "failed: exit code 2"),
        ("a", "Error response from daemon: OCI runtime create failed: x: y: unknown.", "Docker: x: y"),
        ("a", f"OCI runtime create failed: {'x: ' * 400}why", "why"),
        ("a", "OCI runtime x: nvidia-container-cli: b error: c", "toolkit: nvidia-container-cli: b error: c"),
        ("vLLM", "all is well", ""),
        ("a", "b\nall is well", "a: all is well"),
        (
            "docker",
            "1d4dc7bffbb8: Already exists\nopen /a: structure needs cleaning",
            "docker: open /a: structure needs cleaning",
        ),
        ("vLLM", "a.ValidationError: 1 validation error for A\n  Value error, B failed to be inspected. See above", ""),
        (
            "vLLM",
            "KeyError: 'a'\n\nDuring handling of the above exception, another exception occurred:\nOSError: b",
            "OSError: b",
        ),
        (
            "vLLM",
            "RuntimeError: Worker failed with error 'ValueError: a', see the root cause above",
            "vLLM: ValueError: a",
        ),
        ("vLLM", "2026-03-11T17:57:32.37Z (EngineCore pid=2) OSError: a", "vLLM: OSError: a"),
        ("x", 'time="2026-03-11T17:57:32Z" level=error msg="cannot a"', 'cannot a"'),
        (
            "vLLM",
            "RuntimeError: Worker failed with error 'a is b too', please check the stack trace above",
            "vLLM: a is b too",
        ),
        ("vLLM", f"queue.Empty: a\n{HANDLING}\nOSError: b", "vLLM: OSError: b"),
        ("vLLM", f"a.ValidationError: {'a ' * 150}--b c [type=value_error, input_value={'d' * 80}]", "a --b c"),
        ("vLLM", "Exception: a", "vLLM: Exception: a"),
        ("vLLM", "!!!!!!! Segfault encountered !!!!!!!", "!!!!!!! Segfault encountered !!!!!!!"),
        ("pct", "400 Parameter verification failed.\na: b", "verification failed. a: b"),
        ("Docker", "dockerd[1]: failed to start daemon: a: b\ndocker.service: exited", "failed to start daemon: a: b"),
        ("the kernel", "[  +0.000581] INFO: task a:1 blocked for more than 120 seconds.", "120 seconds."),
        ("apt-get", "update-alternatives: warning: a doesn't exist\nE: b failed", "apt-get: E: b failed"),
        ("apt-get", "W: GPG error: a: NO_PUBKEY B\nE: The repository 'a' is not signed.", "NO_PUBKEY B"),
        ("apt-get", "locale: Cannot a: No such file\ndebconf: unable to initialize frontend: b\nE: c", "E: c"),
        ("apt-get", "dpkg-preconfigure: unable to re-open stdin: \nProcessing triggers for libc-bin (2.39) ...", ""),
        ("apt-get", "Failed to check for processor microcode upgrades.\nNo services need to be restarted.", ""),
        ("Docker", "[+] Running 2/2\n \u2714 Container vllm        Started       0.7s", ""),
        ("pct", "speedup is 1.00\nWARN: The version is not in the known list\nTASK WARNINGS: 1", ""),
        ("netplan", "a\nWARNING:root:Cannot call Open vSwitch: b is not running.", ""),
        ("Docker", "Insecure Registries: ::1/128\nWARNING: No blkio throttle.read_bps_device support", ""),
    ],
)
def test_deciding_sentence(program: str, words: str, sentence: str) -> None:
    said = deciding(words, program)
    assert said.endswith(sentence) if sentence else said == ""
    assert len(said) < 360


@pytest.mark.parametrize(
    ("reason", "identity"),
    [
        ("failed to do request: dial tcp: connect: permission denied", "E8"),  # why stands after what was tried
        ("ValueError: FlashAttention is not supported", "E13"),  # the exception's name tells least
        ("RuntimeError: CUDA error. Try another version, as this one is not supported", "E12"),  # hints come last
    ],
)
def test_words_that_stand_last_make_the_class(reason: str, identity: str) -> None:
    texts = {"failure": f"`docker run x` in container 920 ended with 1: {reason}"}
    assert [mode.id for mode in fitting(texts)] == [identity]


@pytest.mark.parametrize(
    ("number", "identity"),
    [
        (errno.EACCES, "E8"),
        (errno.EADDRINUSE, "E6"),
        (errno.EAGAIN, "E6"),
        (errno.EBUSY, "E6"),
        (errno.ECONNRESET, "E21"),
        (errno.EEXIST, "E6"),
        (errno.EINVAL, "E26"),
        (errno.EIO, "E25"),
        (errno.EISDIR, "E10"),
        (errno.EMFILE, "E19"),
        (errno.ENAMETOOLONG, "E14"),
        (errno.ENETUNREACH, "E21"),
        (errno.ENODEV, "E10"),
        (errno.ENOENT, "E10"),
        (errno.ENOEXEC, "E18"),
        (errno.ENOMEM, "E1"),
        (errno.ENOSYS, "E13"),
        (errno.ENOTDIR, "E10"),
        (errno.ENOTEMPTY, "E6"),
        (errno.EOPNOTSUPP, "E13"),
        (errno.EPERM, "E8"),
        (errno.EROFS, "E23"),
        (errno.ESTALE, "E10"),
        (errno.ETIMEDOUT, "E21"),
        (errno.EUCLEAN, "E25"),
    ],
)
def test_error_of_the_system_is_of_a_class(number: int, identity: str) -> None:
    texts = {"failure": f"`cat /x/y` in container 920 ended with 1: cat: /x/y: {os.strerror(number)}"}
    assert [finding.mode.id for finding in diagnose(texts)] == [identity]


def test_first_trouble_of_a_long_log_is_looked_at() -> None:
    noise = "(Worker pid=2) INFO 01-01 00:00:00 [a.py:1] waiting\n" * 4000
    log = f"{noise}Traceback (most recent call last):\nOSError: [Errno 5] Input/output error\n{noise}"
    for text in (log, evidence.kept(log, str)):
        assert [finding.mode.id for finding in diagnose({"log": text})] == ["E25"]


def test_general_fix_that_is_of_no_place_names_nothing_of_the_server() -> None:
    for mode in catalogue().values():
        assert not re.search("vllm_image|server_args|test_model|vLLM", mode.fix if mode.general else ""), mode.id


def test_general_mode_quotes_the_program_and_names_its_path() -> None:
    texts = {"failure": "`cat /x/y` in container 920 ended with 1: cat: /x/y: Permission denied"}
    found = Diagnosis(diagnose(texts), texts, {}, "", "")
    assert "\n  said: cat: cat: /x/y: Permission denied\n  why:" in found.text
    assert found.findings[0].mode.confirm[0] == "C: id; ls -ldn /x/y"


def test_long_sentence_keeps_who_said_it() -> None:
    """Its option is named, and where to correct it."""
    for words in (
        {"log": f"ValueError: {'a ' * 300}--max-num-seqs"},
        {"failure": SOMEBODY["http"].format('{"message": "' + "it is not supported " * 20 + '"}')},
    ):
        found = diagnose(words)[0]
        assert found.places[0][1].startswith("vLLM: ")
        assert "server_args" in found.mode.fix


def test_general_fix_is_of_the_place_where_the_program_ran() -> None:
    """None but the server is told to take another image."""
    for words in ("`lxc-start -n 920 -F` on pve", "`pvesm status` on pve", "`dockerd` in container 920"):
        mode = diagnose({"failure": f"{words} ended with 1: x: error: it does this"})[0].mode
        assert mode.id == "E16"
        assert not re.search("vllm|server_args", " ".join([mode.fix, *mode.confirm]))
    assert "server_args" in diagnose({"log": "RuntimeError: it is not supported"})[0].mode.fix
    inside, elsewhere = {"log": "ImportError: a"}, {"failure": "`lxc-start` on pve ended with 1: ImportError: a"}
    assert [diagnose(texts)[0].mode.confirm[0][:2] for texts in (inside, elsewhere)] == ["D:", "C:"]


@pytest.mark.parametrize("who", SOMEBODY)
def test_same_words_of_somebody_else_are_no_match(who: str) -> None:
    """A phrase that a check, a log or another command happens to say is not the mode's."""
    for identity, source, texts in EXAMPLES:
        mode = catalogue()[identity]
        words = texts.get("failure") or texts.get("commands") or texts["log"]
        asked = set(texts) - {"check", "failure", "commands", "log"}
        if asked or mode.general or any(who in signature for signature in mode.signatures):
            continue  # what the machines were asked belongs to it, or these are who says such words
        said = heard({"failure": words})[0].text
        spoken = {"check": "tests_920/test_x.py::test_something_else", "failure": SOMEBODY[who].format(said)}
        assert recognise(mode, spoken, heard(spoken)) is None, (identity, source)


@pytest.mark.parametrize("text", ["the server's log is quoted in a message: {}", "`cat x` on pve ended with 1: {}"])
def test_words_of_the_server_count_in_its_log_only(text: str) -> None:
    for identity, source, texts in EXAMPLES:
        if set(texts) == {"log"} and not catalogue()[identity].general:
            elsewhere = {"check": "test_server_gets_ready[gpu0]", "failure": text.format(texts["log"])}
            assert recognise(catalogue()[identity], elsewhere, heard(elsewhere)) is None, source


def test_refusal_of_the_real_pct_is_of_one_mode_at_the_most() -> None:
    blocks = re.findall(
        r"^\+ (.+)\n((?:(?!\+ |\[rc=).*\n)*)\[rc=([1-9]\d*) ", (TOP / "tests/data/pct/session.txt").read_text(), re.M
    )
    assert len(blocks) > 30
    found = {
        command: diagnose({"failure": f"`{command}` on pve ended with {rc}: {out}"}) for command, out, rc in blocks
    }
    assert {command: len(each) for command, each in found.items() if len(each) > 1} == {}
    named = {finding.mode.id for each in found.values() for finding in each if not finding.mode.general}
    assert named == {"A6", "A10", "A45", "A46", "A58", "A68", "A70", "A71"}


@pytest.mark.parametrize("head", TOOLKIT)
def test_message_of_the_toolkit(head: str) -> None:
    found = diagnose({"failure": toolkit()[head]})
    assert [finding.mode.id for finding in found] == ([TOOLKIT[head]] if TOOLKIT[head] else [])


def test_every_message_of_the_toolkit_has_its_mode() -> None:
    assert set(toolkit()) == set(TOOLKIT)


@pytest.mark.parametrize("identity", catalogue())
def test_each_signature_was_seen_to_match(identity: str) -> None:
    mode = catalogue()[identity]
    seen = [texts for _, texts in examples(identity)]
    idle = [
        signature
        for signature in mode.signatures
        if not any(fits(mode, signature, texts, heard(texts)) for texts in seen)
    ]
    assert not idle


def test_kernel_line_of_each_mode_is_one_that_the_node_is_asked_for() -> None:
    wanted = re.compile("|".join(re.findall("-e '([^']+)'", evidence.NODE)), re.IGNORECASE)
    found = [(identity, place) for identity, _, texts in EXAMPLES for place in diagnose(texts)[0].places]
    assert [each for each in found if each[1][0] == "kernel" and not wanted.search(each[1][1])] == []


def test_kernel_lines_of_another_container_are_no_evidence(tmp_path: Path) -> None:
    """One container's AppArmor denials and OOM kills are not the reason of another one's failure."""
    kill = "oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg=/lxc/{0},task_memcg=/lxc/{0}/ns,task=python3,pid={1},uid=0"
    lines = [
        kill.format(105, 41),
        "Memory cgroup out of memory: Killed process 41 (python3) total-vm:8kB",
        'audit: apparmor="DENIED" operation="mount" profile="lxc-105_</var/lib/lxc>" comm="mount"',
        kill.format(920, 42),
        "Memory cgroup out of memory: Killed process 42 (python3) total-vm:8kB",
        'audit: apparmor="DENIED" operation="mount" profile="lxc-920_</var/lib/lxc>" comm="mount"',
        "NVRM: Xid (PCI:0000:09:00): 31, pid=42",
    ]
    (tmp_path / "journalctl").write_text("#!/bin/sh\ncat <<'LINES'\n" + "\n".join(lines) + "\nLINES\n")
    (tmp_path / "journalctl").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    said = subprocess.run(
        ["sh", "-s", "920", "60"], input=evidence.NODE, env={"PATH": path}, capture_output=True, text=True, check=False
    ).stdout
    assert said.partition("### node")[0].splitlines() == ["### kernel", *lines[3:]]


@pytest.mark.parametrize(
    ("program", "words", "identity"),
    [
        ("journalctl", "Nov 30 06:20:42 ct systemd[1]: docker.service: Deactivated successfully.", "C39"),
        ("dpkg", "The following packages are only half configured, probably due to problems\n docker-ce  x", "C38"),
    ],
)
def test_container_is_asked_why_docker_is_stopped(tmp_path: Path, program: str, words: str, identity: str) -> None:
    """An upgrade that stopped Docker or was cut short leaves no error in the journal."""
    (tmp_path / program).write_text(f"#!/bin/sh\necho '{words}'\n")
    (tmp_path / program).chmod(0o755)
    texts = cause.texts(["journal"], "docker[1]") | asked_container(tmp_path)
    assert identity in {finding.mode.id for finding in diagnose(texts)}


def test_docker_that_was_restarted_was_not_just_stopped(tmp_path: Path) -> None:
    """The last of what its unit says counts: the container is asked for that it was started, too."""
    words = ("docker.service: Deactivated successfully.", "Started docker.service - Docker Application.")
    said = "\n".join(f"Nov 30 06:20:42 ct systemd[1]: {each}" for each in words)
    (tmp_path / "journalctl").write_text(f"#!/bin/sh\ncase $* in *docker*) echo '{said}' ;; esac\n")
    (tmp_path / "journalctl").chmod(0o755)
    journal = asked_container(tmp_path)["journal"]
    assert "Started docker" in journal
    failure = "docker.service is active (running) and disabled; expected active and enabled"
    found = diagnose({"check": "test_docker_is_running", "failure": failure, "journal": journal})
    assert [finding.mode.id for finding in found] == ["C7"]


def test_container_is_asked_what_a_failed_unit_has_printed(tmp_path: Path) -> None:
    """Its program's words have the priority info; a Docker that failed before it came up has no part in it."""
    lines = [
        "systemd[1]: Started exporter.service - Exporter.",
        "python3[7475]: Traceback (most recent call last):",
        "python3[7475]: ModuleNotFoundError: No module named 'prometheus_client'",
        "systemd[1]: exporter.service: Main process exited, code=exited, status=1/FAILURE",
        "systemd[1]: exporter.service: Failed with result 'exit-code'.",
    ]
    docker = [
        "dockerd[9]: failed to start daemon: specified default runtime 'nvidia' does not exist",
        "systemd[1]: Started docker.service - Docker Application Container Engine.",
    ]
    unit, warnings, last = (
        "\n".join(f"2026-11-30T20:10:13+00:00 ct {each}" for each in part)
        for part in (lines, [docker[0], lines[4]], docker[1:])
    )
    answers = f'*exporter*) echo "{unit}" ;; *priority*) echo "{warnings}" ;; *docker*) echo "{last}" ;;'
    (tmp_path / "systemctl").write_text("#!/bin/sh\necho 'exporter.service loaded failed failed Exporter'\n")
    (tmp_path / "journalctl").write_text(f"#!/bin/sh\ncase $* in {answers} esac\n")
    for program in ("systemctl", "journalctl"):
        (tmp_path / program).chmod(0o755)
    failure = "systemd is degraded; failed: exporter.service"
    (found,) = diagnose({"check": "test_systemd_is_healthy", "failure": failure, **asked_container(tmp_path)})
    assert (found.mode.id, found.mode.what) == ("E7", "Python can't find the module prometheus_client")


def test_fix_names_the_unit_that_failed() -> None:
    journal = "Nov 30 10:20:32 ct systemd[1]: exporter.service: Watchdog timeout (limit 2s)!"
    (found,) = diagnose(cause.texts(["journal"], journal))
    assert "systemctl edit exporter.service" in found.mode.fix


@pytest.mark.parametrize(
    "line",
    [
        "systemd[1]: /etc/systemd/system/web.service:4: Special user nobody configured, this is not safe!",
        "systemd[1]: web.service - Web was skipped because of an unmet condition check (ConditionPathExists=/etc/web).",
        "systemd[1]: /etc/systemd/system/web.service:5: Unknown key name 'Enviroment' in section 'Service', ignoring.",
    ],
)
def test_line_of_systemd_that_is_no_failure_has_no_cause(line: str) -> None:
    assert diagnose(cause.texts(["journal"], f"Nov 30 10:20:32 ct {line}")) == []


def asked_container(programs: Path) -> dict[str, str]:
    """What a container answers after a failure, by kind, with some programs of its own."""
    path = f"{programs}:{os.environ['PATH']}"
    said = subprocess.run(
        ["sh", "-s"], input=evidence.CONTAINER, env={"PATH": path}, capture_output=True, text=True, check=False
    ).stdout
    parts = evidence.HEADING.split(said)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("identity", catalogue())
def test_what_looks_alike_is_not_taken_for_it(identity: str) -> None:
    innocent = cases(f"{identity}.innocent.txt")
    assert innocent
    for source, texts in innocent:
        assert recognise(catalogue()[identity], texts, heard(texts)) is None, source


def test_every_named_check_is_there() -> None:
    """A signature names checks by a part of their name; each alternative is a part of some."""
    functions = set(re.findall(r"::(?:\w+::)?(test_\w+)", (TOP / "tests_920/CHECKS").read_text()))
    functions |= set(
        re.findall(r"def (test_\w+)", "".join(path.read_text() for path in (TOP / "tests_920").glob("*.py")))
    )
    for mode in catalogue().values():
        for signature in mode.signatures:
            for part in signature["check"].pattern.split("|") if "check" in signature else ():
                assert any(re.search(part, name) for name in functions), (mode.id, part)


def test_no_case_is_of_a_mode_that_is_gone() -> None:
    assert {path.name.partition(".")[0] for path in DATA.glob("*.txt")} - {"green-evidence"} == set(catalogue())


def test_kernel_that_says_nothing_fatal_has_no_cause() -> None:
    lines = "[drm] Cannot find any crtc or sizes\nnvidia: module verification failed: signature - tainting kernel"
    assert diagnose({"kernel": lines}) == diagnose(cause.texts(["kernel"], lines)) == []


def test_journal_of_docker_that_came_up_has_no_cause() -> None:
    """Unless something has ended it since."""
    up = (
        'Nov 30 10:20:31 ct dockerd[310]: time="2026-11-30T10:20:31.511Z" level=warning msg="Running modprobe failed"\n'
        'Nov 30 10:20:32 ct dockerd[310]: time="2026-11-30T10:20:32.077Z" level=info msg="Daemon has completed init'
        'ialization"\nNov 30 10:20:32 ct systemd[1]: Started docker.service - Docker Application Container Engine.'
    )
    ended = f"{up}\nNov 30 10:21:00 ct systemd[1]: docker.service: Main process exited, code=killed, status=9/KILL"
    assert diagnose(cause.texts(["journal"], up)) == []
    assert diagnose(cause.texts(["journal"], ended))


def test_programs_of_proxmox_ve_run_on_the_node() -> None:
    """Where no place is given with a text that is fed by hand."""
    for command, place in (
        ("pct start 920", "on pve"),
        ("zpool status", "on pve"),
        ("docker info", "in container 920"),
    ):
        assert f"`{command}` {place} ended" in cause.texts([command], "x")["failure"]


@pytest.mark.parametrize("name", ["good-start-cpu.log", "good-start-h100.log"])
def test_log_of_a_good_start_matches_nothing(name: str) -> None:
    text = (DATA / name).read_text()
    assert diagnose(dict.fromkeys(SAID, text)) == []


def test_what_the_machines_say_when_all_is_well_matches_nothing() -> None:
    (_, texts), *_ = cases("green-evidence.txt")
    assert set(texts) >= {"node", "docker", "container", "journal"}
    failures = (
        "",
        "AssertionError: assert 1 == 2",
        "nvidia-smi failed",
        "the server died",
        "took longer than 60 s",
    )
    assert [diagnose({**texts, "failure": failure}) for failure in failures] == [[]] * len(failures)


@pytest.mark.parametrize("name", RED_LOGS)
def test_whole_log_of_a_failed_start(name: str) -> None:
    failure = "the server died while waiting for /health to answer 200 (exit status 1); its log shows why"
    found = diagnose({"failure": failure, "log": (DATA / f"red-{name}.log").read_text()})
    assert [finding.mode.id for finding in found] == RED_LOGS[name]


def test_nearest_to_the_failure_decides() -> None:
    texts = {
        "check": "test_server_gets_ready[gpu0]",
        "failure": "the chat was answered with 400: The model does not support Chat Completions API",
        "log": "CUDA out of memory",
        "kernel": "NVRM: Xid (PCI:0): 79, fallen",
    }
    for left_out, mode in (("", "D18"), ("failure", "D3"), ("log", "B11")):
        texts.pop(left_out, None)
        assert [finding.mode.id for finding in diagnose(texts)] == [mode]


def test_cause_takes_the_place_of_its_consequence() -> None:
    texts = {"check": "test_gpus_are_listed", "failure": "GPUs (0, 1) are assigned, but ['GPU 0'] are listed"}
    assert [finding.mode.id for finding in diagnose(texts)] == ["B12"]
    lost = {**texts, "kernel": "NVRM: Xid (PCI:0000:09:00): 79, pid=0, GPU has fallen off the bus."}
    assert [finding.mode.id for finding in diagnose(lost)] == ["B11"]
    late = {
        "check": "test_server_gets_ready[gpu0]",
        "failure": "timed out after 900 s waiting for /health to answer 200",
    }
    assert [finding.mode.id for finding in diagnose(late)] == ["D4"]
    assert [finding.mode.id for finding in diagnose({**late, "log": "CUDA out of memory"})] == ["D3"]
    died = "RuntimeError: Engine core initialization failed. See root cause above."
    assert [finding.mode.id for finding in diagnose({**late, "log": died})] == ["D37"]
    refused = f"pydantic.ValidationError: 1 validation error for VllmConfig\n  Value error, x\n{died}"
    assert [finding.mode.id for finding in diagnose({**late, "log": refused})] == ["E14"]
    assert [finding.mode.id for finding in diagnose({**late, "log": f"CUDA out of memory\n{died}"})] == ["D3"]


def test_of_two_modes_that_any_other_explains_one_is_left() -> None:
    general = [mode for mode in catalogue().values() if "any" in mode.caused_by]
    for one, other in itertools.combinations(general, 2):
        assert not (failure_modes.explains(one, other) and failure_modes.explains(other, one))


def test_signatures_are_quick_on_the_longest_evidence() -> None:
    text = "x" * 10**6 + "\n" + "waited registry docker pull CUDA lxc.a `pct " * 10**5  # 5 MB, not bounded before
    started = time.process_time()
    assert diagnose({**dict.fromkeys(failure_modes.KINDS, text), "check": "test_server_cuda_gpu"}) == []
    assert time.process_time() - started < 2


def test_every_mode_of_the_list_is_there() -> None:
    listed = [*(f"A{n}" for n in range(1, 14)), *(f"B{n}" for n in range(1, 14)), *(f"C{n}" for n in range(1, 5))]
    assert {*listed, *(f"D{n}" for n in range(1, 12))} <= set(catalogue())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('fix = "', 'cure = "', "A1: a mode has confirm"),
        ("{ dockerd = ", "{ rumour = ", "A1: a signature is for some of"),
        ("{ dockerd = ", "{ failure = ", "A1: ['failure'] says neither who said the words nor which check failed"),
        ("{ dockerd = ", "{ kernel = ", "A1: ['kernel'] says neither who said the words nor which check failed"),
        ("{ dockerd = ", "{ check = ", "A1: the name of a check alone is no evidence"),
        ("{ dockerd = ", "{ command = 'x', check = 'x', failure = ", "A1: `command` belongs to words of a command"),
        ('caused_by = ["A8"]', 'caused_by = ["Z8"]', "A7: caused_by names ['Z8']"),
        (r"reopen fd \\d+", "reopen fd (", "A1: "),
        ('id = "A2"', 'id = "A1"', "ids are there twice: ['A1']"),
    ],
)
def test_mistake_in_the_catalogue_is_named(old: str, new: str, said: str) -> None:
    text = failure_modes.CATALOGUE.read_text().replace(old.replace("\\\\", "\\"), new, 1)
    assert any(each.startswith(said) for each in mistakes(text))


def test_catalogue_has_no_mistake() -> None:
    assert list(mistakes(failure_modes.CATALOGUE.read_text())) == []


def mistakes(text: str) -> Iterator[str]:
    """What is wrong with a catalogue, each with its mode and field."""
    modes = tomllib.loads(text)["mode"]
    ids = [mode.get("id") for mode in modes]
    if len(set(ids)) < len(ids):
        yield f"ids are there twice: {sorted({each for each in ids if ids.count(each) > 1})}"
    for mode in modes:
        if set(mode) - {"caused_by", "fixes", "members"} != FIELDS or not all(mode.values()):
            yield f"{mode.get('id')}: a mode has {', '.join(sorted(FIELDS))}, all of them and nothing else"
        causes = set(mode.get("caused_by", ()))
        if unknown := causes - {*ids, failure_modes.ANY, REASON} or causes & {mode["id"]}:
            yield f"{mode['id']}: caused_by names {sorted(unknown)}, expected ids of other modes"
        for patterns in mode["seen"]:
            yield from (f"{mode['id']}: {mistake}" for mistake in mistakes_of(patterns))


def mistakes_of(patterns: dict[str, str]) -> Iterator[str]:
    """What is wrong with a signature."""
    keys, layers = set(patterns), set(LAYERS)
    allowed = (OWN, *LAYERS, "check", "command", *failure_modes.ASKED)
    if not keys or not keys <= set(allowed):
        yield f"a signature is for some of {', '.join(allowed)}, not {list(patterns)}"
    if not keys & layers and "check" not in keys:
        yield f"{list(patterns)} says neither who said the words nor which check failed"
    if "command" in keys and not keys & layers:
        yield "`command` belongs to words of a command"
    if keys == {"check"}:
        yield "the name of a check alone is no evidence"
    for pattern in patterns.values():
        try:
            re.compile(pattern)
        except re.error as error:
            yield str(error)


def test_pages_are_up_to_date() -> None:
    """They are made by `python -m tests.pages troubleshooting`; none is larger than what GitHub shows, 512 KB."""
    made = troubleshooting()
    assert {page.name: page.read_text() for page in CATALOGUE.iterdir()} == made
    assert max(map(len, made.values())) < 512_000


def test_lines_are_fit_for_a_terminal() -> None:
    """One line each, without the full stop that the page adds."""
    for mode in tomllib.loads(failure_modes.CATALOGUE.read_text())["mode"]:
        for field in ("what", "why", "fix"):
            assert "\n" not in mode[field]
            assert not mode[field].endswith(".")


def test_words_of_our_own_checks_are_still_theirs() -> None:
    """A signature for a check of this suite is of no use when that check has come to say something else."""
    files = [*(TOP / "tests_920").glob("*.py"), *(TOP / "fixtures").rglob("*.py")]
    source = "".join(path.read_text() for path in files if path.name != "failure_modes.py")
    source = re.sub(r"[\"']\s*\n\s*f?[\"']", "", source).replace('\\"', '"').replace("\\'", "'")
    for mode in catalogue().values():
        for origin, texts in cases(f"{mode.id}.match.txt"):
            if not (named := re.match(r"this suite: (test_\w+)", origin)):
                continue
            assert f"def {named[1]}(" in source, (mode.id, origin)
            (_, line), *_ = diagnose(texts)[0].places
            words = [part for signature in mode.signatures for part in literals(signature.get("failure"))]
            mine = [part for part in words if part in line and not part.startswith("assert")]  # the comparison itself
            assert not mine or any(part in source for part in mine), (mode.id, origin)


def literals(pattern: re.Pattern[str] | None) -> list[str]:
    """The plain words of a pattern that are long enough to be found in a source."""
    plain = re.sub(r"\\\w", "|", pattern.pattern) if pattern else ""  # \b and the like are no words
    return re.findall(r"[A-Za-z' ,:]{6,}", plain)


@pytest.mark.parametrize(
    ("words", "text", "mode"),
    [
        (["log"], "torch.OutOfMemoryError: CUDA out of memory.", "D3"),
        (["--node", "pct start 920"], "CT is locked (backup)", "A6"),
        (["docker pull x"], 'Get "https://x/v2/": EOF', "C5"),
        (["docker run x"], "docker: Error response from daemon: network bridge not found", "C28"),
        (["http"], '{"error": "Unauthorized"}', "D39"),
        (["http"], "all is well", "no known failure mode matches"),
        (["kernel"], "[  120.25] INFO: task zfs:1 blocked for more than 120 seconds.", "E5"),
        (["journal"], "dockerd[1]: failed to load listeners: no sockets found", "E10"),
    ],
)
def test_text_of_the_field_is_tried_by_hand(words: list[str], text: str, mode: str) -> None:
    command = [sys.executable, "-m", "tests.cause", *words]
    out = subprocess.run(command, cwd=TOP, input=text, capture_output=True, text=True, check=True).stdout
    assert out.startswith(mode)


def test_commands_are_about_the_template_of_the_run() -> None:
    names = {"CTID": "7310", "PARENT": "7300", "SNAPSHOT": "base"}
    modes = [mode.about(names) for mode in catalogue().values()]
    texts = [text for mode in modes for text in (mode.what, mode.why, mode.fix, *mode.confirm)]
    assert not [text for text in texts if re.search(r"\b(CTID|PARENT|SNAPSHOT|920|903)\b", text)]
    assert any("pct unlock 7310; pct destroy 7310; pct unlock 7300" in text for text in texts)
    assert any("pct delsnapshot 7310 base" in text for text in texts)
    assert catalogue()["A1"].about({}) == catalogue()["A1"]


def test_command_that_confirms_a_mode_can_be_pasted() -> None:
    """Remarks in brackets behind it made the shell refuse all of it."""
    places = re.compile(r"(?:H|C|D|WHERE): (.*)")
    commands = [found[1] for mode in catalogue().values() for each in mode.confirm if (found := places.match(each))]
    assert len(commands) > 200
    bad = [each for each in commands if subprocess.run(["sh", "-n"], input=each, text=True, check=False).returncode]
    assert bad == []
