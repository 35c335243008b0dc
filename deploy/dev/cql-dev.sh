#!/usr/bin/env bash
# A real CQL database (Apache Cassandra from Maven Central) for integration tests.
#   cql-dev.sh fetch                download the jars into $SCANGATE_CQL_LIB (once; `start` does it when they are missing)
#   cql-dev.sh start  DIR [N]       start N nodes (default 1) on $CQL_NET.1 .. $CQL_NET.N, port 9042; data, logs and pids under DIR
#   cql-dev.sh stop   DIR           stop every node started under DIR (SIGTERM, then SIGKILL after 30 s)
#   cql-dev.sh status DIR           one line per node: pid, RSS, whether CQL answers; exit 0 only if all answer
#   cql-dev.sh up     DIR I         start node I again (after kill) and wait for CQL
#   cql-dev.sh signal DIR I SIG     send SIG (KILL, STOP, CONT, TERM) to node I's own pid
# Environment: CQL_HEAP (default 512M), CQL_SYNC periodic|batch|group (default batch), CQL_WAIT seconds (default 180), CQL_JMX=1,
#   CQL_NET loopback /24 of the nodes (default 127.0.0; another one lets a second cluster run beside the first),
#   CQL_OWNER a process id: once that process is gone, however it ended, its nodes are stopped,
#   SCANGATE_CQL_LIB where the jars are kept (default ./lib beside this script)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
heap=${CQL_HEAP:-512M}; sync=${CQL_SYNC:-batch}; wait_s=${CQL_WAIT:-180}; net=${CQL_NET:-127.0.0}; lib=${SCANGATE_CQL_LIB:-$here/lib}

die() { echo "cql-dev: $*" >&2; exit 1; }
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN{printf "%.1f", b-a}'; }

# True when ADDR:9042 answers a CQL v4 OPTIONS frame with SUPPORTED (opcode 06): an open port alone is not enough.
cql_ok() {
  local r
  r=$(timeout 3 bash -c 'exec 3<>/dev/tcp/'"$1"'/9042 && printf "\x04\x00\x00\x00\x05\x00\x00\x00\x00" >&3 && head -c 9 <&3 | od -An -tx1 -v' 2>/dev/null) || return 1
  set -- $r
  [ "${1:-}" = 84 ] && [ "${5:-}" = 06 ]
}

# Is node I's recorded process still the one we started? (pid + kernel start time, so a reused pid is never signalled)
alive() {
  local d=$1/node$2 pid st
  [ -s "$d/pid" ] || return 1
  read -r pid st < "$d/pid"
  [ "$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | awk '{print $20}')" = "$st" ] \
    && [ "$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | awk '{print $1}')" != Z ]
}
pid_of() { cut -d' ' -f1 "$1/node$2/pid"; }

conf() { # DIR I N
  local d=$1/node$2 i=$2 n=$3 addr="$net.$2" tok syncl
  mkdir -p "$d"/{data,commitlog,hints,saved_caches,cdc_raw,log,tmp}
  tok=$(awk -v i="$i" -v n="$n" 'BEGIN{printf "%.0f", -9223372036854775808 + (i-1)*18446744073709551616/n}')
  [ "$i" = 1 ] && tok=-9223372036854775807
  case $sync in
    periodic) syncl='commitlog_sync: periodic\ncommitlog_sync_period: 10s';;
    batch)    syncl='commitlog_sync: batch';;
    group)    syncl='commitlog_sync: group\ncommitlog_sync_group_window: 5ms';;
    *) die "CQL_SYNC=$sync?";;
  esac
  sed -e "s|@ADDR@|$addr|g" -e "s|@SEEDS@|$net.1|g" -e "s|@DIR@|$d|g" -e "s|@TOKEN@|$tok|g" -e "s|@SYNC@|$syncl|g" \
    "$here/cassandra.yaml.in" > "$d/cassandra.yaml"
}

launch() { # DIR I
  local dir=$1 i=$2 d=$1/node$2 p
  alive "$dir" "$i" && die "node $i already runs (pid $(pid_of "$dir" "$i"))"
  cql_ok "$net.$i" && die "something else already answers CQL on $net.$i:9042"
  local o=(-Xms"$heap" -Xmx"$heap" -Xss256k -XX:+UseG1GC -XX:MaxGCPauseMillis=200 -XX:+PerfDisableSharedMem
    -XX:MaxDirectMemorySize=256M -XX:+ExitOnOutOfMemoryError -XX:-UsePerfData -Djava.net.preferIPv4Stack=true
    -Djava.io.tmpdir="$d/tmp" -Djdk.attach.allowAttachSelf=true -javaagent:"$(echo "$lib"/jamm-*.jar)"
    -Dio.netty.tryReflectionSetAccessible=true -Dio.netty.allocator.maxOrder=11
    -Dcassandra.config="file://$d/cassandra.yaml" -Dcassandra.storagedir="$d" -Dcassandra.logdir="$d/log"
    -Dlogback.configurationFile="file://$here/logback.xml"
    -Dcassandra-foreground=yes
    -Dcassandra.skip_wait_for_gossip_to_settle=0 -Dcassandra.superuser_setup_delay_ms=0 -Dcassandra.ring_delay_ms=2000)
  [ "${CQL_JMX:-}" = 1 ] && o+=(-Dcassandra.jmx.local.port=$((7198 + i)))
  for p in java.base/jdk.internal.misc java.management.rmi/com.sun.jmx.remote.internal.rmi java.rmi/sun.rmi.registry \
           java.rmi/sun.rmi.server java.sql/java.sql java.base/java.lang.ref jdk.unsupported/sun.misc \
           jdk.compiler/com.sun.tools.javac.file jdk.attach/sun.tools.attach; do o+=(--add-exports "$p=ALL-UNNAMED"); done
  for p in java.base/java.lang.module java.base/jdk.internal.loader java.base/jdk.internal.ref java.base/jdk.internal.reflect \
           java.base/jdk.internal.math java.base/jdk.internal.module java.base/jdk.internal.util.jar \
           jdk.management/com.sun.management.internal java.base/sun.nio.ch java.base/java.io java.base/java.lang.reflect \
           jdk.compiler/com.sun.tools.javac java.base/java.lang java.base/java.util java.base/java.nio; do o+=(--add-opens "$p=ALL-UNNAMED"); done
  # shellcheck disable=SC2086
  setsid "${JAVA_HOME:+$JAVA_HOME/bin/}java" "${o[@]}" ${CQL_JAVA_OPTS:-} -cp "$lib/*" \
    org.apache.cassandra.service.CassandraDaemon >>"$d/log/stdout" 2>&1 </dev/null &
  p=$!
  disown
  sleep 0.1
  echo "$p $(sed 's/.*) //' "/proc/$p/stat" | awk '{print $20}')" > "$d/pid"
  [ -z "${CQL_OWNER:-}" ] || { setsid "$here/cql-dev.sh" tend "$dir" "$i" "$CQL_OWNER" </dev/null >/dev/null 2>&1 & disown; }
}

