"""Snakemake's last lines name what failed, whichever profile it runs under."""

import pytest


@pytest.mark.parametrize("options", [("--profile", "mini"), ("--configfile", "mini/experiment.yaml", "--cores", "2")])
def test_the_sentence_of_a_failed_job_stands_at_the_end(own_workspace, tmp_path, options):
    wanted = [f"results/mini/benchmarks/{name}/questions.parquet" for name in ("sums_heldout", "sums_harder")]
    for name in wanted:
        (tmp_path / name.replace("questions.parquet", "raw")).mkdir(parents=True)
    done = own_workspace.run(*options, "--keep-going", *wanted, check=False)
    assert done.returncode == 1
    *_, first, second, log, _elapsed, _what, _ends = done.stderr.splitlines()
    for line, name in zip(sorted([first, second]), sorted(wanted), strict=True):
        assert line.startswith("format_benchmark: ") and name.replace("questions.parquet", "raw") in line, line
    assert log.startswith("Complete log")
