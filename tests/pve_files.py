"""What a node prints of its files in /etc/pve, as the suite's one reading of them has it."""

import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

ZFS = "zfspool: lxc-disks\n\tpool rpool/data\n\tcontent rootdir,images\n"
MEMORY = "MemTotal:       268435456 kB\nMemFree:        1 kB\n"
SOCKETS = "Num       RefCount Protocol Flags    Type St Inode Path\n"


def files(
    confs: Mapping[int, str], node: str = "pve", storages: str = ZFS, others: Any = None, ha: str = "", **cluster: Any
) -> str:
    """The files of a node with these containers; `others` are more machines, "cluster" is of `.members`."""
    own = {str(ctid): {"node": node, "type": "lxc", "version": 1} for ctid in confs}
    shown = {
        ".members": json.dumps({"nodename": node, "version": 1, **cluster}),
        ".vmlist": json.dumps({"version": 1, "ids": {**own, **(others or {})}}),
        "/proc/meminfo": MEMORY,
        "storage.cfg": storages,
        **({"ha/resources.cfg": ha} if ha else {}),
        **{f"lxc/{ctid}.conf": text for ctid, text in confs.items()},
    }
    return "".join(line(name, text) for name, text in shown.items()) + "end\n"


def line(name: str, text: str) -> str:
    """The line that shows a file."""
    return f"{name} {b64encode(text.encode()).decode()}\n"


def sockets(*running: int) -> str:
    """The kernel's list of sockets, of these containers."""
    row = "0000000000000000: 00000002 00000000 00010000 0001 01 {:5d} @/var/lib/lxc/{}/command\n"
    rows = (row.format(number, each) for number, each in enumerate(running, 1))
    return SOCKETS + "".join(rows)
