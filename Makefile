# Two commands on a fresh machine: `make demo` and `make test`. Either works alone.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
JOBS   ?= 2

.PHONY: demo test test-system test-all bench check format clean help

help:
	@echo "make demo      set up and run the main job on the embedded model and data"
	@echo "make test      set up and run the tests"
	@echo "make test-all  also those that need servers, a browser or minutes"
	@echo "make bench     measure tuneline against a plain script, in ratios (an hour or two)"
	@echo "make check     ruff, mypy, import-linter"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/tuneline run configs/experiments/demo.yaml

test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not system"

test-system: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m system

test-all: test test-system

bench: $(READY)
	$(BIN)/python -m benchmarks all

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) runs mlflow.db build *.egg-info
