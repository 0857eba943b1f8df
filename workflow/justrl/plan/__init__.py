"""Costs of an experiment, before it is started: time, memory, GPU hours."""
