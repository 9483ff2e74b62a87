"""A server of vLLM on this machine, for the scripts beside this file."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.vllm import free_port

NAME, KEY = "any", "any"


@contextmanager
def started(
    python: str, model: str, *options: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    """The process, the port and the log of a server that is being started; it is ended with the block."""
    port = free_port()
    words = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", NAME]
    words += ["--max-model-len", "2048", "--host", "127.0.0.1", "--port", str(port), "--api-key", KEY, *options]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with log.open("wb") as sink:
            process = subprocess.Popen(
                words, stdout=sink, stderr=sink, start_new_session=True, env={**os.environ, **environment}
            )
        try:
            yield process, port, log
        finally:
            process.terminate()
            process.wait(60)
