# make serve     install, and serve the shipped models on http://$(HOST):$(PORT)
# make test      install what the tests need, and run them all
# make api-check what the API description promises, tried by schemathesis (ARGS="--seed 1" and the like are for it)
# make lock      newest versions for the images, with the digests of their files, into requirements.lock
# make install   only install: then .venv/bin/python -m app and .venv/bin/python -m training work
#
# CPU only? make serve PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

HOST ?= 127.0.0.1
PORT ?= 8000
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet $(PIP_ARGS)

.PHONY: serve test lint api-check lock install

serve: install
	WARDROBE_HOST=$(HOST) WARDROBE_PORT=$(PORT) $(BIN)/python -m app

test: $(VENV)/.tests lint
	$(BIN)/python -m pytest --cov

lint: $(VENV)/.tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# In an environment of its own: its pytest plug-in does not load beside pytest 9.2.
api-check: $(VENV)/.tests
	test -x $(VENV)/schemathesis/bin/schemathesis || { $(PYTHON) -m venv $(VENV)/schemathesis && \
	$(VENV)/schemathesis/bin/python -m pip install --disable-pip-version-check --quiet "schemathesis>=4.32,<5"; }
	$(BIN)/python -m tests.api_check $(VENV)/schemathesis/bin/schemathesis $(ARGS)

# For every platform; without the address of the index that it was made with.
lock:
	test -x $(VENV)/uv/bin/uv || { $(PYTHON) -m venv $(VENV)/uv && \
	$(VENV)/uv/bin/python -m pip install --disable-pip-version-check --quiet "uv>=0.9"; }
	$(VENV)/uv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock" --extra postgresql pyproject.toml --output-file requirements.lock

install: $(VENV)/.installed

# --group needs pip 25.1
$(VENV)/.pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed, this is " + sys.version + ". Choose another with PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.installed: pyproject.toml | $(VENV)/.pip
	@echo "Installing into $(VENV) (once; PyTorch is large: this takes minutes) ..."
	$(PIP_INSTALL) --editable '.[train]'
	@touch $@

$(VENV)/.tests: $(VENV)/.installed $(VENV)/.clients
	$(PIP_INSTALL) --editable '.[train,mlflow,otel,ray]' --group dev
	@touch $@

# Beside the other one: they want older versions of some packages.
$(VENV)/.clients: pyproject.toml | $(VENV)/.pip
	$(PYTHON) -m venv --without-pip $(VENV)/clients
	$(BIN)/python -m pip --python $(VENV)/clients/bin/python install --disable-pip-version-check --quiet --group clients
	@touch $@
