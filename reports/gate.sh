#!/usr/bin/env bash
# Compares two commits on this machine: builds both in worktrees of their own, runs them side by side in rounds, and asks
# reports gate what to make of it.
#
#   reports/gate.sh BASE [HEAD]        HEAD is the current commit by default
#
# The exit code is that of reports gate: 0, 98 for a regression, 96 when nothing can be concluded. What it found is in
# OUT/gate-TIME: report.html, report.md, junit.xml, comparison.csv, and the runs of both sides.
#
# Environment: OUT (out); ROUNDS (10) and as many again for what is inconclusive; RATE, operations per second of the step with a
# fixed rate, by default half of what base bears, which SEARCH (60) seconds are spent on; TAGS, build tags of head, and whatever variables the node then reads. All
# measuring programs are those of the current tree, for both sides: one instrument.
set -euo pipefail
{ # bash reads a script as it goes; all of this is read before it starts, so that the file may change meanwhile
cd "$(dirname "$0")/.."

base=${1:?expected: reports/gate.sh BASE [HEAD]}
head=${2:-HEAD}
rounds=${ROUNDS:-10}
go=${GO:-go}
began=$SECONDS

# Names such as HEAD are looked up once: they may mean something else before the last round.
commit() { git rev-parse --verify --quiet "$1^{commit}" || { echo "gate: $1 is no commit" >&2; exit 2; }; }
base=$(commit "$base")
head=$(commit "$head")
dir=${OUT:-out}/gate-$(date -u +%Y%m%d-%H%M%S)
mkdir -p "$dir/base" "$dir/head"
dir=$(cd "$dir" && pwd)
trees=$(mktemp -d)
cleanup() {
  for side in base head; do git worktree remove --force "$trees/$side" 2>/dev/null || true; done
  rm -rf "$trees"
}
trap cleanup EXIT
say() { printf '%4d s  %s\n' "$((SECONDS - began))" "$*" >&2; }

# Allocations of the hot path are a property of the code, so a few repetitions are enough.
allocations() { # TREE FILE
  (cd "$1" && $go test -run '^$' -bench 'Apply|Get|DecodeInsert|Batch|EncodeAck' -benchmem -benchtime 300x -count 3 \
    ./cachenode/internal/store ./cachenode/internal/wire ./cachenode/internal/server) >"$2" 2>"$2.log" || { cat "$2" "$2.log" >&2; return 1; }
}

say "building base $(git rev-parse --short "$base"), head $(git rev-parse --short "$head")${TAGS:+ with the tags $TAGS}"
$go build -trimpath -o "$trees/bin/" ./loadgen ./chaos ./reports
for side in base head; do
  git worktree add --quiet --detach "$trees/$side" "${!side}"
  tags=""
  if [ "$side" = head ]; then tags=${TAGS:-}; fi
  (cd "$trees/$side" && $go build -trimpath -tags "$tags" -o "$trees/$side.bin" ./cachenode)
done
if [ "$base" != "$head" ]; then
  for side in base head; do allocations "$trees/$side" "$dir/$side/allocs.txt"; done
fi

rate=${RATE:-}
if [ -z "$rate" ]; then
  say "looking for the rate that base bears"
  # A minute is three times what it takes on an idle machine. One on which it takes longer is too busy to tell.
  found=$(timeout --signal INT --kill-after 20 "${SEARCH:-60}" "$trees/bin/loadgen" saturate --quiet --cachenode "$trees/base.bin" --mix insert=50,get=50 --keys 10k --slo 'p99 < 10ms, errors < 0.1%' \
    --rate 4000 --max-rate 100k --step 2s --warmup 500ms --repeats 1 --within 30% --seed 1 --out "$dir" --name saturation) || true
  rate=$(sed -n 's/^highest rate that holds .*: \([0-9]*\)\/s$/\1/p' <<<"$found")
  if [ "${rate:-0}" = 0 ]; then
    say "no rate found that base bears with a p99 below 10ms: the machine is busy, or slow. Going on at 2000/s; where the generator is late latencies are not judged"
    rate=4000
  fi
  rate=$((rate / 2))
fi

# A p99 is judged with a hundred samples beyond it, of inserts as of gets.
each=$((21000 / rate + 1))
each=$((each < 3 ? 3 : each > 8 ? 8 : each))

load() { # ROUND
  "$trees/bin/loadgen" pair --quiet --base "$trees/base.bin" --head "$trees/head.bin" --rate "$rate" --each "${each}s" --seed "$((10#$1))" --out "$dir" --round "$1" >/dev/null ||
    say "round $1: loadgen pair ended with $?" # its verdict is in its result
}

# Both at the same time: they are all but idle, and what else the machine does meets both.
failover() { # ROUND
  for side in base head; do
    {
      "$trees/bin/chaos" run --quiet --seed "$((10#$1))" --cachenode "$trees/$side.bin" --out "$dir/$side/$1" scenarios/gate-failover.yaml >/dev/null ||
        say "round $1: the failover of $side ended with $?"
    } &
  done
  wait
}

judge() { # FLAGS...
  code=0
  "$trees/bin/reports" gate --paired --out "$dir" --title "gate: $(git rev-parse --short "$head") against $(git rev-parse --short "$base")" --command "make gate BASE=$(git rev-parse --short "$base") HEAD=$(git rev-parse --short "$head")${TAGS:+ TAGS=$TAGS} RATE=$rate" \
    "$@" "$dir/base" "$dir/head" >"$dir/gate.txt" || code=$?
}

say "$rounds rounds at $rate operations/s"
for ((i = 1; i <= rounds; i++)); do
  load "$(printf %02d "$i")"
  failover "$(printf %02d "$i")"
done
judge --alpha 0.02 # of the 5 % of false alarms; the rest is for the second judgement
if [ "$code" = 96 ] && grep -q '^inconclusive:' "$dir/gate.txt"; then
  unsure=$(sed -n 's/^inconclusive: //p' "$dir/gate.txt")
  say "$rounds more rounds: $unsure"
  for ((i = rounds + 1; i <= 2 * rounds; i++)); do
    name=$(printf %02d "$i")
    case $unsure in *'fixed rate'* | *'flat out'*) load "$name" ;; esac
    case $unsure in *failover*) failover "$name" ;; esac
  done
  judge --final --alpha 0.03
fi
cat "$dir/gate.txt"
say "done, exit code $code"
exit "$code"
}
