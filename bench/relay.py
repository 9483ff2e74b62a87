"""A TCP relay that delays: what a node far away is like. This kernel has no netem, which would do it below.

Each connection is handed to a command's standard input and output, and every byte is held back on its way,
in both directions: so a round trip takes the given delay longer, and nothing is slower than that.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence

PIECE = 65536
Write = Callable[[bytes], object]


@contextlib.contextmanager
def relay(command: Sequence[str], delay: float) -> Iterator[int]:
    """Relay to a command while the block runs.

    Args:
        command: Its standard input and output are the far end of a connection; started for each.
        delay: Seconds that a round trip takes longer.

    Yields:
        The port on 127.0.0.1.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        started: list[subprocess.Popen[bytes]] = []
        threading.Thread(target=_accept, args=(listener, command, delay / 2, started), daemon=True).start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            for process in started:
                process.kill()
                process.wait()


def _accept(
    listener: socket.socket, command: Sequence[str], delay: float, started: list[subprocess.Popen[bytes]]
) -> None:
    while True:
        try:
            near, _ = listener.accept()
        except OSError:
            return
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pipe = subprocess.PIPE
        far = subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0, start_new_session=True)
        started.append(far)
        _join(near, far, delay)


def _join(near: socket.socket, far: subprocess.Popen[bytes], delay: float) -> None:
    sink, source = far.stdin, far.stdout
    assert sink
    assert source
    _carry(lambda: near.recv(PIECE), sink.write, sink.close, delay)
    _carry(lambda: source.read(PIECE), near.sendall, lambda: near.shutdown(socket.SHUT_RDWR), delay)


def _carry(read: Callable[[], bytes], write: Write, close: Callable[[], object], delay: float) -> None:
    """Carry bytes one way: read at once, written when the delay has passed."""
    line: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def take() -> None:
        piece = b"begun"
        while piece:
            try:
                piece = read()
            except OSError:
                piece = b""
            line.put((time.monotonic() + delay, piece))

    def give() -> None:
        while True:
            due, piece = line.get()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                if not piece:
                    break
                write(piece)
            except OSError:
                break
        with contextlib.suppress(OSError):
            close()

    for each in (take, give):
        threading.Thread(target=each, daemon=True).start()
