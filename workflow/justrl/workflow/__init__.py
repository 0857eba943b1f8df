"""What Snakemake needs at each start, and what `justrl verify` checks afterwards."""
