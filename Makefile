# make setup      the environment in .venv                   make demo   three methods compared on built-in data
# make test       linter, formatter check, most tests        make bench  speed against plain reference code
# make test-all   the same with the slow tests: several processes, whole trainings, real clusters
PYTHON ?= python3
BIN := .venv/bin
# Each process of the tests takes half of what another has left when it has nothing left itself, so that all end together.
PYTEST := python -m pytest -n auto --dist worksteal --durations 10

.PHONY: setup demo test test-all test-lowest bench clean

setup: .venv/ready

# uv takes torch and torchvision from one index, together, and is several times faster than pip. Compiled once here, packages need not
# be compiled at each start where Python may not write beside them (PYTHONDONTWRITEBYTECODE): 12 s of importing became 5.
.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is %d.%d; run: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (several GB with torch; once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r pyproject.toml --extra dev --extra loggers
	@$(BIN)/python -c "import data.views.cpu.crops" # compiled now, in ten seconds, and not in the first run
	@touch $@

demo: setup
	@$(BIN)/python run.py compare --grid experiments/demo.yaml --jobs 2 --out demo

test: MARKS := -m "not slow"
test test-all: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/$(PYTEST) $(MARKS)

# All tests with the lowest versions that pyproject.toml allows of what it names, in an environment of their own.
test-lowest: setup
	@test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	$(BIN)/uv pip install --quiet --compile-bytecode --python .venv-lowest/bin/python --resolution lowest-direct -r pyproject.toml --extra dev --extra loggers
	OMP_NUM_THREADS=1 .venv-lowest/bin/$(PYTEST)

# Machine ceilings, training steps, input, evaluations and start-up; BENCH="--only dino --reference DIR" for a part or more.
bench: setup
	@$(BIN)/python -m benchmarks.run $(BENCH)

clean:
	rm -rf .venv .venv-lowest demo
