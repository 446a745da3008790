# make run    executes the course: notebooks, pages and results in build/   (QUICK=1: small values, bundled data)
# make test   lint, unit tests, static notebook checks, every notebook with quick values
# make test-browser  lessons in a real JupyterLab, in Chromium (root gets it installed where there is none)
# make fuzz   the property tests for an hour, on other examples each time
# make verify every stored output compared at the default parameters, and the fetching of data
# make tables trains the runs that notebooks/results/ lacks (a bit more than an hour from nothing; can be interrupted and taken up again)
# make site   writes the course as static pages into build/site
# make lab    opens JupyterLab at notebook 00, on this machine only, with its token
# make lock   writes the two lists of tested versions anew from pyproject.toml (needs uv)

PYTHON ?= python3.11
BIN := .venv/bin
export OMP_NUM_THREADS = 1

NBSTRIPOUT := $(BIN)/nbstripout --keep-output --keep-count --keep-id --extra-keys "metadata.papermill metadata.labutils \
	metadata.language_info.version cell.metadata.papermill cell.metadata.execution"
NBVAL := $(BIN)/pytest --nbval -n 2 --dist loadfile notebooks

.PHONY: run test fuzz test-browser verify install venv lock site lab outputs tables bench clean

run: install
	$(BIN)/labutils run --output build $(if $(QUICK),--quick)

test: install
	$(BIN)/ruff check && $(BIN)/ruff format --check
	$(BIN)/pytest -q -n 2 --dist worksteal -m "not network" --ignore=tests/browser tests
	$(NBVAL) -q --quick --nbval-cell-timeout=300

fuzz: install
	FUZZ_EXAMPLES=50000 $(BIN)/pytest -q -n 2 $(shell grep -l "^@fuzz" tests/*.py)

test-browser: install
	$(BIN)/python tests/browser/find_chromium.py
	$(BIN)/pytest -q -n 2 --dist worksteal tests/browser

verify: install
	$(BIN)/pytest -q -n 2 -m network --ignore=tests/browser tests
	$(NBVAL) -q --nbval-cell-timeout=1800

install: .venv/installed

# Everything is checked against its hash but PyTorch, which is another file for each index (CPU, CUDA, platform);
# the second call of pip finds the rest installed and takes PyTorch in the version that the lock says.
.venv/installed: requirements-hashes.txt requirements-lock.txt pyproject.toml
	@echo "Installing into .venv (one to three minutes)"
	@$(MAKE) --no-print-directory venv
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements-hashes.txt
	$(BIN)/python -m pip install --quiet --requirement requirements-lock.txt --no-build-isolation --editable .
	touch $@

# An installation that was interrupted is taken up: .venv may have no pip yet (nor has one made by uv), and pip
# takes a package for installed that it was about to copy, of which only the list of its files is missing.
venv:
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@find .venv/lib -name '*.dist-info' '!' -exec test -e '{}/RECORD' ';' -prune -exec rm -r '{}' +
	@test -e $(BIN)/activate && $(BIN)/python -m pip show --quiet pip 2>/dev/null || $(BIN)/python -m venv .venv

lock:
	uv pip compile --quiet --universal --python-version 3.11.5 --no-annotate --custom-compile-command "make lock" \
		--all-extras pyproject.toml --output-file requirements-lock.txt
	uv pip compile --quiet --universal --python-version 3.11.5 --no-annotate --custom-compile-command "make lock" \
		--no-deps --generate-hashes --no-emit-package torch --no-emit-package torchvision \
		requirements-lock.txt --output-file requirements-hashes.txt

lab: install
	LABUTILS_DATA="$$($(BIN)/python -m labutils data --where)" $(BIN)/jupyter lab --ip=localhost $(if $(filter 0,$(shell id -u)),--allow-root) \
		--notebook-dir=notebooks --LabApp.default_url=/lab/tree/00_start_here.ipynb

site: install
	$(BIN)/labutils site

# Refresh the committed outputs and figures from one clean run at the default parameters.
outputs: install
	LABUTILS_FIGURES=$(CURDIR)/figures $(BIN)/labutils run --output build
	cp build/notebooks/[0-9][0-9]_*.ipynb notebooks/
	$(NBSTRIPOUT) notebooks/*.ipynb

tables: install
	$(BIN)/labutils train

bench: install
	$(BIN)/python tests/benchmarks/slow_features.py
	$(BIN)/python tests/benchmarks/sparse_coding.py
	$(BIN)/python tests/benchmarks/lab_loop.py
	$(BIN)/python tests/benchmarks/sweep_scaling.py

clean:
	rm -rf build .venv
