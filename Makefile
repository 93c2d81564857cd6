# Works with GNU make from 3.81 (macOS) on. `make help` says what there is.

PYTHON ?= python3
INSTALLED := .venv/.installed

# The stages are started as `python -m stages.…`: that must be the environment's own.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Hundreds of processes start: what one has compiled, the next one need not.
unexport PYTHONDONTWRITEBYTECODE
export UV_COMPILE_BYTECODE := 1
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
export HF_HUB_DISABLE_TELEMETRY := 1
export SOURCE PRESET

.PHONY: help setup up down env run test lint unit integration coverage soak mutants bench lock clean
.DEFAULT_GOAL := help

help:
	@echo 'make run      set up and start the services if needed, run the pipeline, publish, print the results; optional:'
	@echo '                SOURCE=PATH_OR_URL      your own data (docs/own-data.md)'
	@echo '                PRESET=params/FILE      settings for a known data set (docs/presets.md)'
	@echo '                SET="key=value ..."     any setting of params.yaml (docs/reference-params.md)'
	@echo 'make up       start the local S3 store, Prefect server and worker, deploy the flows (docs/local-services.md)'
	@echo 'make down     stop them; their data stay in .local for the next make up'
	@echo 'make env      print what your shell needs to reach them: eval "$$(make -s env)"'
	@echo 'make test     set up if needed, then lint, types, unit and integration tests'
	@echo 'make lint     the formatter, the linter and the type checker only; likewise make unit, make integration'
	@echo 'make coverage the unit tests once more, and which lines of the library they never run'
	@echo 'make soak     the long forms of tests that kill, race and try at random; SOAK_ROUNDS=N, SOAK_CASES=N (docs/testing.md)'
	@echo 'make mutants  break the code on purpose in many places, one at a time, and see that the tests notice (docs/testing.md)'
	@echo 'make bench    what scale costs, each figure beside the one that is wanted; LONG=1 asks all (benchmarks/README.md)'
	@echo 'make setup    only make .venv from requirements.lock'
	@echo 'make lock     write requirements.lock anew from pyproject.toml'
	@echo 'make clean    remove what the pipeline and the tools wrote; .venv and the DVC cache stay'

# The stamp is written last, so that an interrupted set-up is done again.
setup: $(INSTALLED)

$(INSTALLED): requirements.lock
	@command -v '$(PYTHON)' >/dev/null || \
	  { echo 'error: there is no $(PYTHON): install Python 3.11 or newer, or name one with make PYTHON=...' >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed, $(PYTHON) is $$('$(PYTHON)' --version 2>&1): name a newer one with make PYTHON=..." >&2; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo 'error: $(PYTHON) cannot make environments: install its venv module (Debian, Ubuntu: apt install python3-venv).' >&2; exit 1; }
	@rm -f $(INSTALLED)
	'$(PYTHON)' -m venv .venv
	.venv/bin/python -m pip install --disable-pip-version-check -c requirements.lock torch==2.13.0 uv
	.venv/bin/uv pip install --python .venv/bin/python --no-deps -r requirements.lock
	.venv/bin/uv pip install --python .venv/bin/python --no-deps -e .
	@touch $(INSTALLED)

run: setup
	@set -f; .venv/bin/python -m cascadexml params set $${PRESET:+--preset} $${PRESET:+"$$PRESET"} $${SOURCE:+--source} $${SOURCE:+"$$SOURCE"} -- $(SET)
	@$(MAKE) up
	@.venv/bin/python -m flows.services run -- python -m flows.pipeline
	@.venv/bin/python -m flows.services run -- python -m flows.summary

up: setup
	@.venv/bin/python -m flows.services up

down: setup
	@.venv/bin/python -m flows.services down

env: setup
	@.venv/bin/python -m flows.services env

test: setup
	@$(MAKE) lint
	@$(MAKE) unit
	@$(MAKE) integration

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports
	.venv/bin/mypy

unit: setup
	.venv/bin/pytest -n 2 --dist loadfile --ignore tests/integration

# A third process, as most of these tests wait for servers.
integration: setup
	.venv/bin/pytest tests/integration -m integration -n 3 --dist loadfile --no-loadscope-reorder

coverage: setup
	.venv/bin/pytest -q -n 2 --dist loadfile --ignore tests/integration --cov=cascadexml --cov-report=term-missing:skip-covered

soak: setup
	.venv/bin/pytest -m soak --timeout 3600 -n 2 --dist loadfile --no-loadscope-reorder

mutants: setup
	.venv/bin/python tools/mutants.py

bench: setup
	.venv/bin/python -m benchmarks $(if $(LONG),--long)

lock: setup
	tools/lock.sh

clean:
	rm -rf data/downloads data/raw data/interim data/models data/checkpoints data/workspaces dvc_plots
	rm -rf data/reports/evaluation data/reports/training data/reports/drift data/reports/monitoring data/reports/retraining data/reports/judgement data/reports/examples.html data/reports/profile.txt data/reports/published.json
	rm -rf data/reports/validation/data_docs data/benchmarks
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
