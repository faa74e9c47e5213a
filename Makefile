# make serve   install and serve the shipped models on http://$(HOST):$(PORT)
# make test    install what the tests need and run them all
#
# CPU only? make serve PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

HOST ?= 127.0.0.1
PORT ?= 8000
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=

BIN := $(VENV)/bin
# pip older than 25.1 knows no dependency groups
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet $(PIP_ARGS)

.PHONY: serve train-env test lint

serve: $(VENV)/.serve
	WARDROBE_HOST=$(HOST) WARDROBE_PORT=$(PORT) $(BIN)/python -m app

test: $(VENV)/.dev lint
	$(BIN)/python -m pytest --cov

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

train-env: $(VENV)/.train

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --upgrade "pip>=25.1"

$(VENV)/.serve: pyproject.toml | $(BIN)/python
	@echo "Installing the service (PyTorch is large: this takes a few minutes once) ..."
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.train: pyproject.toml | $(BIN)/python
	@echo "Installing the training packages ..."
	$(PIP_INSTALL) --editable '.[train]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing the service, training and test packages (a few minutes once) ..."
	$(PIP_INSTALL) --editable '.[train]' --group dev
	@touch $@ $(VENV)/.train $(VENV)/.serve
