"""What an experiment costs before it is started: time, memory, GPU hours."""
