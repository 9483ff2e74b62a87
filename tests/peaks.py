"""What a run takes at the most while it goes on: memory and disk."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

MEMORY, DISK = 150_000_000, 64_000_000  # bytes that a run may take


class Peaks(threading.Thread):
    """The most that a process has had of memory, and folders of disk, while it ran."""

    def __init__(self, process: subprocess.Popen[str], *folders: Path) -> None:
        super().__init__(daemon=True)
        self._process, self._folders = process, folders
        self.memory = self.disk = 0

    def run(self) -> None:
        while self._process.poll() is None:
            self.memory = max(self.memory, peak_of(self._process.pid))
            self.disk = max(self.disk, sum(map(size_of, self._folders)))
            time.sleep(0.2)


def peak_of(pid: int) -> int:
    """Bytes that a process has had resident at the most (proc_pid_status(5), VmHWM)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def size_of(folder: Path) -> int:
    """Bytes of disk that a folder takes."""
    sizes = []
    for path in folder.rglob("*"):
        try:
            sizes.append(path.lstat().st_blocks * 512)
        except OSError:  # it is gone
            continue
    return sum(sizes)
