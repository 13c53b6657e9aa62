# Everything a developer runs. CI runs .ci/run, which runs these same targets.
# Needs: make and Python 3.11 or newer. All else is put into .venv by the lock file.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PORT ?= 8080
DIR ?= ./demo-data
OBJECTS ?=
ARGS ?=
PARALLEL ?= -n 2 --dist loadfile

PYTHON ?= $(shell for name in python3.14 python3.13 python3.12 python3.11 python3 python; do \
  "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$name"; break; }; done)

VENV := $(CURDIR)/.venv
WHEEL_VENV := $(CURDIR)/.venv-wheel
BIN := .venv/bin
STAMP := .venv/.ready
UV := UV_PROJECT_ENVIRONMENT=$(VENV) $(BIN)/uv

# A virtual environment that happens to be active is not ours.
unexport VIRTUAL_ENV
# The two processes that share the tests must see them in one order.
export PYTHONHASHSEED := 0
export UV_PYTHON_DOWNLOADS := never
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PLAYWRIGHT_BROWSERS_PATH ?= $(VENV)/browsers

.PHONY: help setup lock check test wheel wheel-test soak demo docs browser clean

help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -t -s '|' 2>/dev/null \
	  || grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST)

setup: $(STAMP) ## put Python packages into .venv, as the lock file says

$(STAMP): pyproject.toml uv.lock hatch_build.py
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and was not found (set PYTHON=)." >&2; exit 1; }
	@test -x $(BIN)/python || { rm -rf .venv; "$(PYTHON)" -m venv .venv; }
	@test -x $(BIN)/uv || $(BIN)/python -m pip install -qq 'uv>=0.13,<1'
	$(UV) sync --frozen --quiet
	@touch $@

lock: ## write uv.lock anew after a change of pyproject.toml
	@test -x $(BIN)/uv || { "$(PYTHON)" -m venv .venv && $(BIN)/python -m pip install -qq 'uv>=0.13,<1'; }
	$(UV) lock

check: $(STAMP) ## lock file, ruff, import contracts, tenant lint, types, docs
	$(UV) lock --check
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/lint_tenants.py
	$(BIN)/mypy
	$(BIN)/python tools/check_docs.py

docs: $(STAMP) ## check the documentation against the code
	$(BIN)/python tools/check_docs.py

wheel: $(STAMP) ## build the wheel into dist/
	@rm -f dist/*.whl
	$(UV) build --wheel --out-dir dist
	@ls -l dist/*.whl

demo: $(STAMP) ## serve an installation with made-up recordings (PORT=, DIR=, OBJECTS=)
	$(BIN)/soundkeep demo --dir "$(DIR)" --port "$(PORT)" $(if $(OBJECTS),--objects "$(OBJECTS)")

# ---- tests ----------------------------------------------------------------------------------
# $(find_browser) prints the path of a Chromium: the machine's own, or the one Playwright brought.

define find_browser
for name in "$${SOUNDKEEP_BROWSER:-}" chromium chromium-browser google-chrome google-chrome-stable; do \
  if [ -n "$$name" ] && command -v "$$name"; then exit 0; fi; \
done; \
find "$$PLAYWRIGHT_BROWSERS_PATH" -type f -perm -u+x \
  \( -name chrome -o -name 'Google Chrome for Testing' -o -name chrome-headless-shell -o -name headless_shell -o -name Chromium \) \
  2>/dev/null | sort | head -n 1
endef

browser: $(STAMP)
	@if [ -z "$$($(find_browser))" ]; then \
	  $(BIN)/python -c 'import subprocess, sys; \
	  subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], timeout=180, \
	  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)' 2>/dev/null || true; \
	fi

test: browser ## run the tests (ARGS= goes to pytest; without a browser, all but the browser's)
	@browser="$$($(find_browser))"; which='not soak'; \
	if [ -n "$$browser" ]; then export SOUNDKEEP_BROWSER="$$browser"; \
	elif [ "$${SOUNDKEEP_REQUIRE_BROWSER:-}" = 1 ]; then \
	  echo "No Chromium was found, and SOUNDKEEP_REQUIRE_BROWSER=1 requires one." >&2; exit 1; \
	else echo "No Chromium was found: the browser tests are left out."; which='not soak and not browser'; fi; \
	set -x; $(BIN)/python -m pytest $(PARALLEL) -m "$$which" $(ARGS) </dev/null

wheel-test: wheel ## build the wheel, install it beside the sources, run the tests against it
	@rm -rf .venv-wheel
	@$(BIN)/python -m venv --without-pip .venv-wheel
	UV_PROJECT_ENVIRONMENT=$(WHEEL_VENV) $(BIN)/uv sync --frozen --quiet --no-install-project
	$(BIN)/uv pip install --quiet --python .venv-wheel/bin/python --no-deps dist/*.whl
	.venv-wheel/bin/python -c 'import pathlib, soundkeep, sysconfig; \
	here = pathlib.Path(soundkeep.__file__).resolve(); \
	assert here.is_relative_to(pathlib.Path(sysconfig.get_path("purelib")).resolve()), here; \
	print("testing", here.parent)'
	@echo "Tests marked slow or browser ran from the sources and are left out here."
	.venv-wheel/bin/python -m pytest $(PARALLEL) -m 'not soak and not slow and not browser' $(ARGS) </dev/null

soak: $(STAMP) ## run the tests under load; takes minutes
	$(BIN)/python -m pytest -m soak $(ARGS) </dev/null

clean: ## remove what these targets made, but no demo data
	rm -rf .venv .venv-wheel dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf src/soundkeep/console/static/vendor
	find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
