# Two commands on a fresh machine: `make demo` and `make test`. Either works alone.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
JOBS   ?= 2
REFERENCE := docs/methods-reference.md

.PHONY: demo test test-system test-cross test-all bench check docs format clean help

help:
	@echo "make demo      set up and run the main job on the embedded model and data"
	@echo "make test      set up and run the tests"
	@echo "make test-system  those that need servers, a browser or minutes"
	@echo "make test-all  these, and every method with every family and engine, and every fault"
	@echo "make bench     measure tuneline against a plain script, in ratios (an hour or two)"
	@echo "make check     ruff, mypy, import-linter, and docs that are what the code says"
	@echo "make docs      write docs/methods-reference.md from the code"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/tuneline run configs/experiments/demo.yaml

test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations=20 -m "not system"

test-system: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations=40 -m "system and not cross"

test-cross: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations=20 -m cross

test-all: test test-system test-cross

bench: $(READY)
	$(BIN)/python -m benchmarks all

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m flows methods --markdown | diff -u $(REFERENCE) - || (echo "make docs writes it anew"; exit 1)

docs: $(READY)
	$(BIN)/python -m flows methods --markdown > $(REFERENCE).new
	mv $(REFERENCE).new $(REFERENCE)

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) runs mlflow.db build *.egg-info
