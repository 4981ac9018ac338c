# make demo       set up and run the whole path on the embedded model
# make test       set up and run the tests
# make test-slow  the longer tests: two processes
# make test-browser  the pages in a real browser; needs playwright and chromium
# make test-postgres  the store's tests on PostgreSQL; starts a server of its own
# make mutants    put known bugs into a copy of the package; some test must fail for each
# make check      what every commit must pass beside the tests
# make bench      set up and time PPO beside TRL's; see benchmarks/README.md
# make bench-reward  set up and time reward training beside TRL's
# make bench-labeling  the labeling app's figures; fails when one misses its bound
#
# On Linux without a GPU, pip's default torch brings gigabytes of CUDA; choose the small one with
#   make setup TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
TORCH_INDEX_URL ?=
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: setup demo test test-slow test-browser test-postgres mutants check lint format clean
.PHONY: bench bench-reward bench-labeling bench-setup bench-setup-lf
.DEFAULT_GOAL := setup

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else \
	  "error: Python 3.11 or newer is needed; give it with make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
ifneq ($(TORCH_INDEX_URL),)
	$(BIN)/pip install --quiet --no-deps --index-url $(TORCH_INDEX_URL) "$$(grep '^torch==' constraints.txt)"
endif
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/rlhf demo --overwrite $(ARGS)

test: setup
	$(BIN)/python -m pytest $(ARGS)

test-slow: setup  # several processes
	$(BIN)/python -m pytest -m slow $(ARGS)

test-postgres: setup  # needs PostgreSQL's server, such as Debian's package postgresql
	$(BIN)/pip install --quiet -c constraints.txt -e '.[postgres]'
	$(BIN)/python tests/with_postgres.py $(BIN)/python -m pytest -m "postgres and not slow and not browser" \
	  tests/store tests/rankings tests/ui $(ARGS)

test-browser: setup  # skipped with a message where there is no chromium
	$(BIN)/pip install --quiet -c constraints.txt -e '.[browser]'
	$(BIN)/python -m pytest -m browser $(ARGS)

mutants: setup  # some minutes; ARGS="--only KL" tries those with KL in their name
	$(BIN)/python tests/mutants.py $(ARGS)

check: lint
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: setup
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: setup bench-setup
	$(BIN)/python benchmarks/ppo_vs_trl.py $(ARGS)

bench-reward: setup
	$(BIN)/python benchmarks/reward_vs_trl.py $(ARGS)

# All of them, also after one has missed; ARGS=--quick for small sizes.
LABELING := throughput claim page strangers malformed xss kill
bench-labeling: setup
	@missed=; for figure in $(LABELING); do \
	  $(BIN)/python benchmarks/labeling/$$figure.py $(ARGS) || missed="$$missed $$figure"; echo; done; \
	  if [ -n "$$missed" ]; then echo "missed:$$missed"; exit 1; fi

bench-setup: benchmarks/.venv-trl/.installed  # TRL's last release with PPO

bench-setup-lf: benchmarks/.venv-lf/.installed  # LLaMA-Factory, for --peers llamafactory

benchmarks/.venv-%/.installed: benchmarks/constraints-%.txt
	$(PYTHON) -m venv $(@D)
ifneq ($(TORCH_INDEX_URL),)
	$(@D)/bin/pip install --quiet --no-deps --index-url $(TORCH_INDEX_URL) "$$(grep '^torch==' $<)"
endif
	$(@D)/bin/pip install --quiet -r $<
	touch $@

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
