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
again() {
  echo "== $*"
  "$bin/scangate-loadtest" "$@" "${small[@]}" || run "$@"
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
# A ratio of tails on a machine that others use as well: broken is what is broken twice in a row.
again frames --amount 3
run kill-loop --amount 4
# The services: each over a restart, beside check-ins.
services() {
  echo "== $*"
  "$bin/scangate-loadtest" "$@" --scangate "$bin/scangate" --results "$results" --seconds 5 || failed+=("$1")
}
beside=(--scans 50 --thresholds loadtest/thresholds.toml)
services trace-storm "${beside[@]}" --checkins 2000 --rate 6 --officers 3
services map "${beside[@]}" --places 60 --rate 100
services feedback "${beside[@]}" --rate 15 --persons 20
services morning --rate 100 --connections 16 --persons 50
echo "== hostile"
"$bin/scangate-loadtest" hostile --frames 5000 || failed+=(hostile)
if [ "${SCANGATE_CI_CQL:-1}" != 0 ]; then
  run outage --amount 5
  run paused --amount 5
  run two-gateways
fi
# The comparison, small: the peer must know what it acknowledged after a kill, nothing costs less than nginx's empty
# answer, and up to the answer scangate may not cost more than the usual way.
loadtest/peers/install nginx
benthos=target/ci-bin/benthos; [ -x "$benthos" ] || benthos=none
compare() {
  "$bin/scangate-loadtest" compare --scangate "$bin/scangate" --peer "$bin/scangate-peer" --runtimes epoll --seconds 1 \
    --rounds 1 --open-rate 500 "$@"
}
echo "== compare, small"
compare --benthos "$benthos" --parts single,batch --batch-lines 100 --by-peer-max 1.0 --results "$results" ||
  failed+=(compare)
echo "== compare, with a limit that can't hold"
broken=$(compare --nginx none --benthos none --parts single --by-peer-max 0.01 --results "$results/negative") &&
  failed+=("compare: a broken limit passes")
grep 'BROKEN: ' <<<"$broken" || failed+=("compare: a broken limit isn't named")
echo "== scale, small"
"$bin/scangate-loadtest" scale --scangate "$bin/scangate" --runtime epoll --small --results "$results" || failed+=(scale)
echo "== model"
"$bin/scangate-loadtest" model >/dev/null || failed+=(model)
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}" >&2; exit 1; }
