#!/usr/bin/env bash
# Every scenario at a small size, with its audit and thresholds: ci.sh [DIRECTORY-OF-BINARIES] [RESULTS]
# Exit code 1 when any of them breaks a promise or a limit. The three that need a CQL database are left out with
# SCANGATE_CI_CQL=0.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=${1:-target/release}; results=${2:-target/loadtest-ci}
small=(--scangate "$bin/scangate" --results "$results" --thresholds loadtest/thresholds.toml --quiet
  --rate 400 --seconds 5 --connections 16 --devices 50 --phones 10 --sg1-persons 50)
failed=()
run() {
  echo "== $*"
  "$bin/scangate-loadtest" "$@" "${small[@]}" || failed+=("$1")
}
run steady
run steady --http 2 --tls
run steady --batch 100 --runtime epoll
run rush-hour
run backlog --amount 60
run reconnect-storm
run slowloris --amount 300
run poison --amount 2
run soak
run frames --amount 3
run kill-loop --amount 4
echo "== hostile"
"$bin/scangate-loadtest" hostile --frames 5000 || failed+=(hostile)
if [ "${SCANGATE_CI_CQL:-1}" != 0 ]; then
  run outage --amount 5
  run paused --amount 5
  run two-gateways
fi
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}" >&2; exit 1; }
