#!/usr/bin/env bash
# Restarts the nodes of a cluster one after the other, the leader last, without losing anything and without an error at
# clients of the other nodes. It goes on only while all nodes are ready: voters with a fresh copy, in the same cluster as
# at the beginning. Otherwise it stops and touches nothing more.
#
#   rolling-restart.sh COMMAND HOST:PORT HOST:PORT HOST:PORT
#   rolling-restart.sh 'ssh $HOST sudo systemctl restart cachenode' cache-{1,2,3}.example.net:7070
#
# COMMAND is run by sh for each node, with NODE, HOST and PORT in its environment, and has to make the process stop by
# SIGTERM and start again. Token and TLS come from the environment or the file that `cachenode` takes them from
# (CACHE_AUTH_TOKEN, CACHE_CONFIG, …). CACHENODE names the program, default cachenode; PATIENCE is how many seconds to wait
# for readiness, default 120.
set -euo pipefail

cachenode=${CACHENODE:-cachenode}
patience=${PATIENCE:-120}

if [ $# -lt 2 ]; then
  echo "rolling-restart: expected a command and the nodes, see the first lines of $0" >&2
  exit 2
fi
command=$1
shift

stop() {
  echo "rolling-restart: stopped, $1" >&2
  exit 1
}

# within FUNCTION ARGS...: waits until the function succeeds; it says in $why what is missing until then.
within() {
  local deadline=$((SECONDS + patience))
  until "$@"; do
    [ $SECONDS -lt $deadline ] || stop "$why"
    sleep 0.2
  done
}

# field NAME: the value of a field of the JSON on stdin, without quotes, or nothing.
field() { sed -n "s/^ *\"$1\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p"; }

# health NODE: its own words as JSON, in $answer, if it is ready.
health() {
  why="$1 is not ready"
  answer=$("$cachenode" health --ready -o json -t 2s -a "$1" 2>/dev/null)
}

# all_ready NODE...: all of them are ready, and in $cluster; the first time in any, as long as it is one.
all_ready() {
  local node theirs
  for node in "$@"; do
    health "$node" || return
    theirs=$(field cluster <<<"$answer")
    if [ "$theirs" != "${cluster:=$theirs}" ]; then
      why="$node is in cluster $theirs, the others in $cluster"
      return 1
    fi
  done
}

uptime() { field uptime_secs <<<"$answer"; }

# settled NODE: it is ready, and its uptime, in whole seconds, can be told from that of the process that follows it.
settled() {
  health "$1" || return
  why="$1 has only just started"
  [ "$(uptime)" -ge 2 ]
}

# restarted NODE SINCE: it is ready, and its process is younger than the restart: the old one may still be about to stop.
restarted() { health "$1" && [ "$(uptime)" -le $((SECONDS - $2)) ]; }

cluster=
within all_ready "$@"

# Whoever leads when it is stopped hands over. With the leader last that happens once.
leader=$(field leader <<<"$answer")
leader=${leader#*://}
first=() last=()
for node in "$@"; do
  if [ "$node" = "$leader" ]; then last=("$node"); else first+=("$node"); fi
done

for node in "${first[@]}" "${last[@]}"; do
  within all_ready "$@"
  within settled "$node"
  began=$SECONDS
  NODE=$node HOST=${node%:*} PORT=${node##*:} sh -c "$command" || stop "the command failed for $node"
  within restarted "$node" $began
  echo "$node: restarted, ready after $((SECONDS - began)) s"
done
within all_ready "$@"
echo "$# nodes restarted, cluster $cluster"
