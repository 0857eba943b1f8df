"""Running it: what a run costs, whether it can run here, how it goes, and who has which GPU."""