wait_up() { # DIR I
  local end=$(( $(date +%s) + wait_s ))
  until cql_ok "$net.$2"; do
    alive "$1" "$2" || { tail -n 25 "$1/node$2/log/stdout" "$1/node$2/log/system.log" >&2 || true; die "node $2 died while starting"; }
    [ "$(date +%s)" -lt "$end" ] || { tail -n 25 "$1/node$2/log/system.log" >&2; die "node $2: no CQL after ${wait_s}s"; }
    sleep 0.2
  done
}

cmd=${1:-}; dir=${2:-}
case $cmd in
  fetch) # two test runs may want the jars at once: the second waits, then finds them complete
    mkdir -p "$lib"; lib=$(cd "$lib" && pwd)
    exec 9>"$lib/.lock"; flock 9
    [ -e "$lib/.complete" ] && exit 0
    mvn -B -q -f "$here/pom.xml" -Dcql.lib="$lib" dependency:copy-dependencies
    touch "$lib/.complete"; exit 0;;
  start|stop|status|up|signal|tend) [ -n "$dir" ] || die "$cmd needs DIR"; mkdir -p "$dir"; dir=$(cd "$dir" && pwd);;
  *) sed -n '2,12p' "$0" >&2; exit 2;;
esac
# A cluster keeps the network it was started on, whatever later calls say.
[ "$cmd" != start ] && [ -s "$dir/net" ] && net=$(cat "$dir/net")
case $cmd in
  start)
    echo "$net" > "$dir/net"
    n=${3:-1}; [ -e "$lib/.complete" ] || "$0" fetch
    t0=$(now)
    for ((i=1; i<=n; i++)); do
      conf "$dir" "$i" "$n"; t=$(now); launch "$dir" "$i"
      # one after the other: the seed first, and schema/gossip settle before the next joins
      wait_up "$dir" "$i"; echo "node $i: $net.$i:9042 pid $(pid_of "$dir" "$i") up in $(since "$t") s"
    done
    echo "$n" > "$dir/nodes"; echo "cluster of $n up in $(since "$t0") s";;
  up) t=$(now); launch "$dir" "$3"; wait_up "$dir" "$3"; echo "node $3: pid $(pid_of "$dir" "$3") up in $(since "$t") s";;
  signal) alive "$dir" "$3" || die "node $3 is not running"; kill -s "$4" "$(pid_of "$dir" "$3")"; echo "node $3: sent SIG$4 to $(pid_of "$dir" "$3")";;
  tend) # started by launch, not by hand
    while alive "$dir" "$3"; do kill -0 "$4" 2>/dev/null || exec "$0" stop "$dir"; sleep 1; done;;
  stop)
    for d in "$dir"/node*; do [ -d "$d" ] || continue; i=${d##*/node}
      if alive "$dir" "$i"; then kill -CONT "$(pid_of "$dir" "$i")"; kill -TERM "$(pid_of "$dir" "$i")"; fi; done
    for d in "$dir"/node*; do [ -d "$d" ] || continue; i=${d##*/node}
      for ((k=0; k<300; k++)); do alive "$dir" "$i" || break; sleep 0.1; done
      if alive "$dir" "$i"; then kill -KILL "$(pid_of "$dir" "$i")"; echo "node $i: killed"; else echo "node $i: stopped"; fi
      rm -f "$d/pid"; done;;
  status)
    rc=0; found=0
    for d in "$dir"/node*; do [ -d "$d" ] || continue; found=1; i=${d##*/node}
      if alive "$dir" "$i"; then p=$(pid_of "$dir" "$i"); r=$(awk '/VmRSS/{printf "%d MiB",$2/1024}' "/proc/$p/status")
        if cql_ok "$net.$i"; then a=answers; else a='no answer'; rc=1; fi; echo "node $i: pid $p, RSS $r, CQL $a"
      else echo "node $i: not running"; rc=1; fi; done
    [ "$found" = 1 ] || rc=1; exit $rc;;
esac
