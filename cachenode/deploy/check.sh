#!/usr/bin/env bash
# Checks what is in this folder with what is installed, offline, and says what it could not check: make deploy-check.
# Our own rules are Go tests, which `make test` runs too. Exit code 1: something that was checked is wrong.
set -uo pipefail
cd "$(dirname "$0")" || exit 1
root=$PWD/../..
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0

# check WHAT COMMAND...: runs it quietly; what it prints is shown if it fails.
check() {
  local what=$1
  shift
  if "$@" >"$tmp/out" 2>&1; then
    printf 'ok           %s\n' "$what"
  else
    printf 'WRONG        %s\n' "$what"
    sed 's/^/             /' "$tmp/out"
    failed=1
  fi
}

# missing WHAT WHY
missing() { printf 'not checked  %s: %s\n' "$1" "$2"; }

has() { command -v "$1" >/dev/null 2>&1; }

check 'our own rules, against three nodes' env DEPLOY_METRICS="$tmp/metrics" go test -count=1 .

if has promtool; then
  check 'alerts: promtool check rules' promtool check rules prometheus/alerts.yaml
  check 'alerts: promtool test rules' promtool test rules prometheus/alerts_test.yaml
  check 'scraping: promtool check config' promtool check config prometheus/prometheus.yaml
  for n in 1 2 3; do
    [ -s "$tmp/metrics.$n" ] && check "metrics of node $n: promtool check metrics" sh -c "promtool check metrics <'$tmp/metrics.$n'"
  done
else
  missing 'alerts, scraping, metrics' 'there is no promtool (Debian: prometheus)'
fi

if has prometheus; then
  check 'dashboard and alerts: every query returns data' env DEPLOY_PROMETHEUS=prometheus go test -count=1 -v -run TestQueriesReturnData .
  grep -o '[0-9]* queries of the dashboard.*' "$tmp/out" | sed 's/^/             /'
else
  missing 'dashboard and alerts: that their queries return data' 'there is no prometheus; that their metrics exist is checked above'
fi

if has kubectl; then
  for dir in base trial; do
    check "kustomize/$dir: kubectl kustomize" sh -c "kubectl kustomize kustomize/$dir >'$tmp/$dir.yaml'"
  done
elif has kustomize; then
  for dir in base trial; do
    check "kustomize/$dir: kustomize build" sh -c "kustomize build kustomize/$dir >'$tmp/$dir.yaml'"
  done
else
  missing 'kustomize' 'there is neither kubectl nor kustomize'
fi
# The code of who reads them: a module of its own, since Kubernetes, Compose and BuildKit are no dependencies of a cache.
if (cd schema && go mod download) >"$tmp/out" 2>&1; then
  for dir in base trial; do
    [ -s "$tmp/$dir.yaml" ] && check "kustomize/$dir: the validation of an API server" sh -c "cd schema && go run . kubernetes <'$tmp/$dir.yaml'"
  done
  check 'compose.yaml: fields that Compose knows' sh -c 'cd schema && CACHE_AUTH_TOKEN=x go run . compose ../compose.yaml'
  check 'Dockerfile: the rules of docker build --check' sh -c 'cd schema && go run . dockerfile ../Dockerfile'
else
  missing 'kustomize by an API server, fields of compose.yaml, Dockerfile: docker build --check' 'the modules of schema/ could not be loaded'
fi
missing 'kustomize on a cluster' 'that takes one: kubectl apply --dry-run=server -k kustomize/base'

if has systemd-analyze; then
  # verify wants the program to be there; the path is replaced by that of something that is.
  for unit in cachenode.service cachenode@.service; do
    sed "s,^ExecStart=/usr/local/bin/cachenode,ExecStart=$(command -v true)," "systemd/$unit" >"$tmp/$unit"
  done
  for unit in cachenode.service cachenode@.service; do
    check "$unit: systemd-analyze verify" systemd-analyze verify --man=no "$tmp/$unit"
    check "$unit: systemd-analyze security, exposure 2 at most" systemd-analyze security --offline=true --threshold=20 "$tmp/$unit"
  done
  missing 'the units under systemd' 'that takes a machine that it runs'
else
  missing 'systemd units' 'there is no systemd-analyze'
fi

if has hadolint; then
  check 'Dockerfile: hadolint' hadolint Dockerfile
else
  missing 'Dockerfile: hadolint' 'it is not installed; our own rules and those of docker build --check are checked above'
fi
if has docker && docker info >/dev/null 2>&1; then
  check 'Dockerfile: docker build' docker build -q -f Dockerfile -t cachenode:deploy-check "$root"
else
  missing 'Dockerfile: that it builds' 'there is no Docker engine; its one RUN that compiles is checked below'
  check 'Dockerfile: the program is static' sh -c "
    cd '$root' && CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o '$tmp/cachenode' ./cachenode &&
    ! ldd '$tmp/cachenode'"
fi
if has shellcheck; then
  check 'scripts: shellcheck' shellcheck check.sh rolling-restart.sh
else
  missing 'scripts: shellcheck' 'it is not installed'
fi
exit $failed
