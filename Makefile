# Everything a fresh machine needs: `make mini` runs the mini experiment, `make test` the tests.

PYTHON ?= python3.11
# torch is installed first and apart from the lock: its CPU and CUDA builds carry one version and different hashes.
TORCH ?= torch==2.13.0
# A lock is complete, so nothing has to be resolved; modules are compiled afterwards, on all cores.
PIP_INSTALL = bin/python -m pip install --quiet --disable-pip-version-check --no-compile
# Left out is what nothing here imports. compileall's status tells of files that are templates; it is not looked at.
COMPILE = bin/python -m compileall -q -q -j 0 -x '/tests?/|/transformers/models/(?!auto/|qwen2/)|/torch/testing/'
ACTIVATE = . .venv/bin/activate

.PHONY: help mini test lint format verl-env gpu-env test-verl test-slurm clean-mini

help:  ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.ready: envs/mini.txt pyproject.toml
	@echo "Making .venv (torch, then $$(grep -c '==' envs/mini.txt) locked packages): a minute or two, once."
	$(PYTHON) -m venv .venv
	.venv/$(PIP_INSTALL) "$(TORCH)"
	.venv/$(PIP_INSTALL) --require-hashes --no-deps -r envs/mini.txt
	.venv/$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	-@.venv/$(COMPILE) .venv/lib
	@touch $@

.venv-verl/.ready: envs/verl-cpu.txt envs/vllm-name/pyproject.toml pyproject.toml
	@echo "Making .venv-verl (torch, then $$(grep -c '==' envs/verl-cpu.txt) locked packages): two to four minutes, once."
	$(PYTHON) -m venv .venv-verl
	.venv-verl/$(PIP_INSTALL) "$(TORCH)"
	.venv-verl/$(PIP_INSTALL) --require-hashes --no-deps -r envs/verl-cpu.txt
	.venv-verl/$(PIP_INSTALL) --no-deps --no-build-isolation ./envs/vllm-name
	.venv-verl/$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	-@.venv-verl/$(COMPILE) .venv-verl/lib
	@touch $@

mini: .venv/.ready  ## Run the mini experiment on this machine's CPU and write its report.
	@$(ACTIVATE) && snakemake --profile mini
	@$(ACTIVATE) && if [ ! results/mini/report.html -nt results/mini/provenance.html ]; then \
		snakemake --profile mini --report results/mini/report.html; fi
	@echo
	@echo "results  results/mini/*.json"
	@echo "figures  results/mini/figures/mini/*.png"
	@echo "tables   results/mini/comparison/mini.md"
	@echo "report   results/mini/report.html"

lint: .venv/.ready  ## Check format and style of Python and Snakemake code.
	$(ACTIVATE) && ruff format --check . && ruff check .
	$(ACTIVATE) && snakefmt --check --compact-diff Snakefile rules
	$(ACTIVATE) && snakemake --lint

format:  .venv/.ready  ## Format Python and Snakemake code.
	$(ACTIVATE) && ruff format . && ruff check --fix . && snakefmt Snakefile rules

test: lint  ## Set up, then lint and all tests that need neither verl nor Slurm.
	$(ACTIVATE) && python -m pytest tests/unit tests/engines tests/workflow -m "not verl and not slurm"

verl-env: .venv-verl/.ready  ## Make .venv-verl: verl, Ray and vLLM for a machine without a GPU.

.venv-gpu/.ready: envs/gpu.txt envs/flash-attn.txt pyproject.toml
	@echo "Making .venv-gpu; flash-attn is compiled with nvcc against the torch that is there, which takes its time."
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/$(PIP_INSTALL) "$(TORCH)"
	.venv-gpu/$(PIP_INSTALL) --require-hashes --no-deps -r envs/gpu.txt
	.venv-gpu/$(PIP_INSTALL) --require-hashes --no-deps --no-build-isolation -r envs/flash-attn.txt
	.venv-gpu/$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	-@.venv-gpu/$(COMPILE) .venv-gpu/lib
	@touch $@

gpu-env: .venv-gpu/.ready  ## Make .venv-gpu: verl, Ray, vLLM and flash-attn for NVIDIA GPUs.

test-verl: .venv-verl/.ready  ## The tests of verl and vLLM, on the CPU.
	. .venv-verl/bin/activate && python -m pytest tests/unit/test_verifiers_strict.py tests/unit/test_grpo_advantages.py \
		tests/unit/test_grpo_loss.py
	. .venv-verl/bin/activate && python -m pytest -m verl tests/engines tests/workflow --durations=10 \
		--ignore tests/engines/test_verl_nodes.py --ignore tests/engines/test_generate_vllm.py
	. .venv-verl/bin/activate && python -m pytest tests/engines/test_verl_nodes.py tests/engines/test_generate_vllm.py \
		tests/engines/test_reference_vllm.py

test-slurm: .venv/.ready  ## The workflow, and everything that goes wrong on a cluster, on a real Slurm.
	sh tests/slurm/install.sh
	$(ACTIVATE) && python -m pytest -s tests/slurm

clean-mini:  ## Remove the mini experiment's results.
	rm -rf results/mini
