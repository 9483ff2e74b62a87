"""A text of the field through the whole catalogue: which failure modes name it, and by which line.

python -m tests.cause log < server.log                             the test server's log
python -m tests.cause 'docker pull vllm/vllm-openai' < words.txt    a command in the container
python -m tests.cause --node 'pct start 920' < words.txt           a command on the node
python -m tests.cause http < answer.json                           the server's answer to a chat
"""

from __future__ import annotations

import sys

from fixtures.diagnosis.failure_modes import Finding, diagnose

DIED = "the server died while waiting for /health to answer 200 (exit status 1); its log shows why"


def texts(words: list[str], text: str) -> dict[str, str]:
    """What a check would have heard."""
    said = words[-1]
    if said == "log":
        return {"check": "test_server_gets_ready[gpu0]", "failure": DIED, "log": text}
    if said == "http":
        return {"check": "test_server_answers[gpu0]", "failure": f"the chat was answered with 400: {text}"}
    place = "on pve" if "--node" in words else "in container 920"
    status = 125 if said.startswith("docker run") else 1
    return {"failure": f"`{said}` {place} ended with {status}: {text}"}


def shown(finding: Finding) -> str:
    """A failure mode with the line that it was recognised by."""
    return f"{finding.mode.id} {finding.mode.what}\n  by:  {finding.places[0][1]}\n  fix: {finding.mode.fix}"


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    found = diagnose(texts(sys.argv[1:], sys.stdin.read()))
    print("\n".join(map(shown, found)) or "no known failure mode fits")
