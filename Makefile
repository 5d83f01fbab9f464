# Set up, audit, test and lint. Needs make, a POSIX shell and Python 3.11 or newer; `make help`.
#
#   make PYTHON=python3.12 install     another interpreter
#   make audit AUDIT_ARGS=--quick      options for `holdback audit chess`
#   make test TEST_ARGS="-k elo"       options for pytest

VENV ?= .venv
BIN := $(VENV)/bin
AUDIT_ARGS ?=
TEST_ARGS ?=

PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$name; break; }; \
	done)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

# Debian puts games outside PATH; Homebrew's folders may be missing from it.
export PATH := $(PATH):/usr/games:/opt/homebrew/bin:/usr/local/bin

# $(call get,Debian package,Homebrew package): install it if this user may; never fails by itself.
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo || echo false)
define get
{ if command -v apt-get >/dev/null; then \
	$(SUDO) apt-get -qq update; \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -qq install $(1) >/dev/null; \
  elif command -v brew >/dev/null; then brew install --quiet $(2); \
  fi </dev/null || true; }
endef
# $(call stop,line): say what to do, and fail.
stop = { echo "holdback: $(1)" >&2; exit 1; }

.PHONY: help install audit test lint bench stockfish

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

install: $(VENV)/.installed stockfish ## virtual environment, Holdback with its extras, Stockfish

audit: install ## audit the chess lineage that Holdback ships; print findings and the report's path
	@$(BIN)/holdback audit chess $(AUDIT_ARGS)

test: install $(VENV)/.installed-dev ## the whole test suite
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(TEST_ARGS)

lint: $(VENV)/.installed $(VENV)/.installed-dev ## style, types and layers
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# Each prints a table on its way; its last line is JSON, and these come together at the end.
bench: install $(VENV)/.installed-bench ## four benchmarks against lm-eval, Inspect, transformers and TRL; JSON lines last
	@lines=$$(mktemp); for name in scoring generation finetune games; do \
	echo "bench_$$name"; out=$$(mktemp); \
	$(BIN)/python benchmarks/bench_$$name.py 2>/dev/null >"$$out" \
	|| { cat "$$out"; rm -f "$$out" "$$lines"; $(call stop,bench_$$name failed: run $(BIN)/python benchmarks/bench_$$name.py to see why); }; \
	sed '$$d' "$$out"; tail -n 1 "$$out" >>"$$lines"; rm -f "$$out"; done; \
	cat "$$lines"; rm -f "$$lines"

$(BIN)/python:
	@[ -n "$(PYTHON)" ] || $(call stop,Python 3.11 or newer is needed: install it (apt-get install python3 or brew install python) or name it: make PYTHON=/path/to/python)
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || $(call get,python3-venv,python)
	@"$(PYTHON)" -m venv $(VENV) >/dev/null || { rm -rf $(VENV); \
	$(call stop,$(PYTHON) cannot make a virtual environment: on Debian run apt-get install python3-venv as root and then make install); }

# torch first and pinned: one version for everybody, and the resolver need not look for it again.
$(VENV)/.installed: constraints.txt pyproject.toml | $(BIN)/python
	@echo "Installing Holdback into $(VENV); the first time takes a few minutes"
	@{ $(PIP) --upgrade 'pip>=25.1' \
	&& $(PIP) -c constraints.txt torch \
	&& $(PIP) -c constraints.txt -e '.[hf,chess]'; } \
	|| $(call stop,packages could not be installed: check the network or the package index that pip uses and run make install again)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/.installed
	@$(PIP) -c constraints.txt --group dev \
	|| $(call stop,development tools could not be installed: check the network or the package index that pip uses and run make again)
	@touch $@

$(VENV)/.installed-bench: constraints.txt pyproject.toml | $(VENV)/.installed
	@$(PIP) -c constraints.txt --group bench \
	|| $(call stop,packages to compare with could not be installed: check the network or the package index that pip uses and run make bench again)
	@touch $@

stockfish:
	@if [ -n "$$HOLDBACK_STOCKFISH" ]; then command -v "$$HOLDBACK_STOCKFISH" >/dev/null \
	|| $(call stop,HOLDBACK_STOCKFISH=$$HOLDBACK_STOCKFISH is not a program: set it to the path of Stockfish or unset it); \
	else command -v stockfish >/dev/null || $(call get,stockfish,stockfish); \
	command -v stockfish >/dev/null || [ -x /usr/games/stockfish ] \
	|| $(call stop,Stockfish is missing: run apt-get install stockfish as root or brew install stockfish or set HOLDBACK_STOCKFISH to its path); fi
