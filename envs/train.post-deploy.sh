#!/usr/bin/env bash
# Run by Snakemake in the environment that it made of train.yaml; needs nvcc, and an hour the first time.
set -euo pipefail
pip install --no-deps --no-build-isolation flash-attn==2.8.3
