"""A pytest plugin: a whole run of the suite meets a node in memory on which every check passes.

What the node has become is kept in the file that GOOD_NODE names, and is where the next run goes on.
"""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path
from typing import Any

from fixtures.proxmox import container
from fixtures.run import build as runs
from fixtures.serving import performance, startup
from fixtures.session import command_line
from tests.model.hands import fresh
from tests.model.node import COUNTER
from tests.model.run import Clock, ModelLock
from tests.mutations.trial import QUICK, Ticking
from tests.mutations.world import Handler, HttpServer, WorldChannel, WorldNode

FILE = Path(os.environ["GOOD_NODE"])


class Lock(ModelLock):
    """The run's lock."""

    def acquire(self, invocation: str, **_: Any) -> None:
        self.node.lock = self.invocation = invocation

    def release(self) -> None:
        self.node.lock = ""


def load() -> WorldNode:
    """The node as the run before has left it; at first with nothing but the parent."""
    if not FILE.exists():
        return WorldNode(**{name: value for name, value in vars(fresh()).items() if name != "before"})
    counted, facts = pickle.loads(FILE.read_bytes())
    while next(COUNTER) < counted:
        pass
    return WorldNode(**facts)


NODE = load()
HTTP = HttpServer(("127.0.0.1", 0), Handler)
threading.Thread(target=HTTP.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
vars(command_line)["open_channel"] = lambda _: WorldChannel(NODE, HTTP.spoil, int(HTTP.server_address[1]))
vars(runs)["RunLock"] = lambda channel, ctid: Lock(NODE, "")
for module, clock in ((container, Clock()), (startup, Ticking()), (performance, Ticking())):
    vars(module)["time"] = clock
performance.STEADY = QUICK


def pytest_unconfigure() -> None:
    """Keep what the node has become."""
    facts = {name: value for name, value in vars(NODE).items() if name not in ("before", "run")}
    FILE.write_bytes(pickle.dumps((next(COUNTER), facts)))
