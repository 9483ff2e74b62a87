"""What the inherited stack is asked by function: GPUs after a reload; and that a test server ends with its run."""

from __future__ import annotations

import subprocess
import time
import uuid
from collections.abc import Iterator

import pytest

from fixtures.base.errors import BuildError
from fixtures.diagnosis.failure_modes import diagnose
from fixtures.proxmox import docker
from fixtures.proxmox.container import Container
from fixtures.proxmox.docker import list_around_reload
from fixtures.remote.runner import kill_group
from fixtures.serving.server import WATCHDOG

pytestmark = pytest.mark.lab

# What systemd does on a machine of B1's kind: a generator runs at each reload, and takes away the devices' rules.
FORGETFUL = """mkdir -p /etc/systemd/system-generators && cd /etc/systemd/system-generators && cat > forget-gpus <<'EOF'
#!/bin/sh
for rule in /sys/fs/cgroup/devices/docker/*/devices.deny; do
  for minor in 0 1 255; do echo "c 195:$minor rwm" > "$rule"; done
done
EOF
chmod +x forget-gpus"""
SLEEPER = """set -eu
libraries=$(ldd /bin/sleep | grep -o '/[^ ]*')
tar --create --dereference --absolute-names /bin/sleep $libraries | docker import - sleeper >/dev/null
for label; do set -- "$@" --label "$label"; shift; done
docker run --detach --init=false --network none "$@" sleeper /bin/sleep 300 >/dev/null"""


@pytest.fixture(scope="module")
def container(container: Container) -> Iterator[Container]:
    """The same, rid of what the tests have left in Docker."""
    yield container
    container.execute("sh", "-c", "docker rm -f $(docker ps -aq); docker image rm -f sleeper")


def test_gpus_survive_a_reload(container: Container) -> None:
    found = list_around_reload(container)
    assert len(found.before) == 2
    assert found.after == found.before
    assert container.ask("docker", "ps", "--all", "--quiet") == container.ask("docker", "images", "--quiet") == ""


def test_gpus_that_a_reload_takes_away_are_missed(container: Container) -> None:
    container.ask("sh", "-c", FORGETFUL)
    try:
        found = list_around_reload(container)
    finally:
        container.ask("rm", "/etc/systemd/system-generators/forget-gpus")
    assert len(found.before) == 2
    assert found.after == ["Failed to initialize NVML: Unknown Error"]


SPECIFY = "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
MODES = {  # of NVIDIA's runtime, what is done besides, and the failure mode that comes of it
    "jit-cdi": ("", ""),
    "cdi": (SPECIFY, ""),
    "cdi without a specification": ("", "B8"),
    "cdi after an update of the driver": (f"{SPECIFY}; sed -i 's/580[.]76[.]05/550.1/' /etc/cdi/nvidia.yaml", "B18"),
    "cdi with one GPU less": (f"{SPECIFY}; sed -i 's/nvidia1/nvidia9/' /etc/cdi/nvidia.yaml", "B18"),
    "cdy": ("", "B33"),
    "cdi in a file that is no TOML": ("echo '[' >> /etc/nvidia-container-runtime/config.toml", "B20"),
}


@pytest.mark.parametrize("name", MODES)
def test_toolkit_in_each_of_its_modes(container: Container, name: str) -> None:
    script, mode = MODES[name]
    setting = f"nvidia-ctk config --set nvidia-container-runtime.mode={name.split(maxsplit=1)[0]} --in-place"
    try:
        container.ask("sh", "-ec", f"{setting}\n{script}")
        if not mode:
            found = list_around_reload(container)
            assert len(found.before) == 2
            assert found.after == found.before
            return
        with pytest.raises(BuildError) as error:
            list_around_reload(container)
        assert [finding.mode.id for finding in diagnose({"failure": str(error.value)})] == [mode], error.value
    finally:
        container.ask("sh", "-c", "rm -rf /etc/cdi /etc/nvidia-container-runtime")


def sleep_in_docker(container: Container, *labels: str) -> None:
    container.ask("sh", "-c", SLEEPER, "sh", *labels)


def test_only_what_a_run_has_noted_is_removed(container: Container) -> None:
    """A label is no proof: a person's container may carry it, even with the id of a run that has ended in order."""
    run, killed, ended = container.node.run_id, str(uuid.uuid4()), str(uuid.uuid4())
    try:
        container.ask("sh", "-ec", f"{docker.noting(container)}echo {killed} >> {docker.RUNS}")
        for one in (run, killed, ended):
            sleep_in_docker(container, f"{docker.LABEL}=test-server", f"{docker.RUN}={one}")
        sleep_in_docker(container, docker.LABEL)
        assert (len(docker.own(container)), len(docker.foreign(container))) == (2, 2)
        docker.remove_own(container)
        assert (len(docker.own(container)), len(docker.foreign(container))) == (0, 2)
        assert not container.file(docker.RUNS).exists
        docker.remove_own(container)
        assert len(docker.foreign(container)) == 2
    finally:
        container.execute("sh", "-c", "docker rm -f $(docker ps -aq)")


def test_server_ends_with_its_run(container: Container) -> None:
    """A run that is killed closes the standard input of its watchdog; only what is of that run goes."""
    run = container.node.run_id
    container.ask("sh", "-c", docker.noting(container))
    for each in (run, "somebody"):
        sleep_in_docker(container, docker.LABEL, f"{docker.RUN}={each}")
    assert len(docker.own(container)) == 1
    watchdog = container.channel.spawn(("sh", "-c", WATCHDOG, "sh", run), deadline=60, stdin=subprocess.PIPE)
    try:
        time.sleep(1)
        assert len(docker.own(container)) == 1
        kill_group(watchdog)  # with it the only one who could write to what is read inside
        watchdog.wait()
        assert watchdog.stdin
        watchdog.stdin.close()
        end = time.monotonic() + 20
        while docker.own(container):
            assert time.monotonic() < end
            time.sleep(0.2)
        assert len(docker.foreign(container)) == 1
        docker.remove_own(container)  # as the next run does
        assert not container.file(docker.RUNS).exists
    finally:
        kill_group(watchdog)
