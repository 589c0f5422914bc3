# The targets are the documentation: `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
AOI := $(BIN)/aoi
# Threads that sleep while they wait share a busy machine better than threads that spin.
export OMP_WAIT_POLICY ?= passive

.PHONY: help setup demo test test-slow lint format lock results bench-speed clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(VENV)/.ready ## create .venv with everything in it, .venv/bin/aoi included

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: aoi needs Python 3.11 or newer"; echo "hint:  make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@mkdir -p .typing && ln -sfn .. .typing/aoi
	@touch $@

demo: setup ## the whole story on drawn parts: sample, synth, fit, detect, bench (2 minutes)
	$(AOI) demo --out demo

test: setup ## the fast tests, static checks included
	$(BIN)/python -m pytest -q -m "not slow and not gpu"

test-slow: setup ## every test, parity with anomalib and real data included
	$(BIN)/python -m pytest -q -m "not gpu"

lint: setup ## ruff and mypy
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: setup ## rewrite the code in the house style
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

lock: setup ## write requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --no-emit-index-url --extra dev --python-version 3.11 pyproject.toml -o requirements.lock

results: setup ## every figure of docs/RESULTS.md (DATA and WEIGHTS name the folders; about an hour on two cores)
	$(BIN)/python scripts/make_results.py --data $(DATA) --weights $(WEIGHTS) $(if $(GENERATOR),--generator $(GENERATOR))

bench-speed: setup ## docs/PERFORMANCE.md: aoi beside anomalib and plain torch (two hours on two idle cores; DATA and WEIGHTS as in results)
	$(BIN)/python scripts/bench_speed.py $(if $(DATA),--data $(DATA)/mvtec_ad/transistor) $(if $(WEIGHTS),--weights $(WEIGHTS)/resnet18_imagenet_conv1-layer3.safetensors) $(SPEED)

clean: ## remove what the targets made, but not .venv
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache
