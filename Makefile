# Two commands do everything: `make demo` and `make test`.  Each sets up what it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CONSTRAINTS := -c constraints.txt
# A file's tests stay together, so that what they share is made once.
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist loadfile
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint clean help

help:
	@echo "make demo   install, then tomogram -> average on an embedded phantom (demo_output/run/report.html)"
	@echo "make test   install, then every test"
	@echo "make lint   ruff, mypy --strict, the import floors"
	@echo "make clean  remove .venv and demo_output"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "tomodask needs Python >= 3.11, $(PYTHON) is $$($(PYTHON) --version 2>&1); try make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)

# A stamp per extra: a second call installs nothing, a changed pyproject.toml installs again.
$(VENV)/.core: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install -q $(CONSTRAINTS) -e .
	@touch $@

$(VENV)/.segmentation: $(VENV)/.core
	$(PIP) install -q $(CONSTRAINTS) -e '.[segmentation]'
	@touch $@

$(VENV)/.test: $(VENV)/.segmentation
	$(PIP) install -q $(CONSTRAINTS) -e '.[segmentation,training,classification,planar,test]'
	@touch $@

$(VENV)/.lint: $(VENV)/.test
	$(PIP) install -q $(CONSTRAINTS) -e '.[segmentation,training,classification,planar,test,lint]'
	@touch $@

demo: $(VENV)/.segmentation
	$(BIN)/tomodask demo -o demo_output

test: $(VENV)/.test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) demo_output
