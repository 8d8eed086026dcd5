# Every target sets up what it needs; nothing has to be installed by hand but Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Without columns in tracebacks: Python 3.11 cannot look them up in two threads at once (SystemError from ast.parse), and
# a driver's thread that logs an error would end the whole run while a failure is being shown.
PYTEST := PYTHONNODEBUGRANGES=1 $(BIN)/python -m pytest --strict-config

.PHONY: run test test-quick test-processes check format docs chaos bench clean

run: $(VENV)/.installed  ## emit the sample orders and run two worker processes over them
	$(BIN)/hexa-worker emit worker.toml --file handlers/orders.jsonl
	$(BIN)/hexa-worker run worker.toml --processes 2 --until-idle
	$(BIN)/hexa-worker dlq list worker.toml

test: $(VENV)/.installed-dev  ## everything: checks, and all tests on every broker this machine can have
	$(MAKE) check
	-$(BIN)/python -m tests.lab fetch  # a broker that cannot be had is reported by its tests
	-$(BIN)/python -m tests.peer  # the same for the service in Go
	$(PYTEST) --numprocesses 3 --dist loadgroup --no-loadscope-reorder --durations 20 --durations-min 5 tests

test-quick: $(VENV)/.installed-dev  ## the pure tier: no broker, no other process (under a minute)
	$(PYTEST) --durations 5 --durations-min 1 tests/unit tests/actors tests/typing

test-processes: $(VENV)/.installed-dev  ## the second tier: real processes and the embedded broker's files (under 4 minutes)
	$(PYTEST) --numprocesses 2 --dist loadgroup --no-loadscope-reorder --durations 20 --durations-min 5 -m processes tests

check: $(VENV)/.installed-dev  ## format, lint, types, import layering
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed-dev  ## the pages that are made from the code
	$(BIN)/python -m hexa_worker.config.schema
	$(BIN)/python -m hexa_worker.config.reference
	$(BIN)/python -m hexa_worker.testing.drivers_page
	$(BIN)/python deploy/make_dashboard.py
	$(BIN)/python -m hexa_worker.testing.reference_page

CHAOS ?= embedded kafka nats pulsar

chaos: $(VENV)/.installed-dev  ## the long form: hundreds of kills and outages, a ledger that must balance
	set -e; for broker in $(CHAOS); do $(BIN)/python -m tests.chaos --broker $$broker; done

bench: $(VENV)/.installed-bench  ## measure beside the raw limits, write bench/RESULTS.md
	$(BIN)/python -m bench

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[all]" --group dev
	touch $@

$(VENV)/.installed-bench: pyproject.toml $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench
	touch $@

clean:
	rm -rf $(VENV) var build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
