#!/usr/bin/env bash
# Run by Snakemake in the environment that it made of train.yaml, where flash-attn is compiled with the nvcc on PATH: two
# hours on 2 cores. GPU_ARCH=90 names the GPUs to come (compute capability 9.0) where none is.
set -euo pipefail
capability=${GPU_ARCH:-$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | sort -u | tr -d '.' | head -n 1)}
case $capability in 8?) capability=80 ;; 10?) capability=100 ;; 12?) capability=120 ;; esac
: "${capability:?flash-attn: no GPU is here: set GPU_ARCH, such as 90 for H100, or do this on a node with the GPU}"
# Else its setup fetches a wheel past any hash.
export FLASH_ATTENTION_FORCE_BUILD=TRUE FLASH_ATTN_CUDA_ARCHS=$capability NVCC_THREADS=1
fitting=$(awk '/^MemAvailable/ {print int($2 / 4900000)}' /proc/meminfo)
export MAX_JOBS=${MAX_JOBS:-$((fitting < $(nproc) ? fitting : $(nproc)))}
pip install --no-deps --no-build-isolation flash-attn==2.8.3
