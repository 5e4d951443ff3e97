# make demo, test, page, gpu, fuzz, faults: each does all of its own set-up, in .venv, and does it once.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# One more than there are cores: some tests wait, for a process that is killed or a clock.
WORKERS = $(shell $(PYTHON) -c "import os; print(min((os.cpu_count() or 1) + 1, 4))")
DRAWINGS := --data phantoms --size 64 --out demo/runs
DEMO := --runs demo/runs --onnx demo/onnx

.PHONY: demo test javascript page gpu fuzz faults clean
.DELETE_ON_ERROR:

demo: $(VENV)/ready
	rm -rf demo
	@echo "SYNTHETIC: all that follows is learned from drawings made by this program, and says nothing of X-rays"
	$(PY) train.py --arch simple $(DRAWINGS) --epochs 150 --name synthetic-simple
	$(PY) train.py --arch resnet34 $(DRAWINGS) --epochs 24 --name synthetic-resnet34
	$(PY) export.py --all $(DEMO)
	$(PY) evaluate.py --all $(DEMO) --report demo/report

test: $(VENV)/ready-test javascript
	$(PY) -m ruff check --quiet .
	$(PY) -m ruff format --check --quiet .
	$(PY) -m ty check --quiet
	OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder tests

# Style and types of what runs in a browser and in node, where node and its packages can be had.
javascript:
	@if ! command -v npm >/dev/null; then \
		echo "no node here: the style and types of page/ and examples/ go unchecked"; \
	elif said=$$($(MAKE) --no-print-directory --silent node_modules/.package-lock.json 2>&1); then \
		npx --no-install biome check --error-on-warnings --log-level=warn && npx --no-install tsc --project .; \
	elif echo "$$said" | grep -Eq "code (ENOTFOUND|EAI_AGAIN|ECONN|ETIMEDOUT|E[A-Z]+UNREACH|ERR_SOCKET|E40[37]|E5|SELF_|UNABLE_)"; \
	then echo "npm cannot reach its registry: the style and types of page/ and examples/ go unchecked"; \
	else echo "$$said" >&2; exit 1; fi

node_modules/.package-lock.json: package-lock.json
	npm ci --ignore-scripts --prefer-offline --no-audit --no-fund --fetch-retries=0 --loglevel=error
	@touch $@

# The page of a graph, in a browser, until Ctrl-C: make page GRAPH=onnx/resnet34.onnx PORT=8080
GRAPH ?= trained/simple.onnx
PORT ?= 8000
page: .venv-page/ready node_modules/.package-lock.json
	@$(PYTHON) -c "import socket; socket.create_server(('127.0.0.1', $(PORT)))" 2>/dev/null || \
		{ echo "port $(PORT) is taken: make page PORT=$$(($(PORT) + 1))" >&2; exit 1; }
	@said=$$(.venv-page/bin/python export.py page $(GRAPH) --out site) && echo "$$said" | head -n 1  # it is served below
	@(sleep 1; $(PYTHON) -m webbrowser http://127.0.0.1:$(PORT) >/dev/null 2>&1) &
	$(PYTHON) -m http.server --bind 127.0.0.1 --directory site $(PORT)

# Small packages alone: to show a graph takes no PyTorch.
.venv-page/ready: requirements.txt
	$(PYTHON) -m venv .venv-page
	.venv-page/bin/python -m pip install --quiet --disable-pip-version-check \
		$$(grep -E "^(onnx|numpy|pillow|tqdm|tabulate)==" requirements.txt) \
		$$(sed -n "s/^\(onnxruntime==[^;]*\);.*/\1/p" requirements.txt)
	@touch $@

# On a machine with an NVIDIA GPU: the tests that need one, and a table of rates, in some minutes.
# `make gpu DATA=chest_xray` measures on those films, not on drawings.
gpu: $(VENV)/ready-test
	@if $(PY) -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then \
		$(PY) -m pytest tests/test_cuda.py && $(PY) bench.py gpu $(if $(DATA),--data $(DATA)); \
	else echo "PyTorch finds no NVIDIA GPU here: nothing to test or to measure"; fi

# Every kind of file, damaged thousands of times: a quarter of an hour.
fuzz: $(VENV)/ready-test
	OMP_NUM_THREADS=1 MALLOC_ARENA_MAX=2 $(PY) tests/fuzzing.py

# Killed, without disk, without readers: about an hour.
faults: $(VENV)/ready-test
	CXR_FAULTS=50 $(PY) -m pytest -rP tests/test_faults.py tests/test_resume.py

$(VENV)/ready: requirements.txt | $(VENV)/bin/python
	@echo "installing the packages of requirements.txt into $(VENV): some GB, a few minutes the first time"
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/ready-test: requirements-test.txt $(VENV)/ready
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	@touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; make PYTHON=/path/to/python3.11 names one" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) .venv-page demo site node_modules .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
