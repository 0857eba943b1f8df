"""Names of folders that a shell, or Snakemake, could read as something else."""


def test_spaces_quotes_dollars_and_letters_are_names(make_workspace, tmp_path):
    folder = tmp_path / "a b'c\"d $e é"
    folder.mkdir()
    copy = make_workspace(folder)
    (folder / "mine.yaml").write_text("pathvars: {results: 'results/my $é'}", encoding="utf-8")
    wanted = "results/my $é/benchmarks/sums_heldout/questions.parquet"
    copy.run("--profile", "mini", "--configfile", "mine.yaml", "--", wanted)
    assert (folder / wanted).is_file()


def test_a_repository_with_a_brace_in_its_name_is_refused(make_workspace, tmp_path):
    (tmp_path / "b{r}ace").mkdir()
    status, output = make_workspace(tmp_path / "b{r}ace").dry_run("--profile", "mini")
    assert status and "has a brace in its name" in output and "Traceback" not in output
