# Relative paths only, so that a folder with a space in its name works. Every target makes .venv if it is missing.
.DEFAULT_GOAL := help
.PHONY: help install demo test test-all coverage soak lint format bench quality weights docs dashboard wheel clean
SHELL := /bin/bash
PYTHON ?= python3.11
RUN := .venv/bin/python
STAMP := .venv/.installed
# All tests that start Ray share one of the processes (tests/conftest.py). PARALLEL= runs one process, as a debugger wants.
PARALLEL ?= --numprocesses 2 --dist loadgroup

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

$(STAMP): pyproject.toml constraints.txt
	@echo "Installing into .venv (about 7 GB with torch; minutes on a first run) ..."
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

install: $(STAMP) ## Make .venv and install the pinned dependencies

demo: $(STAMP) ## Annotate the bundled scenes and print the page to look at
	$(RUN) -m cli demo

test: $(STAMP) ## Run the tests but the longest (20 to 25 minutes on 2 cores)
	$(RUN) -m pytest $(PARALLEL) -m "not long" $(PYTEST_ARGS)

test-all: $(STAMP) ## Run every test (about 45 minutes on 2 cores)
	$(RUN) -m pytest $(PARALLEL) $(PYTEST_ARGS)

coverage: $(STAMP) ## Run every test and say which lines none of them runs (a third longer)
	$(RUN) -m pytest $(PARALLEL) --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

soak: $(STAMP) ## Half an hour of faults at random over 5,000 images; SOAK_ARGS="--minutes 3 --seed 7" for another
	$(RUN) -m tests.faults.soak $(SOAK_ARGS)

lint: $(STAMP) ## Format check, lint, types, import contracts
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

format: $(STAMP) ## Format and sort imports
	$(RUN) -m ruff check --fix --quiet .
	$(RUN) -m ruff format .

bench: $(STAMP) ## Every benchmark on the embedded models; JSON in bench-out/
	$(RUN) -m benchmarks

quality: $(STAMP) ## Measure every figure of docs/quality.md again (QUALITY_ARGS=--quick for a trial)
	$(RUN) -m benchmarks.quality $(QUALITY_ARGS)

weights: $(STAMP) ## Train the tiny models again (two and a half hours on 2 cores that others shared)
	$(RUN) -m synthworld.train

docs: $(STAMP) ## Regenerate docs/schema.md from the tables' metadata
	$(RUN) -m schemas.documentation > docs/schema.md

dashboard: $(STAMP) ## Regenerate the Grafana dashboard from the metrics
	$(RUN) -m deploy.dashboard > deploy/dashboards/pseudoris.json

wheel: $(STAMP) ## Build the package that clusters install, into dist/
	rm -f dist/pseudoris-*.whl
	$(RUN) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

clean: ## Remove what the targets made, but not .venv
	rm -rf demo-out bench-out .coverage htmlcov .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
