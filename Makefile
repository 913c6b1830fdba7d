# Builds the environment and runs what a newcomer needs: make demo, make test. Needs Python 3.11 or newer and the package registries.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := install

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# Another data folder or output: make benchmark DATA=... OUTPUT=...
DATA ?= ../shared/data
OUTPUT ?= benchmark-output
# Libraries of the operating system that VTK and Qt load; needed by the tests of the Slicer part only.
GL_PACKAGES := libgl1 libegl1 libgl1-mesa-dri libxkbcommon0 libdbus-1-3 libfontconfig1 libglib2.0-0 fonts-dejavu-core

.PHONY: install help demo test test-highdicom gpu-check lint format benchmark screenshots clean system-libraries

install: $(VENV)/.installed ## Build the environment in .venv (what plain `make` does)

help: ## Show this list
	@grep -hE '^[a-z.-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z.-]+):.*## /\1\t/' | expand -t 14

demo: $(VENV)/.installed ## Segment the sample data; results go to demo-output/
	$(BIN)/rauslicer demo --output demo-output

test: $(VENV)/.installed-test system-libraries ## Run all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-highdicom: $(VENV)/.installed-test ## Test DICOM output with the older highdicom that 3D Slicer brings
	$(PIP) --no-deps --target build/highdicom "highdicom==0.27.*"
	PYTHONPATH=build/highdicom $(BIN)/python -m pytest Testing/Python/imaging -k dicom Testing/Python/interpretation/test_rendering_dicom_sr.py
	rm -rf build/highdicom

gpu-check: $(VENV)/.installed-test ## Run everything on this machine's GPU and on the CPU, and compare
	$(BIN)/python Testing/Benchmarks/gpu_check.py

lint: $(VENV)/.installed-test ## Check style, formatting, types and which room imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-test ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(VENV)/.installed ## Compare the methods on labelled data (DATA=folder OUTPUT=folder)
	$(BIN)/rauslicer benchmark --data $(DATA) --output $(OUTPUT)

screenshots: $(VENV)/.installed-test system-libraries ## Draw the pictures of the tutorial anew; runs the sample data, so it takes minutes
	$(BIN)/python Testing/host/screenshots.py Resources/Screenshots

clean: ## Remove the environment, caches and outputs
	rm -rf $(VENV) build dist demo-output benchmark-output .pytest_cache .ruff_cache .mypy_cache
	find RAUSlicer Testing -name __pycache__ -type d -prune -exec rm -rf {} +

# Any Python from 3.11 on that can create environments (Debian and Ubuntu ship that part in a package of its own); those tested with first.
$(BIN)/python:
	@for candidate in $${PYTHON:-} python3.11 python3.12 python3.13 python3; do \
	  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "Creating $(VENV) with $$("$$candidate" --version)"; exec "$$candidate" -m venv $(VENV); \
	  fi; \
	done; \
	echo "No Python 3.11 or newer with the venv module was found." >&2; \
	echo "On Debian or Ubuntu: apt-get install python3 python3-venv (or set PYTHON=/path/to/python3.11)." >&2; \
	exit 1

# torch comes first: sam2 is a source package that compiles against it, and would download another one if its build were isolated.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing torch and the other libraries: 3 GB to download, 8 GB on disk, some minutes"
	$(PIP) --upgrade pip setuptools wheel
	$(PIP) torch torchvision
	SAM2_BUILD_CUDA=0 $(PIP) --no-build-isolation sam2
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) --editable '.[test,train]'
	@touch $@

# Tests that draw are skipped with a reason where these are missing, so failing to get them is no failure here.
system-libraries:
	@if ! ldconfig -p | grep -q 'libEGL\.so\.1' || ! ldconfig -p | grep -q 'libGL\.so\.1' || ! ldconfig -p | grep -q 'libxkbcommon\.so\.0'; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(GL_PACKAGES) >/dev/null || true; \
	  else \
	    echo "For the tests that draw: apt-get install $(GL_PACKAGES)" >&2; \
	  fi; \
	fi
