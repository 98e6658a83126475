# One target per need; `make` alone lists them. Packages come from wherever pip is set to look.
SHELL := /bin/bash
.DEFAULT_GOAL := help
# The first Python from 3.11 to 3.13 on the PATH; name another with `make PYTHON=... demo`.
PYTHON ?= $(shell sh tools/find-python)
VENV ?= .venv
RUN := $(VENV)/bin/python
JOBS ?= 2
export PYTHONUNBUFFERED := 1

.PHONY: help demo up test check fix protos lock bench-serving bench-frontdoor bench-engine bench-kernels bench-gpu compile-kernels bench-index bench-admission bench-routing bench-kvstore doctor install install-dev clean

help: ## this list
	@echo "Baton: prefill and decode as separate processes."
	@echo
	@echo "First time here?   make demo      installs into $(VENV), asks one question, shows where it was answered"
	@echo "Then               make up        keeps everything running; talk to it with $(VENV)/bin/baton chat"
	@echo "Changing code?     make fix check test"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
	    printf '  make %-15s %s\n' "$$name" "$$text"; done
	@echo
	@echo "  Words passed on: make up ARGS='--decode 2 --device cpu'; make test ARGS='tests/cli -x'"
	@echo "  To debug a test: make test JOBS=0 ARGS='tests/cli --pdb'"
	@echo "  Another torch:   make demo TORCH='torch==2.12.1' TORCH_ARGS='--extra-index-url ...'"

demo: install ## install, start five processes, stream one answer, stop
	@$(RUN) -m baton.cli demo $(ARGS)

up: install ## run a gateway, workers, kvstore and Redis until Ctrl-C
	@$(RUN) -m baton.cli up $(ARGS)

doctor: install ## say what is wrong with this machine, and what to do
	@$(RUN) -m baton.cli doctor $(ARGS)

test: install-dev ## run the tests, JOBS at a time
	@$(RUN) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: install-dev ## format, lint, types, import contracts, protos
	@$(RUN) tools/check.py

fix: install-dev ## repair format, import order and what lint can repair
	@$(RUN) -m ruff format .
	@$(RUN) -m ruff check --fix .

protos: install-dev ## make stubs from protos/, add new lines to protos/v1.lock
	@$(RUN) -m tools.protos generate

lock: ## resolve requirements.lock afresh (needs uv)
	@$(PYTHON) tools/lock.py $(ARGS)

bench-serving: install ## measure disaggregated against one local engine
	@$(RUN) -m bench.serving $(ARGS)

bench-engine: install-dev ## measure the engine on this CPU, beside transformers
	@$(RUN) -m bench.engine $(ARGS)

bench-frontdoor: install ## measure the control path alone: doors, gateway, streams
	@$(RUN) -m bench.frontdoor $(ARGS)

bench-index: install ## measure the block index alone: bytes, look-ups, events
	@$(RUN) -m bench.block_index $(ARGS)

bench-admission: install ## measure good work done when more is asked than can be done
	@$(RUN) -m bench.admission $(ARGS)

bench-kernels: install ## measure every kernel against the machine's floor and torch
	@$(RUN) -m bench.kernels $(ARGS)

bench-gpu: install-dev ## on a GPU: check kernels there, measure steps, kernels, ablations; 14 minutes
	@$(RUN) -m bench.gpu $(ARGS)

compile-kernels: install-dev ## compile Triton kernels for an H200, without one; record registers
	@$(RUN) -m tools.compiled

bench-routing: install ## measure routing: goodput on traces, decisions per second
	@$(RUN) -m bench.routing $(ARGS)

bench-kvstore: install ## measure kvstore: GB/s beside memcpy and Redis, hits on traces, recovery
	@$(RUN) -m bench.kvstore $(ARGS)

install: ## make the virtual environment with what running needs
	@$(PYTHON) tools/install.py --venv $(VENV) --extras all

install-dev: ## the same with what testing needs
	@$(PYTHON) tools/install.py --venv $(VENV) --extras dev

clean: ## remove the virtual environment and caches
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
