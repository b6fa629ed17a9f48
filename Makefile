.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.installed

help:  ## list every target
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --progress-bar on -e '.[dev]'
	touch $(READY)

install: $(READY)  ## create .venv and install the project in it

# One thread: on any number of cores the same sums, and so the same table.
demo: $(READY)  ## train, fit, calibrate, evaluate on scikit-learn's digits; prints a table and the report's path
	OMP_NUM_THREADS=1 $(BIN)/gmm-torch experiment=demo

# Threads that wait do not spin: they would take the other worker's core.
test: $(READY)  ## run the whole test suite
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist worksteal

test-oldest:  ## the suite on the oldest versions that pyproject.toml admits; needs uv, and some 7 GB for .venv-oldest
	uv venv --quiet --allow-existing --seed --python 3.11 .venv-oldest
	uv pip install --quiet --python .venv-oldest/bin/python --resolution lowest-direct -e '.[attacks,serve,sweeps]'
	uv pip install --quiet --python .venv-oldest/bin/python pytest pytest-xdist hypothesis httpx
	.venv-oldest/bin/python -m pytest -n 2 --dist worksteal

test-ray: $(READY)  ## scoring on a Ray cluster of this machine, apart from the suite: it takes minutes
	TEST_RAY=1 $(BIN)/python -m pytest tests/trainers/test_score_on_ray.py

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

readme: demo  ## run the demo and write its table and picture into the README
	$(BIN)/python benchmarks/readme_table.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/readme_picture.py

results: $(READY)  ## run the paper's study on every data set found here, and write docs/results.md
	$(BIN)/gmm-torch experiment=paper
	$(BIN)/python benchmarks/results_page.py

docs: $(READY)  ## the documentation site, in site/; installs what builds it
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site/index.html"

gallery: demo  ## run the demo and take the pictures of its report into docs/gallery
	$(BIN)/python benchmarks/gallery.py

bench-em: $(READY)  ## EM against its peers, side by side, more than an hour; installs them
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[benchmarks]'
	$(BIN)/python benchmarks/em_speed.py
	$(BIN)/python benchmarks/em_speed.py --flush-subnormals
	$(BIN)/python benchmarks/kmeans_speed.py

bench-gpu: $(READY)  ## all that needs a CUDA card, under twenty minutes; REHEARSE=1: tiny sizes on the CPU, writes nothing
	$(if $(REHEARSE),,$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[benchmarks]')
	$(BIN)/python benchmarks/bench_gpu.py $(if $(REHEARSE),--rehearse)

clean:  ## remove what the targets above made (.venv, caches, runs/)
	rm -rf .venv .venv-oldest .pytest_cache .mypy_cache .ruff_cache .hypothesis runs outputs multirun dist build site

.PHONY: help install demo test test-ray test-oldest lint format readme results docs gallery bench-em bench-gpu clean
