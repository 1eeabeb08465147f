#!/usr/bin/env bash
# Measures how often the gate is wrong: TIMES gates (20) of the current commit against itself, as many with an answer to every
# write held back by a tenth of the p99, and one (CPU_TIMES) with a fifth more processor time for an operation. Each takes as long as
# make gate. What has been done is noted in OUT/calibrate/gates.csv and is not done again, so it can be stopped at any time; with
# FOR=40m it begins no gate that would not be over by then, and says what is left.
set -euo pipefail
{ # bash reads a script as it goes; all of this is read before it starts, so that the file may change meanwhile
cd "$(dirname "$0")/.."

dir=${OUT:-out}/calibrate
mkdir -p "$dir"
log=$dir/gates.csv
if [ ! -s "$log" ]; then echo "kind,number,exit_code,outcome,handicap,seconds,directory" >"$log"; fi

# seconds TEXT: 90s, 40m or 2h.
seconds() {
  [[ $1 =~ ^([0-9]+)(s|m|h)$ ]] || { echo "gate-calibrate: FOR=$1, expected such as 90s, 40m or 2h" >&2; exit 2; }
  case ${BASH_REMATCH[2]} in s) echo "${BASH_REMATCH[1]}" ;; m) echo $((BASH_REMATCH[1] * 60)) ;; h) echo $((BASH_REMATCH[1] * 3600)) ;; esac
}
limit=0
if [ -n "${FOR:-}" ]; then limit=$(seconds "$FOR"); fi

# longest: the seconds that the longest gate so far took; of none, what make gate promises at most.
longest() { awk -F, 'NR > 1 && $6 > max { max = $6 } END { print max ? max : 420 }' "$log"; }

# value FILE METRIC COLUMN: a number of a comparison.csv
value() { awk -F, -v m="$2" -v c="$3" '$2 == m { print $c; exit }' "$1"; }

one() { # KIND NUMBER HANDICAP [VARIABLE=VALUE...]
  local kind=$1 number=$2 handicap=$3 code=0 began=$SECONDS
  shift 3
  if grep -q "^$kind,$number," "$log"; then return; fi
  if ((limit > 0 && SECONDS + $(longest) > limit)); then
    echo "gate-calibrate: $FOR are over; what is left begins with $kind $number: run it again to go on" >&2
    exit 0
  fi
  echo "== $kind $number${handicap:+: $handicap}" >&2
  local out=$dir/$kind-$number
  rm -rf "$out"
  env "$@" OUT="$out" reports/gate.sh HEAD HEAD >"$dir/$kind-$number.txt" || code=$?
  if [ "$code" = 130 ] || [ "$code" = 143 ]; then exit "$code"; fi
  echo "$kind,$number,$code,$(tail -1 "$dir/$kind-$number.txt" | cut -d: -f1 | head -c 40),$handicap,$((SECONDS - began)),$(ls -d "$out"/gate-* | tail -1)" >>"$log"
}

summary() {
  awk -F, 'NR > 1 { n[$1]++; t[$1] += $6; if ($6 > max[$1]) max[$1] = $6
      if ($3 == 98) fail[$1]++; else if ($3 == 96) unknown[$1]++; else if ($4 == "neutral") neutral[$1]++; else if ($3 == 0) pass[$1]++; else other[$1]++ }
    END { print "| what | gates | FAIL | pass | neutral | unknown | mean | longest |"; print "|---|---:|---:|---:|---:|---:|---:|---:|"
      split("aa delay cpu", kinds, " ")
      for (i = 1; i <= 3; i++) { k = kinds[i]; if (n[k]) printf "| %s | %d | %d | %d | %d | %d | %.1f min | %.1f min |\n", k, n[k], fail[k], pass[k], neutral[k], unknown[k] + other[k], t[k] / n[k] / 60, max[k] / 60 } }' "$log"
}
trap summary EXIT

one aa 1 ""
first=$(awk -F, '$1 == "aa" && $2 == 1 { print $7 }' "$log")/comparison.csv
p99=$(value "$first" "fixed rate insert quorum p99" 4)
percpu=$(value "$first" "fixed rate operations per CPU second" 4)
if [ -z "$p99" ] || [ -z "$percpu" ]; then
  echo "gate-calibrate: the first gate measured no p99 or no processor time, see $dir/aa-1.txt: is the machine busy?" >&2
  exit 96
fi
delay=$(awk -v v="$p99" 'BEGIN { printf "%dus", v / 10 / 1000 }')
# Half of the operations are writes, and only those are burdened.
cpu=$(awk -v v="$percpu" 'BEGIN { printf "%dns", 2 * 0.2 * 1e9 / v }')

for ((n = 1; n <= ${CPU_TIMES:-1}; n++)); do one cpu "$n" "$cpu" TAGS=handicap HANDICAP_CPU="$cpu"; done
for ((n = 1; n <= ${TIMES:-20}; n++)); do
  one aa "$n" ""
  one delay "$n" "$delay" TAGS=handicap HANDICAP_DELAY="$delay"
done
exit 0
}
