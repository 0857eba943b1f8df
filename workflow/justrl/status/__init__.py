"""Progress of an experiment's runs, and messages of its failed jobs."""
