"""What runs of an experiment have done so far."""
