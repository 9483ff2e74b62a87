#!/usr/bin/python3
"""A stand-in for `vllm serve`: it answers as vLLM does, at once, and knows one answer; or it fails as asked.

It runs in the image of `lab.stand_in.image`, on Python alone. Its only setting is STAND_IN in its
environment, the name of a fault, of one GPU's server alone with its number, such as "dies@1"; see `FAULTS`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SOME = 8  # texts
ANSWER = "The capital of France is Paris."
FAULTS = {
    "": "none: it serves",
    "dies": "dies while the model is loaded",
    "eats": "takes memory until it is killed",
    "silent": "never gets ready",
    "mute": "accepts connections and never answers",
    "no-json": "answers a chat with a page of HTML",
    "http-500": "answers a chat with status 500",
    "empty": "answers with nothing",
    "garbled": "answers with one character again and again",
    "short-stream": "streams fewer words than it was asked for",
    "endless": "answers with a stream that never ends",
    "floods": "answers a chat with bytes without end, as fast as they are taken",
    "other-model": "lists and serves another model than it was asked for",
    "two-models": "lists a second model",
    "dies-later": "dies at the first question that is no trial",
    "no-number": "gives log probabilities that are no numbers",
    "other-scores": "gives other log probabilities than it should",
    "drifts": "gives other log probabilities once it was asked for some",
    "refuses-scores": "gives no log probabilities of a prompt",
    "dies-of-scores": "dies when it is asked for the log probabilities of a prompt",
    "refuses-salt": "does not know cache_salt",
    "dies-together": "dies if several GPUs share the model",
    "other-scores-together": "gives other log probabilities if several GPUs share the model",
    "talks": "writes 50 MB into its log before it serves",
    "talks-on": "writes 200 MB",
}


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    model = ""
    fault = ""
    scored = 0

    def do_GET(self) -> None:
        """Answer /health, /v1/models, /version and /metrics."""
        if self.fault == "mute":
            time.sleep(10**6)
        match self.path:
            case "/health":
                self.reply(503 if self.fault == "silent" else 200)
            case "/v1/models" if self.allowed():
                names = [self.model, "another/model"] if self.fault == "two-models" else [self.model]
                self.reply(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in names]})
            case "/version":
                self.reply(200, {"version": "0.0.0+stand-in"})
            case _ if self.allowed():
                self.reply(404, {"error": {"message": "Not Found", "code": 404}})

    def do_POST(self) -> None:
        """Answer a chat."""
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if not self.allowed():
            return
        if asked.get("model") != self.model:
            message = f"The model `{asked.get('model')}` does not exist."
            self.reply(404, {"error": {"message": message, "type": "NotFoundError", "param": "model", "code": 404}})
            return
        if self.fault == "refuses-salt" and "cache_salt" in asked:
            self.reply(400, {"error": {"message": "Parameter cache_salt is not supported.", "code": 400}})
            return
        if self.path == "/v1/completions":
            self.score(str(asked["prompt"]).split())
            return
        most, least = int(asked.get("max_tokens", 16)), int(asked.get("min_tokens", 0))
        self.misbehave(most)
        words = {"empty": "", "garbled": "!" * 64}.get(self.fault, ANSWER).split()
        words = (words + ["Paris"] * least)[: max(least, len(words))][:most]
        usage = {"prompt_tokens": 16, "completion_tokens": len(words), "total_tokens": 16 + len(words)}
        if asked.get("stream"):
            if self.fault == "short-stream":
                usage["completion_tokens"] = 1
            self.stream(words, usage)
            return
        said = {"role": "assistant", "content": " ".join(words)}
        choice = {"index": 0, "message": said, "finish_reason": "stop"}
        if asked.get("logprobs"):
            choice["logprobs"] = {"content": [{"token": word, "logprob": -0.5} for word in words]}
        self.reply(200, {"object": "chat.completion", "model": self.model, "choices": [choice], "usage": usage})

    def score(self, words: list[str]) -> None:
        """Give the log probabilities of a text: each word is a token, and its number says how likely it is."""
        if self.fault == "refuses-scores":
            self.reply(400, {"error": {"message": "prompt_logprobs are not supported.", "code": 400}})
            return
        if self.fault == "dies-of-scores":
            print("EngineDeadError: EngineCore encountered an issue. See stack trace (above).", flush=True)
            os._exit(1)
        Handler.scored += 1
        other = self.fault == "other-scores" or (self.fault == "drifts" and Handler.scored > SOME)
        shift = float("nan") if self.fault == "no-number" else -1.0 if other else 0.0
        pairs = [(zlib.crc32(word.encode()) % 49152, word) for word in words or [""]]
        scores = [{str(token): {"logprob": shift - token % 97 / 30, "decoded_token": word}} for token, word in pairs]
        choice = {"index": 0, "text": " and", "finish_reason": "length", "prompt_logprobs": [None, *scores]}
        usage = {"prompt_tokens": len(scores) + 1, "completion_tokens": 1, "total_tokens": len(scores) + 2}
        self.reply(200, {"object": "text_completion", "model": self.model, "choices": [choice], "usage": usage})

    def stream(self, words: list[str], usage: dict[str, int]) -> None:
        """Answer word by word, as server-sent events; the last one says what was used."""
        parts: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": {"content": word}}]} for word in words]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for part in (*parts, {"choices": [], "usage": usage}):
            event = {"object": "chat.completion.chunk", "model": self.model, **part}
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def misbehave(self, tokens: int) -> None:
        """Inject the faults of the answer itself."""
        match self.fault:
            case "no-json":
                self.reply(200, "<html><body>It works!</body></html>")
            case "http-500":
                self.reply(500, {"error": {"message": "EngineCore encountered an issue.", "code": 500}})
            case "endless" | "floods":
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Connection", "close")
                self.end_headers()
                while True:
                    self.wfile.write(b" " * (65536 if self.fault == "floods" else 1))
                    time.sleep(0 if self.fault == "floods" else 0.2)
            case "dies-later" if tokens > 1:
                print("EngineDeadError: EngineCore encountered an issue. See stack trace (above).", flush=True)
                os._exit(1)

    def allowed(self) -> bool:
        """Whether the caller has the key, as vLLM's --api-key and VLLM_API_KEY ask for it; refuses if not."""
        key = os.environ.get("VLLM_API_KEY")
        if not key or self.headers.get("Authorization") == f"Bearer {key}":
            return True
        self.reply(401, {"error": "Unauthorized"})
        return False

    def reply(self, status: int, body: Any = "") -> None:
        """Send an answer."""
        content = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def main() -> None:
    """Serve, or fail."""
    parser = argparse.ArgumentParser(prog="vllm")
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--tensor-parallel-size", type=int, default=1)
    words, _ = parser.parse_known_args()  # vLLM has hundreds of options, and none of them matters here
    fault, _, gpu = os.environ.get("STAND_IN", "").partition("@")
    if fault not in FAULTS:
        sys.exit(f"vllm (stand-in): STAND_IN={fault} is no fault; there are {', '.join(FAULTS)}")
    if gpu not in ("", os.environ.get("NVIDIA_VISIBLE_DEVICES")):
        fault = ""
    print(f"INFO stand-in for vLLM: serves {words.model} (STAND_IN={fault})", flush=True)
    if fault.endswith("-together"):
        fault = fault.removesuffix("-together") if words.tensor_parallel_size > 1 else ""
    if fault == "dies":
        time.sleep(1)
        sys.exit("RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}")
    if fault == "eats":
        held = []
        while True:
            held.append(bytearray(os.urandom(1 << 20)) * 64)
    if fault.startswith("talks"):
        for number in range(50_000 if fault == "talks" else 200_000):
            print(f"INFO {number:>8} {'blah ' * 197}")
    Handler.model = "another/model" if fault == "other-model" else words.model
    Handler.fault = fault
    ThreadingHTTPServer.request_queue_size = 64  # five at once are few where a server's speed is measured
    server = ThreadingHTTPServer(("", words.port), Handler)
    print("INFO:     Application startup complete.", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
