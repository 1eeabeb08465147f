#!/usr/bin/env bash
# Runs what the README files show, against three nodes started as the README says, on other ports: make examples-check.
# Exit code 1: something does not do what its text says. What needs a program that is not here is skipped, and said so.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
tmp=$(mktemp -d)
nodes=()
failed=0
trap 'kill "${nodes[@]}" 2>/dev/null; wait; rm -rf "$tmp"' EXIT

has() { command -v "$1" >/dev/null 2>&1; }
skip() { printf 'skipped  %s: %s\n' "$1" "$2"; }

# expect WHAT PATTERN COMMAND...: the command succeeds and prints the pattern.
expect() {
  local what=$1 pattern=$2
  shift 2
  if "$@" >"$tmp/out" 2>&1 && grep -q -- "$pattern" "$tmp/out"; then
    printf 'ok       %s\n' "$what"
  else
    printf 'WRONG    %s: expected %s in\n' "$what" "$pattern"
    sed 's/^/         /' "$tmp/out"
    failed=1
  fi
}

# block FILE MARKER N: the N-th block of shell after a marker in a document, with the ports of these nodes.
block() {
  awk -v marker="<!-- $2 -->" -v n="$3" '$0 == marker {seen++} seen == n && /^```/ {if (inside) exit; inside = 1; next} inside' "$1" |
    sed "s/\b707\([123]\)\b/$base\1/g"
}

# Three ports in a row that nobody listens on: BASE1 to BASE3.
while :; do
  base=$((2000 + RANDOM % 1000))
  for n in 1 2 3; do (: <"/dev/tcp/127.0.0.1/$base$n") 2>/dev/null && continue 2; done
  break
done

make build >"$tmp/out" 2>&1 || { cat "$tmp/out"; exit 1; }
# What the block of README.md starts in the background are children of this shell, and end with it.
eval "$(block README.md run 1)" >"$tmp/nodes.log" 2>"$tmp/nodes.err"
status=$?
read -ra nodes <<<"$(jobs -p | tr '\n' ' ')"
expect 'README.md: three nodes, a write and a read' '^42$' sh -c "[ $status = 0 ] && cat '$tmp/nodes.log'"
expect 'README.md: status' 'voter *leader' cat "$tmp/nodes.log"

# grpcurl is a Go program, so it is there wherever modules are.
if ! has grpcurl && GOBIN=$tmp/bin go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4 >"$tmp/out" 2>&1; then
  PATH=$tmp/bin:$PATH
fi
if has grpcurl; then
  expect 'grpcurl: insert' '"modRes": true' bash -c "$(block cachenode/examples/README.md grpcurl 1)"
  expect 'grpcurl: get' '"value": "NDI="' bash -c "$(block cachenode/examples/README.md grpcurl 2)"
  expect 'grpcurl: health' '"status": "SERVING"' bash -c "$(block cachenode/examples/README.md grpcurl 3)"
else
  skip grpcurl "not installed, and could not be: $(tail -n1 "$tmp/out")"
fi

if ! has node || ! has npm; then
  skip 'Node.js' 'there is no node or no npm'
else
  # Not beside the example: a folder of other people's code would become part of this one.
  cp cachenode/examples/nodejs/package.json "$tmp/"
  if (cd "$tmp" && npm install --no-audit --no-fund --no-package-lock) >"$tmp/out" 2>&1; then
    export NODE_PATH=$tmp/node_modules
    expect 'Node.js: example' '^removed$' node cachenode/examples/nodejs/example.js "127.0.0.1:${base}2"
    expect 'Node.js: a wrong token' 'wrong token' sh -c "! CACHE_AUTH_TOKEN=wrong node cachenode/examples/nodejs/example.js 127.0.0.1:${base}1"
    expect 'Node.js: nobody there' 'ECONNREFUSED' sh -c "! node cachenode/examples/nodejs/example.js 127.0.0.1:1"
  else
    skip 'Node.js' "the packages could not be installed: $(grep -m1 . "$tmp/out")"
  fi
fi
exit $failed
