"""Generation, grading and scoring of checkpoints."""
