#!/bin/sh
# The seed's steps as an honest shell script would take them: what `BaseTemplateVLLM-920.md` asks of the script that
# sets 920 up after it was cloned and started. It fails where a step fails, asks for the answer, and polls every ten
# seconds, as such scripts do. It is what the suite is measured against, and is run on the node.
#
#   baseline.sh CTID IMAGE MODEL SNAPSHOT [ARGUMENT-OF-THE-SERVER ...]
set -eu
ctid=$1 image=$2 model=$3 snapshot=$4
shift 4
server=vllm_test_container
begun=$(date +%s.%N)

inside() { pct exec "$ctid" -- "$@"; }
say() { awk -v a="$begun" -v b="$(date +%s.%N)" -v what="$1" 'BEGIN { printf "%8.2f %s\n", b - a, what }'; }

# poll SECONDS EVERY COMMAND ...: until it succeeds
poll() {
  left=$1 every=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$left" -gt 0 ] || { echo "in vain: $*" >&2; exit 1; }
    sleep "$every"
    left=$((left - every))
  done
}

booted() { [ "$(inside systemctl is-system-running)" = running ]; }
serves() { inside docker logs "$server" 2>&1 | grep -q 'Application startup complete'; }
off() { pct status "$ctid" | grep -q stopped; }

poll 120 10 booted
inside systemctl is-active docker >/dev/null
inside docker info >/dev/null
inside nvidia-smi >/dev/null
say 'the inherited stack works'

inside docker pull "$image" >/dev/null
say 'the image is pulled'

# the same model, server and arguments as the suite's
inside docker run --detach --name "$server" --runtime nvidia --gpus all --ipc=host --publish 8000:8000 \
  --mount "type=bind,source=$model,target=$model,readonly" "$image" "$model" --tensor-parallel-size 1 "$@" >/dev/null
poll 600 10 serves
say 'the server is ready'

question='{"model": "'$model'", "temperature": 0, "max_tokens": 64,
  "messages": [{"role": "user", "content": "What is the capital of France?"}]}'
inside curl --silent --fail --header 'Content-Type: application/json' --data "$question" \
  http://localhost:8000/v1/chat/completions | grep -q Paris
say 'it has answered'

inside docker stop "$server" >/dev/null
inside docker rm "$server" >/dev/null
say 'it is stopped and removed'

pct shutdown "$ctid" --timeout 60
poll 60 3 off
pct snapshot "$ctid" "$snapshot"
pct start "$ctid"
poll 60 10 booted
say 'the snapshot is taken, and the container runs again'
