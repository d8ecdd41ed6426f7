# `make demo` and `make test` need nothing set up but Python 3.11 and iproute2; a C compiler makes the compiled form.
# Everything that is made lies in this folder: .venv, build, and the caches that `make clean` names.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help venv demo demo-kubernetes test test-unit test-lab test-kubernetes
.PHONY: lint format bench bench-health soak clean guard
.DELETE_ON_ERROR:

PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-cache-dir --quiet
CACHES := .mypy_cache .ruff_cache .pytest_cache .hypothesis
# What mypyc compiles, and the model, whose constants it builds in.
HOT := $(wildcard $(shell env -u LBD_FORM $(PYTHON) -B -c 'from lbd.form import HOT_MODULES, source_path; \
	print(*(source_path(name) for name in HOT_MODULES))' 2>/dev/null) lbd/model/*.py)
SOURCES := lbd tests $(wildcard bench) setup.py
# Twice the processors of a small machine: the tests of the lab mostly wait.
JOBS ?= 4
# Each has an API server of its own.
KUBERNETES_JOBS ?= 2

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 26

demo: venv ## balance real traffic in a throw-away network and kill a Pod (ARGS=--keep leaves it running)
	@$(BIN)/lbd demo $(ARGS)

demo-kubernetes: venv ## publish a Service of a real Kubernetes API server (make test-kubernetes builds it)
	@$(BIN)/lbd demo --kubernetes $(ARGS)

test: venv ## units, and the lab of network namespaces (ARGS="-k name" picks some)
	@$(BIN)/pytest -n $(JOBS) --dist worksteal --ignore=tests/kubernetes $(ARGS)

test-unit: venv ## the tests that need no namespaces
	@$(BIN)/pytest -n $(JOBS) tests/unit $(ARGS)

test-lab: venv ## the tests in network namespaces, one after another
	@$(BIN)/pytest tests/lab $(ARGS)

test-kubernetes: venv ## the tests on a real Kubernetes API server; builds it once, with Go
	@$(BIN)/python tests/kubernetes/build_apiserver.py
	@$(BIN)/pytest -n $(KUBERNETES_JOBS) --dist worksteal tests/kubernetes $(ARGS)

lint: venv ## ruff and mypy --strict
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: venv ## let ruff format and sort
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: venv ## lbd beside HAProxy and nginx, judged; 15 minutes (ARGS=--quick: 3; ARGS=--features: lbd against itself)
	@$(BIN)/python bench/side_by_side.py $(ARGS)

soak: venv ## 30 minutes of mixed load: memory, descriptors and counters must end as they began (ARGS="--minutes 5")
	@$(BIN)/python bench/soak.py $(ARGS)

bench-health: venv ## 5,000 members checked every 5 s: CPU, and how late the probes are
	@$(BIN)/python bench/health.py $(ARGS)

clean: ## remove everything that make has made
	rm -rf $(VENV) build dist *.egg-info $(CACHES)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv: $(STAMPS)/compiled ## make .venv with the locked dependencies and lbd in it

# -- how .venv is made -------------------------------------------------------------------------------------------------

guard:
	@if [ -z "$(PYTHON)" ]; then echo "lbd: needs Python 3.11 or newer; none was found in PATH" >&2; exit 1; fi
	@for path in . $(VENV) build $(CACHES) lbd.egg-info; do \
		if [ -e $$path ] && ! [ -w $$path ]; then owner=$$(stat -c %U $$path); \
			echo "lbd: $$(realpath $$path) belongs to $$owner, and $$(id -un) can't write it:" \
				"run make as $$owner, or in a clone of your own" >&2; exit 1; fi; done
	@if [ -e $(VENV) ] && ! $(BIN)/python -c '' 2>/dev/null && [ -e $(STAMPS) ]; then \
		echo "lbd: $(VENV) has no Python that $$(id -un) can run: remove it with \`make clean\`" >&2; exit 1; fi

$(STAMPS)/dependencies: requirements.lock | guard
	@echo "lbd: installing the locked dependencies into $(VENV) (once, about a minute)"
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
		echo "lbd: $(PYTHON) can't make virtual environments: on Debian, apt-get install python3.11-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "lbd: $(PYTHON) -m venv failed, see above" >&2; exit 1; }
	@$(PIP) install --require-hashes -r requirements.lock
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/lbd: $(STAMPS)/dependencies pyproject.toml setup.py lbd/__init__.py | guard
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# Without a compiler there is no stamp, so the next make looks for one again.
$(STAMPS)/compiled: $(STAMPS)/lbd $(HOT) | guard
	@mkdir -p build; \
	site=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))'); \
	if ! command -v "$${CC:-cc}" >/dev/null && ! command -v gcc >/dev/null; then \
		rm -rf "$$site/lbd_compiled"; \
		echo "lbd: no C compiler here: lbd runs interpreted (install gcc for the compiled form, then make venv)"; \
	else \
		echo "lbd: compiling the relay and the balancers"; \
		LBD_FORM=interpreted $(BIN)/python setup.py --quiet build_ext --force \
			--build-temp build/compiled --build-lib "$$site" >build/compile.log 2>&1 \
			|| { tail -n 40 build/compile.log >&2; echo "lbd: compiling failed; all of it in build/compile.log" >&2; exit 1; }; \
		if LBD_FORM=compiled $(BIN)/python -c 'import lbd' 2>>build/compile.log; then touch $@; else \
			echo "lbd: the C compiler failed (are Python's headers there? on Debian, python3.11-dev): lbd runs" \
				"interpreted; see build/compile.log"; fi; \
	fi
