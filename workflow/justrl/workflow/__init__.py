"""Checks of the files that Snakemake needs at each start, and those of `justrl verify`."""
