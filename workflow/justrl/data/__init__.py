"""Training and benchmark data: sources, cleaning, prompts, contamination, generated arithmetic."""
