"""A registry that fails, in the place of the node's own: `python3 -m lab.stand_in.registry MODE`.

MODE is `refuse` (it ends at once: nothing listens), `full` (no more downloads are allowed), and for
layers `slow` or `cut` (off in the middle); what else it is asked comes from the storage of the real one,
which it serves as a second process.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from lab.vllm import await_port

ADDRESS = ("10.0.0.1", 5000)
BEHIND = "127.0.0.1:5001"
FULL = {"errors": [{"code": "TOOMANYREQUESTS", "message": "You have reached your pull rate limit."}]}


class Handler(BaseHTTPRequestHandler):
    """One question to the registry."""

    mode = ""

    def do_GET(self) -> None:
        """Hand the question on, and spoil the answer."""
        if self.mode == "full":
            self._answer(429, {"Content-Type": "application/json"}, json.dumps(FULL).encode())
            return
        asked = {
            name: ", ".join(self.headers.get_all(name, [])) for name in ("Accept", "Range") if name in self.headers
        }
        try:
            request = urllib.request.Request(f"http://{BEHIND}{self.path}", headers=asked, method=self.command)
            with urllib.request.urlopen(request, timeout=30) as answer:
                self._answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            self._answer(error.code, dict(error.headers), error.read())

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if "/blobs/" not in self.path or len(content) < 2**20:
            self.wfile.write(content)
            return
        self.wfile.write(content[: len(content) // 2])
        if self.mode == "slow":
            time.sleep(60)
            self.wfile.write(content[len(content) // 2 :])


def main() -> None:
    """Serve until killed."""
    mode = sys.argv[1]
    if mode == "refuse":
        return
    config = json.loads(Path("/run/registry.json").read_text())
    config["http"]["addr"] = BEHIND
    behind = Path("/run/registry-behind.json")
    behind.write_text(json.dumps(config))
    Handler.mode = mode
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the process behind ends too
    real = subprocess.Popen(["docker-registry", "serve", str(behind)], stdout=subprocess.DEVNULL)
    try:
        await_port("127.0.0.1", 5001, 20)
        ThreadingHTTPServer(ADDRESS, Handler).serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        real.terminate()


if __name__ == "__main__":
    main()
