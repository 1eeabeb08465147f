# Everything here needs Go and make, nothing else: no protoc, no Docker, no root. (`make race` also needs a C compiler,
# as the race detector does.) Binaries go to bin/, runs to out/.

GO     ?= go
OUT    ?= out
# Extra arguments, e.g. make test TESTFLAGS='-run Snapshot -v'
TESTFLAGS  ?=
# A package that hangs says where within this time instead of holding everything up.
TIMEOUT    ?= 10m
BENCHFLAGS ?=
CHAOSFLAGS ?=
SEEDS      ?= 1-200
JOBS       ?= 2
LONGEST    ?= 60s
# What make gate compares.
BASE       ?= HEAD~1
HEAD       ?= HEAD

COMMANDS := cachenode loadgen chaos reports
FAILOVER := kill kill-loaded isolated paused term switch
HOSTILE  := overload-10x idle-streams hostile-clients hostile-clients-tls
CALM     := idle latency-100-jitter-100 loss-5pct reset-1s stall-250ms gogc-5

.DEFAULT_GOAL := help
.PHONY: help build test race bench perf compare compare-check self sidebyside saturate sim mutants soak smoke gate gate-calibrate baseline browser-test scenarios hostile drill examples-check deploy-check lint generate tidy verify clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/cachenode, bin/loadgen, bin/chaos and bin/reports
	$(GO) build -trimpath -o bin/ $(COMMANDS:%=./%)

test: ## run all tests
	$(GO) test -timeout $(TIMEOUT) $(TESTFLAGS) ./...

race: ## run all tests under the race detector
	$(GO) test -race -timeout $(TIMEOUT) $(TESTFLAGS) ./...

bench: build ## three nodes on this machine: every level, then as fast as it goes, then a killed leader; about a minute
	bin/loadgen bench --out $(OUT) $(BENCHFLAGS)
	bin/chaos run --out $(OUT) scenarios/leader-kill.yaml

self: build ## the load generator measures itself: its own rate, and a bare stream beside the tightest client; half a minute, idle machine
	bin/loadgen bench --self --out $(OUT) $(BENCHFLAGS)

perf: build ## three nodes on this machine beside a bare stream: rates, latencies, processor time, allocations, profiles; six minutes, idle machine
	bin/loadgen perf --out $(OUT) $(BENCHFLAGS)

# A module of its own, so that no cachenode depends on what it is compared with.
compare: build ## three nodes beside three servers each of etcd, NATS and Redis, in turns, with one page of it; INSTALL=1 installs redis-server; ten minutes, idle machine
	GO=$(GO) OUT=$(OUT) INSTALL=$(INSTALL) loadgen/peers/compare.sh $(COMPAREFLAGS)

compare-check: ## vet and tests of what make compare runs, on three real servers of each; CHECKFLAGS=-short starts none
	cd loadgen/peers && $(GO) mod verify && $(GO) mod tidy -diff && $(GO) vet ./... && $(GO) test -count=1 -timeout $(TIMEOUT) $(CHECKFLAGS) ./...

saturate: build ## three nodes on this machine: the highest rate of inserts that holds p99 < 5 ms, with its picture; five to ten minutes
	bin/loadgen saturate --out $(OUT) $(BENCHFLAGS)

sidebyside: ## service times by loadgen and by an independent client on the same node, in turns; a minute, idle machine
	$(GO) test -count=1 -run TestSideBySide -v ./loadgen -sidebyside 20s

sim: ## simulated clusters through random faults, SEEDS=1-2000 of them (200 take a minute); a failure names its seed
	SIM_SEEDS=$(SEEDS) $(GO) test -count=1 -timeout 2h -run TestSchedules -v ./cachenode/internal/replication/replicationtest
	GATEWAY_SEEDS=$(SEEDS) $(GO) test -count=1 -timeout 2h -run 'TestSchedules|TestLinearizable$$|TestRetries' -v ./cachenode/internal/gateway

mutants: build ## planted bugs: the simulation has to find those of the core, scenarios those of the node; CHAOSFLAGS=NAME for one; 15 minutes
	$(GO) test -count=1 -timeout 1h -tags mutants -run TestMutants -v ./cachenode/internal/replication/replicationtest
	$(GO) build -trimpath -tags mutants -o $(OUT)/mutants/cachenode ./cachenode
	bin/chaos mutants --cachenode $(OUT)/mutants/cachenode --out $(OUT)/mutants $(CHAOSFLAGS)

