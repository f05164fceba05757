# Every target sets up what it needs: a virtual environment in .venv (uv, pinned by constraints.txt), nothing outside it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export UV_LINK_MODE := copy
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export WANDB_MODE := disabled

.PHONY: help setup demo test check lint types fast test-gpu bench models typing clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	@echo "== setting up $(VENV): the package, its dependencies and the development tools (about a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(STAMP)  ## make the virtual environment

demo: setup  ## explain a sentence with the embedded model, offline
	@echo "== probe explain: the embedded sentiment model, offline"
	@HF_HUB_OFFLINE=1 $(BIN)/probe explain "The plot is thin, but the acting is a delight."

models: setup  ## fetch the real language model that the tests use (98 MB, once)
	@$(BIN)/probe models install smollm2

typing: setup
	@$(BIN)/python tests/house/link_typing.py

lint: setup  ## ruff: style, docstrings, imports
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: typing  ## mypy, strict
	@$(BIN)/mypy -p probe

fast: setup
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n 2 -m "not slow and not real and not gpu"

check: lint types fast  ## lint, types and the fast tests (under 5 minutes)

test: setup models  ## every test that needs no GPU, real models included (under 20 minutes)
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 -m "not gpu"

test-gpu:  ## the kernels and capture on a CUDA device, with the Python that holds torch
	@$(PYTHON) -m pytest -q -m gpu tests/kernels tests/probe

bench: setup  ## speed, correctness gate first
	@$(BIN)/python -m probe.dashboard.bench

clean:  ## remove what the targets made
	rm -rf $(VENV) .typing dist .pytest_cache .mypy_cache .ruff_cache
