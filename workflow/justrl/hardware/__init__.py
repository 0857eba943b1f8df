"""The machine: its GPUs, memory and packages, and whether a training fits."""
