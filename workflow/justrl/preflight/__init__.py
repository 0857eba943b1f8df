"""Checks of an experiment on its machine, before it is started."""
