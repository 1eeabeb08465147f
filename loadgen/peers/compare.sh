#!/usr/bin/env bash
# make compare: three cachenodes beside three servers each of etcd, NATS and Redis, and one page of it. etcd and NATS come as
# Go modules; redis-server has to be installed, as Debian's package is named, and INSTALL=1 does that where apt-get may. Where
# it is not there the comparison says so and goes on without it. Arguments: flags of bin/peers compare.
set -euo pipefail
cd "$(dirname "$0")/../.."
go=${GO:-go}

if [ "${INSTALL:-}" = 1 ] && ! command -v redis-server >/dev/null; then
  if ! command -v apt-get >/dev/null; then
    echo "compare: redis-server is not installed, and there is no apt-get to install it"
  else
    sudo=""
    if [ "$(id -u)" != 0 ]; then sudo="sudo -n"; fi
    log=$(mktemp)
    # RUNLEVEL=1 keeps the package from starting a server of its own.
    if ! (timeout 180 $sudo apt-get update && timeout 300 $sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y --no-install-recommends redis-server) >"$log" 2>&1; then
      tail -3 "$log"
      echo "compare: redis-server could not be installed, see above"
    fi
    rm -f "$log"
  fi
fi
(cd loadgen/peers && $go build -trimpath -o ../../bin/peers .)
exec bin/peers compare --out "${OUT:-out}" "$@"
