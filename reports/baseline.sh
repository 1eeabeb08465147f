#!/usr/bin/env bash
# Measures this commit on this machine, RUNS (6) benchmarks of half a minute each, and keeps the numbers in reports/baselines/NAME:
# the summary and the environment of each run, nothing else. reports gate reports/baselines/NAME DIR compares with them.
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:?expected: reports/baseline.sh NAME, such as that of the machine}
out=${OUT:-out}/baseline-$name
into=reports/baselines/$name
rm -rf "$out" "$into"
mkdir -p "$into"
for ((i = 1; i <= ${RUNS:-6}; i++)); do
  bin/loadgen bench --quiet --out "$out" --seed "$i" >/dev/null
  run=$(ls -d "$out"/bench-* | tail -1)
  mkdir "$into/$(printf %02d "$i")"
  cp "$run/summary.json" "$run/env.json" "$into/$(printf %02d "$i")/"
  echo "run $i of ${RUNS:-6}" >&2
done
bin/reports gate "$into" "$into" | head -30
