"""The command `justrl`: argument parsing and nothing else."""
