#!/bin/sh
# Throws what the API's own description allows, and what it doesn't, at a running gateway, and fails on
# any answer that the description doesn't have. Uses the dev build; takes under three minutes.
#
#   .ci/schemathesis.sh              SCANGATE_BIN, MAX_EXAMPLES and SEED change what it runs
set -eu
cd "$(dirname "$0")/.."
root=$PWD

venv=$root/target/ci-venv
version=4.32.5
if [ "$("$venv/bin/st" --version 2>/dev/null)" != "st, version $version" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version"
fi

binary=${SCANGATE_BIN:-target/debug/scangate}
[ -n "${SCANGATE_BIN:-}" ] || cargo build --quiet --bin scangate

work=$(mktemp -d)
gateway=
stop() {
    status=$?
    trap - EXIT
    if [ -n "$gateway" ]; then
        kill -TERM "$gateway" 2>/dev/null || true
        wait "$gateway" || { echo "the gateway did not end well" >&2; status=1; }
    fi
    [ "$status" -eq 0 ] || tail -n 20 "$work/log" >&2
    rm -rf "$work"
    exit "$status"
}
trap stop EXIT
trap 'exit 130' INT TERM

# There before the gateway is, since it is read while that starts.
: >"$work/out"
# No rate limits: the run is one device that sends as fast as it can. Nor is it asked whether a busy machine reads
# a frame in time, which is the load test's question: readers have a share of their own, and time.
SCANGATE_LIMITS__DEVICE_SCANS_PER_S=0 SCANGATE_FRAMES__DEVICE_MS_PER_S=0 SCANGATE_FRAMES__PRIORITY=low \
    SCANGATE_FRAMES__DEADLINE_MS=8000 SCANGATE_FRAMES__WAIT_MS_MAX=7000 "$binary" serve --data-dir "$work/data" \
    --listen 127.0.0.1:0 --admin 127.0.0.1:0 --services 127.0.0.1:0 >"$work/out" 2>"$work/log" &
gateway=$!
public=
for _ in $(seq 100); do
    public=$(sed -n 's|^scangate listens on \(http://[^ ]*\).*|\1|p' "$work/out")
    [ -z "$public" ] || break
    kill -0 "$gateway" || exit 1
    sleep 0.1
done
[ -n "$public" ] || { echo "the gateway did not start" >&2; exit 1; }
admin=$(sed -n 's|.*(admin \(http://[^)]*\)).*|\1|p' "$work/out")
services=$(sed -n 's|^services on \(http://.*\)|\1|p' "$work/out")
[ -n "$services" ] || { echo "the services did not start" >&2; exit 1; }
token=$("$binary" issue device --data-dir "$work/data" --place ci-gate)
phone=$("$binary" issue device --data-dir "$work/data" --person 001093029317)
officer=$("$binary" keys admin ci-officer --scope services,trace,approve --data-dir "$work/data")
kill -HUP "$gateway"

# The served document is the printed one.
curl -sf "$public/openapi.json" >"$work/served.json"
"$binary" openapi | cmp - "$work/served.json"

export SCHEMATHESIS_HOOKS=schemathesis_hooks PYTHONPATH="$root/.ci" PYTHONDONTWRITEBYTECODE=1
run() {
    url=$1
    shift
    # It keeps what it found under the working directory.
    (cd "$work" && "$venv/bin/st" --config-file "$root/.ci/schemathesis.toml" run "$work/served.json" --url "$url" "$@" \
        --header "Authorization: Bearer $token" --max-examples "${MAX_EXAMPLES:-300}" --seed "${SEED:-1}" \
        --generation-database none --request-timeout 10 --no-color)
}
# Of the services, each sort of caller sees its own part: what a stranger is refused is no matter of the schema.
run_services() {
    token=$1
    MAX_EXAMPLES=$((${MAX_EXAMPLES:-300} / 6)) run "$services" --include-tag services \
        --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance
}
place=$token
run "$public" --exclude-tag admin --exclude-tag services
run_services "$place"
run_services "$phone"
run_services "$officer"
token=$(cat "$work/data/keys/feed-token")
# A drain ends the gateway, and the stream of statistics has no end.
run "$admin" --include-tag admin --exclude-path /v1/drain --exclude-path /v1/stats/stream
