#!/usr/bin/env bash
# make browser-test: the sample pages in headless Chromium. It needs Node.js, npm and Chromium, as Debian's packages are named;
# INSTALL=1 installs what is not there, where apt-get may. Where something cannot be had it says what and why, and is skipped.
# Argument: a directory for screenshots, to look at.
set -euo pipefail
cd "$(dirname "$0")"
go=${GO:-go}
shots=${1:+$(mkdir -p "$1" && cd "$1" && pwd)}

skip() {
  echo "browser-test: SKIPPED: $*"
  exit 0
}

missing=()
[ -n "${CHROMIUM:-}" ] || command -v chromium >/dev/null || missing+=(chromium)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
if [ ${#missing[@]} -gt 0 ]; then
  [ "${INSTALL:-}" = 1 ] || skip "${missing[*]} not installed; INSTALL=1 installs it with apt-get"
  command -v apt-get >/dev/null || skip "${missing[*]} not installed, and there is no apt-get to install it"
  sudo=""
  if [ "$(id -u)" != 0 ]; then sudo="sudo -n"; fi
  log=$(mktemp)
  if ! (timeout 180 $sudo apt-get update && DEBIAN_FRONTEND=noninteractive timeout 600 $sudo apt-get install -y --no-install-recommends "${missing[@]}" fonts-liberation) >"$log" 2>&1; then
    tail -3 "$log"
    skip "${missing[*]} could not be installed, see above"
  fi
fi
if [ ! -d node_modules/playwright-core ]; then
  log=$(mktemp)
  if ! timeout 180 npm ci --no-audit --no-fund >"$log" 2>&1; then
    tail -3 "$log"
    skip "playwright-core could not be fetched with npm, see above"
  fi
fi
major=$(node -p 'process.versions.node.split(".")[0]')
[ "$major" -ge 20 ] || skip "Node.js $major, playwright-core needs 20"

pages=$(mktemp -d)
trap 'rm -rf "$pages"' EXIT
(cd ../.. && $go test -count=1 -run 'TestDir|TestComparison|TestBaseline|TestLongRunStaysSmall|TestBusyRunStaysSmall' ./reports/render -args -samples "$pages")
export CHROMIUM=${CHROMIUM:-$(command -v chromium)}
timeout 600 node check.mjs "$pages" $shots
