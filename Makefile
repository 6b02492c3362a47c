# What a newcomer types: `make demo`, `make test`. Each sets everything up first, once.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# The Python to build .venv with; `make setup PYTHON=python3.12` picks another.
PYTHON ?= python3
# How long `make soak` goes on.
SOAK_SECONDS ?= 600
# How many rounds of each fault follow.
SOAK_ROUNDS ?= 50
# How many schedules of simulated rounds follow.
SOAK_SCHEDULES ?= 10000
BIN := .venv/bin
# Tests that are not run side by side; all are slow.
OUTSIDE := tests/processes tests/netlab tests/interop
# Tests of processes that wait on the clock more than they compute.
WAITING := tests/processes/test_patience.py
STAMP := .venv/.manyhands-installed
# What pip compiles.
COMPILED := scripts/build_loops.py averaging/codecs/_loops.c
DOCS_STAMP := .venv/.manyhands-docs-installed
INTEROP_STAMP := .venv/interop/installed

# How long `make fuzz` searches, all targets together.
FUZZ_SECONDS ?= 600

# One thread per process in numeric libraries: the tests run many processes on few cores.
export OMP_NUM_THREADS := 1
# Python keeps what it compiled, even where a shell says otherwise: the tests start hundreds of
# processes, and pytest takes longer to compile the tests than to run most of them.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test fuzz check bench netlab soak forty interop docs lint format types layers clean

help: ## list these targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

setup: $(STAMP) ## build .venv with everything in it; skipped when nothing changed

$(STAMP): pyproject.toml constraints.txt scripts/setup scripts/system-packages $(COMPILED)
	@PYTHON="$(PYTHON)" scripts/setup dev
	@touch $@

$(DOCS_STAMP): $(STAMP)
	@PYTHON="$(PYTHON)" scripts/setup docs
	@touch $@

# js-libp2p and go-libp2p, which only the tests need.
$(INTEROP_STAMP): $(STAMP) scripts/interop-setup scripts/system-packages-interop tests/interop/js/package-lock.json
	@scripts/interop-setup

demo: setup ## train a network on handwritten digits with three peers on this machine
	@$(BIN)/manyhands demo

test: setup $(INTEROP_STAMP) netlab-setup ## all tests: those in one process side by side, then real processes, and networks beside them
	@$(BIN)/pytest -n 2 --dist worksteal -m "not soak" tests $(OUTSIDE:%=--ignore=%)
	@# Networks in namespaces, foreign peers and frozen ones wait most of the time, so they do it
	@# beside the processes, which compute.
	@told=$$(mktemp); \
	$(BIN)/pytest -rs -m "not netlab" tests/netlab tests/interop $(WAITING) >$$told 2>&1 & beside=$$!; \
	trap 'kill $$beside 2>/dev/null' INT TERM; \
	$(BIN)/pytest -rs tests/processes $(WAITING:%=--ignore=%); code=$$?; \
	wait $$beside || code=$$?; cat $$told; rm -f $$told; exit $$code

interop: setup $(INTEROP_STAMP) ## speak with js-libp2p and go-libp2p
	@$(BIN)/pytest -rs tests/interop

fuzz: setup ## search for bytes that break a decoder; FUZZ_SECONDS=600 in all
	@$(BIN)/python -m tests.fuzz.run --seconds $(FUZZ_SECONDS)

check: setup lint types layers ## what must hold before each commit; under a minute
	@$(BIN)/pytest -q -n 2 --dist worksteal -m "not slow" --hypothesis-profile=quick tests $(OUTSIDE:%=--ignore=%)

lint: setup ## formatting and ruff's rules
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: setup ## mypy --strict
	@$(BIN)/mypy --strict

layers: setup ## who may import whom
	@$(BIN)/lint-imports

format: setup ## reformat, and mend what ruff can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup ## measure rounds of averaging beside gloo, 15 minutes at most; prints a table
	@$(BIN)/manyhands bench allreduce

netlab: setup netlab-setup ## NAT, and links that fail, in real network namespaces; needs root
	@$(BIN)/pytest -rs -s tests/netlab

.PHONY: netlab-setup
netlab-setup:
	@scripts/netlab-setup

soak: setup ## the longest tests, checked bulk for SOAK_SECONDS, SOAK_ROUNDS real rounds of each fault, SOAK_SCHEDULES simulated ones
	@$(BIN)/pytest -q -n 2 -m soak tests
	@$(BIN)/python -m tests.soak --seconds $(SOAK_SECONDS)
	@$(BIN)/python -m tests.soak.rounds --probe all --rounds $(SOAK_ROUNDS)
	@$(BIN)/python -m tests.soak.schedules --count $(SOAK_SCHEDULES)

forty: setup ## 40 trainers that come, are killed and are replaced, a quarter of an hour; FORTY="--peers 8 …"
	@$(BIN)/python -m tests.soak.forty $(FORTY)

docs: $(DOCS_STAMP) ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## remove .venv and everything built
	rm -rf .venv site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
