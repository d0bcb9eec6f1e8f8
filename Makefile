# make demo   make up   make down   make test   make lint   make bench      (make help: what each does)
#
# Needs Python 3.11 or newer, make, gcc and a package index. No root, no Docker, no server.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# make demo CLIPS="a.mp4 b.mkv": your own footage
CLIPS ?=
# make test TESTS="cv_platform_tests/vision -k nms": some of the tests
TESTS ?= cv_platform_tests
WORKERS ?= 2
# make bench BENCH_DATA=DIR: with DIR/clips, DIR/models and DIR/mot15; the other benchmarks say in their heads how to run them
BENCH_DATA ?= $(wildcard ../shared/data)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_REQUIRE_VIRTUALENV := 0
export PYTHONNOUSERSITE := 1
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME

# One line that counts, on a terminal; nothing elsewhere. Errors go to the screen as pip says them.
COUNT := awk -v tty="$$([ -t 1 ] && echo 1 || true)" \
  '/^(Collecting|Requirement already)/ { n++; if (tty) printf "\r  %d packages looked at", n } \
   /^Installing collected/ { if (tty) printf "\n"; print "  installing (this takes a minute or two)" } \
   END { if (tty) printf "\n" }'

.PHONY: help demo up down test test-kubernetes lint bench clean clean-state

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.demo ## run everything once: servers, sample footage (or CLIPS="…"), the whole graph, a summary
	@$(BIN)/cv-platform demo $(CLIPS)

up: $(VENV)/.demo ## start the Dagster UI and daemon on the same state; prints the address
	@$(BIN)/cv-platform up

down: ## stop all that up or demo started, by process id
	@if [ -x $(BIN)/cv-platform ]; then $(BIN)/cv-platform down; else echo "nothing is installed, so nothing runs"; fi

test: $(VENV)/.dev ## all tests, on real servers
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTS)

test-kubernetes: $(VENV)/.dev ## the real launcher and executor on a stub cluster: a backfill, and what goes wrong
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m kubernetes -n $(WORKERS) --dist loadfile cv_platform_tests/kubernetes

lint: $(VENV)/.dev ## ruff, mypy, import contracts, dbt parse
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/dbt --quiet parse --project-dir dbt --profiles-dir dbt

bench: $(VENV)/.bench ## the vision core against its peers, on BENCH_DATA where there is one
	$(BIN)/python -m benchmarks.suppression
	$(BIN)/python -m benchmarks.preprocess
	$(BIN)/python -m benchmarks.tracking $(if $(BENCH_DATA),--mot $(BENCH_DATA)/mot15/*/)
ifneq ($(BENCH_DATA),)
	$(BIN)/python -m benchmarks.detect --model yolox_nano --model-dir $(BENCH_DATA)/models \
	  --clip $(BENCH_DATA)/clips/vtest_480x360.mp4 --mot $(BENCH_DATA)/mot15/PETS09-S2L1
endif

clean: down ## remove the environment and all caches; footage, ledger and models stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf dbt/target dbt/logs
	find cv_platform cv_platform_tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

clean-state: down ## delete what the embedded stack holds: ledger, warehouse, clips, models
	rm -rf .cv_platform

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); needed is Python 3.11 or newer: make PYTHON=python3.11"; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "$(PYTHON) cannot make an environment: install its venv module (Debian: python3-venv)"; rm -rf $(VENV); exit 1; }

$(VENV)/.demo: EXTRAS := demo
$(VENV)/.dev: EXTRAS := test,lint
$(VENV)/.bench: EXTRAS := test,bench
$(VENV)/.demo $(VENV)/.dev $(VENV)/.bench: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing the package with what $(subst $(VENV)/.,,$@) needs"
	@$(BIN)/python -m pip install -c constraints.txt -e ".[$(EXTRAS)]" | $(COUNT)
	@touch $@
