"""A text of the field through the whole catalogue: which failure modes name it, and by which line.

python -m tests.cause log < server.log                             the test server's log
python -m tests.cause 'docker pull vllm/vllm-openai' < words.txt    a command in the container
python -m tests.cause 'pct start 920' < words.txt                   a command of Proxmox VE, ZFS, LVM, Ceph: the node
python -m tests.cause --node 'apt-get update' < words.txt           another command on the node
python -m tests.cause kernel < dmesg.txt                           the node's kernel, after a server has died
python -m tests.cause journal < unit.txt                           the journal of a unit, such as Docker
python -m tests.cause http < answer.json                           the server's answer to a chat
"""

from __future__ import annotations

import re
import sys

from fixtures.diagnosis.failure_modes import Finding, diagnose
from fixtures.diagnosis.words import DEAD, UNIT

# programs that are on the node only
NODE = re.compile(r"(?:pct|pv\w+|qm|ha-manager|vzdump|zpool|zfs|[lv][vg]\w+|rbd|ceph\S*|btrfs|proxmox-\S+)\b")
DAEMON = re.compile(r"(?m)^docker: |Error response from daemon")  # else the program in the container has failed
PROGRAM = re.compile(r"(?m)(?:^| )([a-z][\w/-]{2,40})\[\d{1,8}\]: ")
DOCKER = re.compile(r"(?<![\w./-])(?:(?:dockerd|containerd)\[|(?:docker|containerd)\.(?:service|socket)\b)")
CAME_UP = re.compile(r"Daemon has completed initialization|Started (?:docker\.service|Docker Application)")
GOES_WELL = re.compile(
    r"systemd\[1\]: (?:(?:Started|Finished|Mounted|Listening on) |(?!docker|containerd)\S+: Deactivated suc).*\Z"
)
FAILED = re.compile(r"Failed (?:with result|to start)|process exited|Dependency failed")
ANSWERED = re.compile(r'level=error msg="Handler for [A-Z]+ \S+ returned error: (.{1,2000}?)"(?: |$)')

STOPPED = (
    "`docker info` in container 920 ended with 1: Cannot connect to the Docker daemon at unix:///var/run/docker.sock"
)
DIED = "the server died while waiting for /health to answer 200 (exit status 1); its log shows why"


def runs(text: str) -> bool:
    """Whether a journal ends with a unit that has done its work, or runs."""
    came_up = [found.end() for found in CAME_UP.finditer(text)]
    if came_up and not DEAD.search(text, came_up[-1]):  # and nothing has ended Docker since
        return True
    return bool(GOES_WELL.search(text.strip()) and not FAILED.search(text))


def texts(words: list[str], text: str) -> dict[str, str]:
    """What a check would have heard."""
    said = words[-1]
    if said == "journal" and runs(text):
        return {said: text}
    if said in ("log", "kernel"):
        return {"check": "test_server_gets_ready[gpu0]", "failure": DIED, said: text}
    if said == "journal" and (answers := ANSWERED.findall(text)) and "systemd[1]" not in text:  # dockerd runs
        answer = answers[-1].replace('\\"', '"')
        return {"failure": f"`docker run` in container 920 ended with 125: Error response from daemon: {answer}"}
    if said == "journal":
        docker = DOCKER.search(text)
        programs = (name.replace("/", "-") for name in PROGRAM.findall(text) if name not in ("systemd", "kernel"))
        units = dict.fromkeys(UNIT.findall(text) or (f"{name}.service" for name in programs))
        failed = f"systemd is degraded; failed: {' '.join(units)}"
        check, failure = (
            ("test_docker_is_running", STOPPED) if docker or not units else ("test_systemd_is_healthy", failed)
        )
        return {"check": check, "failure": failure, "journal": text}
    if said == "http":
        return {"check": "test_server_answers[gpu0]", "failure": f"the chat was answered with 400: {text}"}
    place = "on pve" if "--node" in words or NODE.match(said) else "in container 920"
    status = 125 if said.startswith("docker run") and DAEMON.search(text) else 1
    return {"failure": f"`{said}` {place} ended with {status}: {text}"}


def shown(finding: Finding) -> str:
    """A failure mode with the line that it was recognised by."""
    return f"{finding.mode.id} {finding.mode.what}\n  by:  {finding.places[0][1]}\n  fix: {finding.mode.fix}"


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    said = sys.stdin.read()
    found = diagnose(texts(sys.argv[1:], said)) or diagnose({sys.argv[-1]: said})  # or the words alone, of no failure
    print("\n".join(map(shown, found)) or "no known failure mode matches")
