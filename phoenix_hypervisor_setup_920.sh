#!/usr/bin/env bash
# The set-up script of container 920, as phoenix_establish_hypervisor.sh calls it: builds and proves the template.
#
#   phoenix_hypervisor_setup_920.sh CTID
#
# Exit codes are the orchestrator's: 0 done or already there, 1 general, 2 arguments or settings, 3 the container or its
# parent is missing, 4 Docker or NVIDIA, 5 vLLM, 6 shutdown or start, 7 snapshot. What is said goes to the log as well.
# PHOENIX_CONFIG, PHOENIX_LOG, PHOENIX_REPORTS and PHOENIX_PYTHON name others; PYTEST_ADDOPTS holds more options.
set -uo pipefail

here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
log=${PHOENIX_LOG:-/var/log/phoenix_hypervisor.log}
config=${PHOENIX_CONFIG:-}
: "${config:=$([ -e /usr/local/phoenix_hypervisor/etc/phoenix_lxc_configs.json ] &&
  echo /usr/local/phoenix_hypervisor/etc/phoenix_lxc_configs.json || echo "$here/phoenix_lxc_configs.json")}"

say() {
  while IFS= read -r line; do
    printf '%s [%s] %s: %s\n' "$(date '+%Y-%m-%d %H:%M:%S')" "${1:-INFO}" "$(basename "$0")" "$line"
  done
}
give_up() {
  echo "$2" | say ERROR | tee -a "$log" >&2
  exit "$1"
}

touch "$log" 2>/dev/null || { echo "$log can't be written; going on without it" >&2 && log=/dev/null; }
[ $# = 1 ] || give_up 2 "usage: $(basename "$0") CTID"
[[ $1 =~ ^[1-9][0-9]*$ ]] || give_up 2 "CTID: '$1' is not a positive whole number"
[ -d "$here/tests_$1" ] || give_up 2 "CTID: no suite builds container $1; there is no $here/tests_$1"

python=
for each in "${PHOENIX_PYTHON:-}" "$here/venv/bin/python" "$here/.venv/bin/python"; do
  if [ -n "$each" ] && "$each" -c 'import pytest, testinfra' 2>/dev/null; then
    python=$each
    break
  fi
done
[ -n "$python" ] || give_up 1 "no virtual environment with the suite's packages; make it with $here/.ci/install"

reports=${PHOENIX_REPORTS:-$here/reports}
before=$(readlink "$reports/latest")
cd "$here" && "$python" -m pytest "tests_$1" --color=no --override-ini="lxc_configs=$config" \
  --override-ini="report_folder=$reports" 2>&1 | say | tee -a "$log"
status=${PIPESTATUS[0]}
[ "$status" != 4 ] || exit 2 # the command line, a setting or the declaration
after=$(readlink "$reports/latest")
[ "$before" != "$after" ] || give_up 1 "no run was made: no check was executed; PYTEST_ADDOPTS is '${PYTEST_ADDOPTS:-}'"
code=$("$python" -m fixtures.report.orchestrator "$reports/latest") || exit 1
if [ "$code" = 0 ] && [ "$status" != 0 ]; then code=1; fi # what the record says is not all: a report was not written
exit "$code"