# Each round is judged by itself, with the next seed, so the harness needs no more memory after hours than after one.
soak: build ## random faults of all kinds for 40 minutes, five minutes with each seed; CHAOSFLAGS='--seed N --for 8h'
	bin/chaos run --out $(OUT) --keep failed --for 40m --seed 1 $(CHAOSFLAGS) scenarios/soak.yaml

smoke: build ## one short scenario with a fault on real processes, judged by its exit code
	bin/chaos run --out $(OUT) scenarios/smoke.yaml

drill: ## three nodes with TLS under load: certificates and CA are replaced, each node restarted; no operation may fail, a minute
	$(GO) test -count=1 -timeout $(TIMEOUT) -run TestDrill -v ./cachenode -drill

# The shipped ones but for those of failover, calm, hostile and soak, which have targets of their own. Those that take longer than
# LONGEST are scaled to it; those with limits on latency run by themselves, after the others; what is no pass stays in out/.
scenarios: build ## every shipped scenario once, JOBS (2) at a time, one line each; a quarter of an hour
	$(GO) build -trimpath -tags faults -o bin/cachenode-faults ./cachenode
	bin/chaos suite --jobs $(JOBS) --longest $(LONGEST) --out $(OUT) $(filter-out scenarios/failover-% scenarios/calm-% scenarios/soak% $(HOSTILE:%=scenarios/%.yaml),$(wildcard scenarios/*.yaml))

# What they compare is the machine's as much as the node's, so one at a time and nothing beside them.
hostile: build ## ten times more load than there is room for, 10 000 idle streams, every kind of hostile client: what others notice; seven minutes, idle machine
	bin/chaos run --out $(OUT) $(CHAOSFLAGS) $(HOSTILE:%=scenarios/%.yaml)

# Each scenario prints its own verdict; all run, whatever one of them finds. For a quick look:
# make failover CHAOSFLAGS='--duration-scale 0.1'
failover: build ## 220 failovers by kill, kill under load, cut links, SIGSTOP, SIGTERM, operator: how long writes stop; 13 minutes
	bin/chaos run --out $(OUT) $(CHAOSFLAGS) $(FAILOVER:%=scenarios/failover-%.yaml)

calm: build ## no leader may change, no write may fail: idle, slow, lossy, resets, stalls, GC; ten minutes each, an hour in all
	bin/chaos run --out $(OUT) $(CHAOSFLAGS) $(CALM:%=scenarios/calm-%.yaml)

gate: ## is HEAD= (this commit) slower than BASE= (the one before)? Both side by side on this machine, 4 to 7 minutes
	OUT=$(OUT) GO=$(GO) reports/gate.sh $(BASE) $(HEAD)

gate-calibrate: ## how often the gate is wrong: TIMES=20 gates of a commit against itself, 20 with a planted delay, one with planted work; hours, or FOR=40m and again
	OUT=$(OUT) GO=$(GO) reports/gate-calibrate.sh

baseline: build ## measure this commit on this machine and keep it in reports/baselines/NAME=; four minutes, idle machine
	OUT=$(OUT) reports/baseline.sh $(NAME)

browser-test: ## the pages of reports in headless Chromium, where it, Node.js and npm are installed; INSTALL=1 installs them
	GO=$(GO) INSTALL=$(INSTALL) reports/browser/check.sh $(SHOTS)

examples-check: ## the commands of the README files and the clients in other languages, as far as their tools are there
	cachenode/examples/check.sh

deploy-check: ## what is in cachenode/deploy, by promtool, kubectl, systemd-analyze and others where they are; says what it could not check
	cachenode/deploy/check.sh

lint: ## go vet, staticcheck, gofumpt
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	@files=$$($(GO) tool gofumpt -l $$(git ls-files '*.go' ':!*.pb.go')); \
	if [ -n "$$files" ]; then echo "not formatted (go tool gofumpt -w FILE):" >&2; echo "$$files" >&2; exit 1; fi

generate: ## write the generated files again: Go code of the contract, third-party notices
	$(GO) generate ./...

tidy: ## bring go.mod and go.sum up to date
	$(GO) mod tidy

verify: lint generate ## lint, and check that generated files, go.mod and go.sum are up to date and committed
	$(GO) mod verify
	$(GO) mod tidy -diff
	@changed=$$(git status --porcelain); \
	if [ -n "$$changed" ]; then echo "the tree is not clean after 'make generate':" >&2; echo "$$changed" >&2; git --no-pager diff --stat >&2; exit 1; fi

clean: ## remove bin/ and out/
	rm -rf bin $(OUT)
