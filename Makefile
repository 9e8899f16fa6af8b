# The tasks of a developer, and the newcomer's first five minutes: make help
#
# Needs Python 3.11 or newer with its headers, g++ and make. Everything else is installed into .venv,
# once, and again only when pyproject.toml has changed. pip is called without options for indexes or
# certificates, so that PIP_* variables and pip.conf hold.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
    "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
DATA ?= data
LISTEN ?= 127.0.0.1:7801
ARGS ?=
# A worker a core; one that has nothing left takes tests that others have not begun.
PARALLEL ?= -n auto --dist worksteal
TARGET ?= proto

.PHONY: help demo test test-all test-slow torture bench bench-full lint proto serve clean

help: ## this list
	@echo "make demo    install what is needed, load 400,000 word vectors, search them"
	@echo "make serve   serve a folder: make serve DATA=data LISTEN=127.0.0.1:7801"
	@echo "make test    ruff, mypy and the fast tests, some minutes; ARGS='-k name' for some"
	@echo "make test-all  the slow tests too, half an hour"
	@echo "make torture kill and stop it for hours: make torture ARGS='--hours 8' (needs strace)"
	@echo "make bench   measure vecdb beside hnswlib and FAISS, minutes; make bench-full: peers too, a night"
	@echo "make lint    ruff and mypy"
	@echo "make proto   generate the wire code from the contract"
	@echo "make clean   remove .venv, caches, builds and the demo's data"

demo: $(VENV)/installed-demo
	@$(BIN)/vecdb demo $(ARGS)

serve: $(VENV)/installed-demo
	@exec $(BIN)/vecdb serve --data "$(DATA)" --listen "$(LISTEN)" $(ARGS)

test: $(VENV)/installed-dev
	@echo "== ruff"
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --check --quiet .
	@echo "== mypy"
	@$(BIN)/mypy
	@echo "== pytest"
	@$(BIN)/python -m pytest $(PARALLEL) -m "not slow" $(ARGS)

test-all: test test-slow

test-slow: $(VENV)/installed-dev
	@echo "== pytest, slow tests"
	@$(BIN)/python -m pytest $(PARALLEL) -m slow $(ARGS)

torture: $(VENV)/installed-dev
	@$(BIN)/python -m tests.torture $(ARGS)

# What was measured already is not measured again: remove the file, or ARGS=--again.
bench: $(VENV)/installed-dev
	@$(BIN)/vecdb bench run --results bench-results.jsonl $(ARGS)
	@$(BIN)/vecdb bench report --results bench-results.jsonl

bench-full: $(VENV)/installed-dev
	@$(BIN)/vecdb bench run --plan full --results bench-full.jsonl $(ARGS)
	@$(BIN)/vecdb bench report --results bench-full.jsonl

lint: $(VENV)/installed-dev
	@echo "== ruff"
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "== mypy"
	@$(BIN)/mypy

proto: $(VENV)/generator/installed
	@PYTHONPATH=proto $(VENV)/generator/bin/python -m vecdb_proto.generate "$(TARGET)"

# An environment of its own: the compiler is an old one and wants older libraries than ours.
$(VENV)/generator/installed: proto/generator.txt
	@"$(PYTHON)" -m venv --clear $(VENV)/generator
	@$(VENV)/generator/bin/python -m pip install --quiet --only-binary :all: -r $< || { \
	    echo "the compiler of the wire code needs Python 3.12 or older: make proto PYTHON=..." >&2; exit 1; }
	@touch $@

clean:
	@echo "removing .venv, caches, builds and demo-data"
	@rm -rf $(VENV) build dist demo-data .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Two sizes of the same environment: what the demo needs, and that with the developer's tools.
$(VENV)/installed-demo: pyproject.toml
	@$(MAKE) install EXTRAS=demo
	@touch $@

$(VENV)/installed-dev: pyproject.toml
	@$(MAKE) install EXTRAS=dev,demo,bench
	@touch $(VENV)/installed-demo $@

.PHONY: install
install:
	@test -n "$(PYTHON)" || { echo "vecdb needs Python 3.11 or newer; none was found on the PATH" \
	    "(or name one: make PYTHON=/path/to/python3.11)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "vecdb needs Python 3.11 or newer, $(PYTHON) is $$("$(PYTHON)" -V)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip' 2>/dev/null || { \
	    echo "$(PYTHON) cannot make virtual environments (on Debian: apt install python3-venv)" >&2; exit 1; }
	@command -v g++ >/dev/null || { echo "g++ is needed to compile hnswlib (on Debian: apt install g++)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' || { \
	    echo "the headers of $(PYTHON) are needed to compile hnswlib (on Debian: apt install python3-dev)" >&2; exit 1; }
	@if [ ! -x $(BIN)/python ]; then \
	    echo "== making $(VENV) with $$("$(PYTHON)" -V)"; "$(PYTHON)" -m venv $(VENV); fi
	@echo "== installing vecdb with [$(EXTRAS)] into $(VENV); details in $(VENV)/install.log"
	@$(BIN)/python -m pip install --progress-bar off -e ".[$(EXTRAS)]" 2>&1 \
	    | tee $(VENV)/install.log \
	    | sed -u -n -e 's/^Collecting \([A-Za-z0-9_.-]*\).*/   \1/p' \
	        -e 's|^Processing .*/\([A-Za-z0-9_.]*\)-[0-9].*|   \1|p' \
	        -e 's/^Building wheels for collected packages: \(.*\)/   building \1/p' \
	        -e 's/^Installing collected packages.*/   unpacking/p' \
	    || { tail -n 30 $(VENV)/install.log >&2; echo "installing failed, see $(VENV)/install.log" >&2; exit 1; }
	@echo "== compiling the search kernels for this processor"
	@$(BIN)/vecdb warm
