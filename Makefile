# Every target sets up what it needs in a virtual environment in .venv (uv, pinned by constraints.txt). Outside it go only
# the models (`models`, into the user's cache) and Chromium (`browser`, by the system's packages, as root only).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export UV_LINK_MODE := copy
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export WANDB_MODE := disabled

.PHONY: help setup demo test check lint types fast test-gpu bench models browser typing clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	@echo "== setting up $(VENV): the package, its dependencies and the development tools (a minute or two)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(STAMP)  ## make the virtual environment

demo: setup  ## explain a sentence with the embedded model, offline
	@echo "== probe explain: the embedded sentiment model, offline"
	@HF_HUB_OFFLINE=1 $(BIN)/probe explain "The plot is thin, but the acting is a delight."

models: setup  ## fetch the real models that the tests use (a language model, an image classifier, a face net; 118 MB, once)
	@for model in smollm2 efficientnet-lite0 mtcnn-onet; do $(BIN)/probe models install $$model || exit 1; done

browser:  ## install Chromium for the browser tests, where this machine lets us
	@if command -v chromium || command -v google-chrome; then exit 0; fi >/dev/null; \
	why=; \
	if ! command -v apt-get >/dev/null; then why="there is no apt-get here"; \
	elif [ "$$(id -u)" != 0 ]; then why="that needs root: sudo apt-get install chromium"; \
	else \
	  echo "== installing Chromium for the browser tests (apt-get, 120 MB, about 20 seconds)"; \
	  log=$$(mktemp); export DEBIAN_FRONTEND=noninteractive; \
	  { apt-get update -qq; apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core; } >$$log 2>&1; \
	  command -v chromium >/dev/null || why="apt-get: $$(tail -n 1 $$log)"; \
	  rm -f $$log; \
	fi; \
	if [ -n "$$why" ]; then echo "== no Chromium, so the browser tests will be skipped ($$why)"; fi

typing: setup
	@$(BIN)/python tests/house/link_typing.py

lint: setup  ## ruff: style, docstrings, imports
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: typing  ## mypy, strict
	@$(BIN)/mypy -p probe

fast: setup
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n 2 -m "not slow and not real and not gpu"

check: lint types fast  ## lint, types and the fast tests (about a quarter of an hour on two cores)

test: setup models browser  ## every test that needs no GPU, real models included (about 35 minutes on two cores)
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --durations=10 -m "not gpu"

test-gpu:  ## the kernels and capture on a CUDA device, with the Python that holds torch
	@$(PYTHON) -m pytest -q -m gpu tests/kernels tests/probe tests/explainers

bench: setup  ## speed beside other people's forward passes; correctness first (ARGS="--quick", say)
	@$(BIN)/probe bench $(ARGS)

clean:  ## remove what the targets made
	rm -rf $(VENV) .typing dist .pytest_cache .mypy_cache .ruff_cache
