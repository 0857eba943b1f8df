"""Metrics, statistics over runs, figures, comparison with the published numbers, and provenance."""
