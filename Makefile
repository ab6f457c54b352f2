# Relative paths only, so that a folder with a space in its name works. Every target makes .venv if it is missing.
.DEFAULT_GOAL := help
.PHONY: help install demo check test test-all test-oldest coverage soak mutants lint format bench gpu quality conformance weights docs site wheel release clean
SHELL := /bin/bash
# The first of the supported versions that this machine has.
PYTHON ?= $(shell for each in python3.11 python3.12 python3.13; do type $$each && break; done &>/dev/null; echo $$each)
RUN := .venv/bin/python
# Containers often set it; every process of a run and of a test would then compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE
STAMP := .venv/.installed
# All tests that start Ray share one of the processes (tests/conftest.py). PARALLEL= runs one process, as a debugger wants.
PARALLEL ?= --numprocesses 2 --dist loadgroup
# The markers of pyproject.toml: what `make check` runs, and what `make test` does.
QUICK := not ray and not slow and not browser and not long
TESTS ?= not long

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

$(STAMP): pyproject.toml constraints.txt
	@echo "Installing into .venv (about 7 GB with torch; minutes on a first run) ..."
	@# Metadata of an earlier install in the working directory would win over the new one.
	@rm -rf pseudoris.egg-info
	$(PYTHON) -m venv .venv
	@# A module is compiled when it is first imported: most of 25,000 never are. Of pip's hundreds of lines those that
	@# say why it takes minutes.
	set -o pipefail; $(RUN) -m pip install --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[dev]' \
		| sed -unE 's/^ *(Downloading .* MB\)|Installing collected packages).*/  \1/p'
	@touch $(STAMP)

install: $(STAMP) ## Make .venv and install the pinned dependencies

demo: $(STAMP) ## Annotate the bundled scenes and print the page to look at
	$(RUN) -m pseudoris demo

check: lint ## Lint and the quick tests, without Ray (4 minutes on 2 cores)
	@# What takes more than a second on two quiet cores is marked slow. A busy machine takes several times as long.
	$(RUN) -m pytest $(PARALLEL) -m "$(QUICK)" --durations 0 --durations-min 5 $(PYTEST_ARGS)

test: $(STAMP) ## Run the tests but the longest (about 15 minutes on 2 cores)
	$(RUN) -m pytest $(PARALLEL) -m "$(TESTS)" $(PYTEST_ARGS)

test-all: $(STAMP) ## Run every test (about 50 minutes on 2 cores)
	$(RUN) -m pytest $(PARALLEL) $(PYTEST_ARGS)

# In an environment with the oldest versions that pyproject.toml allows: the core alone, then all extras. The readers of
# exports do not take versions so old.
OLDEST := .venv-oldest
INTO_OLDEST := $(RUN) -m uv pip install --quiet --python $(OLDEST)/bin/python
OLDEST_TESTS := tests/audit tests/pipeline tests/schemas tests/store tests/interchange/dataset tests/training/learning tests/workers
test-oldest: $(STAMP) ## Run tests of the core, then of all extras, on the oldest dependencies that are allowed (3 minutes on 2 cores)
	rm -rf $(OLDEST)
	$(RUN) -m uv venv --quiet --python $(RUN) $(OLDEST)
	$(INTO_OLDEST) --resolution lowest-direct --editable .
	PSEUDORIS_CORE_PYTHON=$(OLDEST)/bin/python $(RUN) -m pytest $(PARALLEL) tests/deploy/test_core.py $(PYTEST_ARGS)
	$(INTO_OLDEST) --resolution lowest-direct --editable '.[all]'
	$(RUN) -m uv pip freeze --python $(OLDEST)/bin/python --exclude-editable > $(OLDEST)/oldest.txt
	$(INTO_OLDEST) --constraint $(OLDEST)/oldest.txt --editable '.[test]'
	$(OLDEST)/bin/python -m pytest $(PARALLEL) -m "$(QUICK)" --ignore tests/store/reports/test_data_card.py $(OLDEST_TESTS) $(PYTEST_ARGS)
	@# Its cache takes exports for one another by other names than that of datasets 5.
	$(INTO_OLDEST) 'datasets>=4,<5'
	$(OLDEST)/bin/python -m pytest tests/interchange/exports/test_huggingface.py $(PYTEST_ARGS)

coverage: $(STAMP) ## Run every test and say which lines none of them runs (a third longer)
	$(RUN) -m pytest $(PARALLEL) --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

soak: $(STAMP) ## Half an hour of faults at random, added to those on record; SOAK_ARGS="--faults 10000 --minutes 600" for more
	$(RUN) -m tests.faults.soak $(SOAK_ARGS)

mutants: $(STAMP) ## Break the code on purpose, and list what the tests do not see (MUTANTS_ARGS="--only TEXT")
	$(RUN) -m tests.mutants $(MUTANTS_ARGS)

lint: $(STAMP) ## Format check, lint, types, import contracts
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

format: $(STAMP) ## Format and sort imports
	$(RUN) -m ruff check --fix --quiet .
	$(RUN) -m ruff format .

bench: $(STAMP) ## Every benchmark on the embedded models; JSON in bench-out/
	$(RUN) -m evidence.benchmarks

gpu: $(STAMP) ## Ten minutes of a GPU, on from where it was cut off; a line a measurement in bench-out/gpu.jsonl (GPU_ARGS)
	$(RUN) -m evidence.benchmarks.gpu_session --out bench-out/gpu.jsonl $(GPU_ARGS)

quality: $(STAMP) ## Measure again every figure that is still measured, and write docs/records/quality.md (QUALITY_ARGS=--quick for a trial)
	$(RUN) -m evidence.experiments.quality $(QUALITY_ARGS)

conformance: $(STAMP) ## Write docs/records/conformance.md, after measuring what it lacks
	$(RUN) -m evidence.experiments.conformance measure
	$(RUN) -m evidence.experiments.conformance

weights: $(STAMP) ## Train the tiny models again (two and a half hours on 2 cores that others shared)
	$(RUN) -m evidence.recipes

docs: $(STAMP) ## Regenerate the pages of docs/reference that come from the code
	$(RUN) -m tests.docs.pages

site: $(STAMP) ## Build the documentation site into site/; a warning fails (FORGE=URL of the repository, for links to its files)
	rm -rf site
	FORGE="$(FORGE)" $(RUN) -m sphinx --fail-on-warning --keep-going --quiet -c docs/site docs site

wheel: $(STAMP) ## Build the package that clusters install, into dist/
	rm -rf build dist/pseudoris-*.whl
	$(RUN) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

release: $(STAMP) ## Build wheel and sdist, what a release publishes, into dist/
	rm -rf build dist
	$(RUN) -m build --outdir dist .

clean: ## Remove what the targets made, but not .venv
	rm -rf build dist site demo-out bench-out .coverage htmlcov .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
