# `make demo` and `make test` set everything up by themselves on a machine with Python 3.11, pip, make and git.
PYTHON ?= python3
BIN := .venv/bin
# Idle OpenMP threads must not spin: a busy neighbour would slow every step several times.
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM = false

.PHONY: setup demo test test-all lint format certificates api clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -c "import torch, accelerate, core"
	touch $@

demo: setup
	$(BIN)/langevin demo

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

test-all: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m ''

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

certificates: setup
	$(BIN)/langevin solvers --markdown docs/certificates.md

api: setup
	$(BIN)/pdoc -o docs/api langevin langevin.api core image motion

clean:
	rm -rf .venv build docs/api *.egg-info .pytest_cache .mypy_cache .ruff_cache
