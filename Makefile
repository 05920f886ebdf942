# `make demo` and `make test` do everything on a fresh machine; both call `make setup`, which makes .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test check bench format clean slurm-up slurm-down

setup: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "error: Python 3.10 or newer is needed; give make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { rm -rf $(VENV); \
	  test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -y -qq python3-venv && $(PYTHON) -m venv $(VENV); } \
	  || { echo "error: 'python3 -m venv' doesn't work; run: sudo apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	HF_HUB_OFFLINE=1 $(BIN)/python jobs/launch.py recipe=tiny_coqa profile=local

# With bytecode kept: it starts some thousand processes.
test: setup
	HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=PASSIVE PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/check_mirrors.py

# Ours against what a user would pick instead, side by side: about 20 minutes on an idle machine.
bench: setup
	$(BIN)/python benchmarks/all.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) runs prepared build *.egg-info

# A SLURM cluster on this machine: see slurm/cluster/README.md.
slurm-up:
	slurm/cluster/up

slurm-down:
	slurm/cluster/down
