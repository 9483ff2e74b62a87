"""Service: whoever connects to port 9930 of a clone gets a line for each of its GPUs."""

import pytest

from fixtures.proxmox.container import Container
from fixtures.template.template import Template

pytestmark = [pytest.mark.stage("service"), pytest.mark.order(40)]

UNITS = {
    "gpu-list.socket": "[Socket]\nListenStream=9930\nAccept=yes\n\n[Install]\nWantedBy=sockets.target\n",
    "gpu-list@.service": "[Service]\nExecStart=/usr/bin/nvidia-smi -L\nStandardOutput=socket\n",
}


def test_service_is_installed(container: Container) -> None:
    """The service is installed, and starts at boot."""
    for name, text in UNITS.items():
        container.ask("tee", f"/etc/systemd/system/{name}", stdin=text.encode())
    container.ask("systemctl", "enable", "--now", "gpu-list.socket")
    assert container.socket("tcp://9930").is_listening


def test_service_lists_the_gpus(container: Container, template: Template) -> None:
    """The service answers with each GPU that 930 is assigned."""
    answer = container.ask("bash", "-c", "cat < /dev/tcp/127.0.0.1/9930")
    assert len(answer.splitlines()) == len(template.declared.gpus), answer
