# SPDX-License-Identifier: Apache-2.0
# Everything runs in .venv, which the first target that needs it makes. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check

# The first Python of 3.11 or later; `make PYTHON=python3.12 ...` names another.
PYTHON := $(or $(PYTHON),$(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done))

# The torch of this environment, installed before anything that depends on torch: what pip would
# otherwise choose may be another build of several GB. The package itself accepts a range.
TORCH ?= torch==2.13.0

# Without a C compiler on the machine, one is installed as a Python package.
ZIG := $(if $(shell command -v cc || command -v gcc || command -v clang),,[zig])

# Real recordings, where they lie beside the clone. Tests that need them skip where they do not.
ifneq ($(wildcard ../shared/data/.),)
export BIOTRAIN_DATA ?= $(abspath ../shared/data)
endif

# Inputs that were once read wrong, likewise.
ifneq ($(wildcard ../shared/cases/.),)
export BIOTRAIN_CASES ?= $(abspath ../shared/cases)
endif

# In the style of .clang-format, but for what .clang-format-ignore names.
C_FILES = $(shell find src -name '*.[ch]' | sort)

# Another environment, for packages that bring a hundred more along; below build/, so nothing of the
# repository looks into it.
EXTRAS ?= build/extras
EXTRAS_TESTS = tests/test_ecosystem.py tests/test_readers.py tests/test_live_feeds.py \
	tests/test_live_streams.py tests/test_live_cli.py

PYTEST_ARGS ?=
MUTANTS_ARGS ?=
WORKERS ?= auto
# A file's tests run in one worker, so that packages and builds they share are made once. The long
# searches share little, and few files hold them.
PYTEST = $(PY) -m pytest -n $(WORKERS) --dist $(DIST)
DIST := loadfile
exhaustive: DIST := worksteal
DEMO_OUT ?= build/demo
DEMO_ARGS ?=
MATRIX_ARGS ?=
# Programs that `make bench` leaves out: proofs and a search, of minutes to hours.
APART := $(addprefix benchmarks/,matrix.py day.py recipes.py norms.py zoo.py never_worse.py covariance.py \
	baselines.py pace.py)

.PHONY: help demo test extras ci full exhaustive mutants lint static format bench matrix clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## */  make \1\t/' | expand -t 19

demo: $(VENV)/.installed  ## set up, then adapt a network to a new person in generated C (synthetic recordings)
	$(VENV)/bin/biotrain demo --out $(DEMO_OUT) $(DEMO_ARGS)
	@echo "Results: $(abspath $(DEMO_OUT))"

test: static  ## set up, then lint, types, import order and a sample of every kind of test (8 minutes on two cores)
	$(PYTEST) -m "not ci and not full and not exhaustive and not extras" $(PYTEST_ARGS)

# In an environment of its own, with every extra; a test that skips because something is not
# installed fails here.
extras: $(EXTRAS)/.installed-extras  ## the tests of what needs MOABB, LSL, BrainFlow or braindecode
	BIOTRAIN_ALL_INSTALLED=1 $(EXTRAS)/bin/python -m pytest -n $(WORKERS) --dist loadfile \
		-m extras $(EXTRAS_TESTS) $(PYTEST_ARGS)

ci: $(VENV)/.installed-test  ## the larger sample, which .ci/run runs after `make test`
	$(PYTEST) -m ci $(PYTEST_ARGS)

full: $(VENV)/.installed-test  ## `make test`, `make ci`, and the whole products of which they run samples
	$(PYTEST) -m "not exhaustive" $(PYTEST_ARGS)

# The searches draw networks, loops and budgets; these numbers are what docs/testing.md promises.
exhaustive: $(VENV)/.installed-test  ## long fuzzers, every power cut, searches over many drawn networks (hours)
	$(PYTEST) -m exhaustive $(PYTEST_ARGS)
	BIOTRAIN_NETWORKS=60 BIOTRAIN_FRONTIERS=40 BIOTRAIN_MUTANTS=200 BIOTRAIN_POINTS=8 \
		$(PYTEST) -m "not exhaustive" tests/test_networks.py tests/test_stream.py $(PYTEST_ARGS)

mutants: $(VENV)/.installed-test  ## 60 small wrong changes to the compiler: how many do the tests notice?
	$(PY) tests/mutants.py $(MUTANTS_ARGS)

static: $(VENV)/.installed-test
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	@if [ -f .clang-format ]; then $(VENV)/bin/clang-format --dry-run --Werror $(C_FILES); fi
	$(PY) -m mypy

lint: static  ## ruff, formats of Python and C, mypy, import order
	$(PY) -m pytest -q tests/test_imports.py tests/test_repository.py

format: $(VENV)/.installed-test  ## let ruff and clang-format format the code, and mend what they can
	$(PY) -m ruff check --fix
	$(PY) -m ruff format
	@if [ -f .clang-format ]; then $(VENV)/bin/clang-format -i $(C_FILES); fi

bench: $(VENV)/.installed-test  ## speed and memory against other frameworks, as ratios in one run (JSON, figure: build/)
	@for program in $(sort $(filter-out benchmarks/_% $(APART),$(wildcard benchmarks/*.py))); do \
		echo "== $$program"; OMP_NUM_THREADS=1 $(PY) "$$program"; done

matrix: $(VENV)/.installed-test  ## one CRC-32 on every core, compiler and emulator that is installed, at the published shapes
	OMP_NUM_THREADS=1 $(PY) benchmarks/matrix.py $(MATRIX_ARGS)

clean:  ## remove the environment, caches and build output
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. A stamp file says that a set-up went through to its end; a change of
# pyproject.toml repeats the (then short) installation into the same environment.
$(VENV)/.created:
	@if [ -z "$(PYTHON)" ]; then echo "BioTrain needs Python 3.11 or later; name it with: make PYTHON=/path/to/python" >&2; exit 1; fi
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		package=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$$package"; \
		else \
			echo "$(PYTHON) cannot make virtual environments. First run: sudo apt-get install $$package" >&2; exit 1; \
		fi; \
	fi
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install "$(TORCH)"
	@touch $@

$(VENV)/.installed: pyproject.toml | $(VENV)/.created
	$(PIP) install -e ".$(ZIG)"
	@touch $@

# torch is named again, so that nothing replaces it. torchaudio, which braindecode imports, is built
# for another torch; without its compiled parts it works, more slowly.
$(EXTRAS)/.installed-extras: pyproject.toml | $(VENV)/.created
	rm -rf $(EXTRAS)
	$(PY) -m venv $(EXTRAS)
	$(EXTRAS)/bin/python -m pip --disable-pip-version-check install "$(TORCH)"
	$(EXTRAS)/bin/python -m pip --disable-pip-version-check install "$(TORCH)" pytest pytest-xdist \
		hypothesis -e ".[brainflow,data,lsl,moabb,peers,sklearn,study]"
	find $(EXTRAS) -path '*/torchaudio/lib/*.so' -delete
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/.created
	$(PIP) install -e ".[test]"
	@touch $@ $(VENV)/.installed
