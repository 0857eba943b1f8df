"""`justrl verify` on an experiment of an earlier version: every kind of file, cut short or with one digit changed."""

import json
import os
import re
import shutil
import tarfile
from pathlib import Path

import pytest

from justrl.cli.main import main as justrl
from justrl.config import Experiment
from justrl.io import file_sha256
from justrl.workflow import config_snapshots, run_state
from justrl.workflow.records import write_checksums
from justrl.workflow.remaking import remade_files

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures/earlier_experiment.tar.xz"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "results/earlier"


@pytest.fixture
def results(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "results"))


def verify(results: Path, capsys, *options: str) -> tuple[int, dict[str, str]]:
    """Exit status, and by file what is said to be wrong with it."""
    status = justrl(["verify", str(results), *options])
    said: dict[str, str] = {}
    row = ""
    for line in capsys.readouterr().out.splitlines():
        if match := re.match(r"(WRONG|MISSING) +(\S+)", line):
            row = match[2]
            said[row] = match[1]
        elif line.startswith("  ") and row:
            said[row] += ("" if said[row] not in ("WRONG", "MISSING") else " ") + line.strip()
        else:
            row = ""
    return status, said


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def one_digit(content: bytes) -> bytes:
    """The digit in the middle changed; of a file without one, a bit of the byte in the middle."""
    places = [match.start() for match in re.finditer(rb"[0-9]", content)] or [len(content) // 2]
    place = places[len(places) // 2]
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def swapped(content: bytes) -> bytes:
    """Two lines that differ, in the other order."""
    lines = content.splitlines(keepends=True)
    place = next(i for i in range(len(lines) // 2, len(lines) - 1) if lines[i] != lines[i + 1])
    lines[place : place + 2] = reversed(lines[place : place + 2])
    return b"".join(lines)


def edit(path: Path, change) -> None:
    """Change a file and keep its times; others may be hard links to it."""
    content, times = path.read_bytes(), path.stat()
    path.unlink()
    path.write_bytes(change(content))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


# Nothing is made of these, so that many may be broken at once.
ENDS = (
    "claims.html", "claims.md", "comparison/mini.html", "comparison/mini.md", "comparison/mini.png",
    "comparison/mini.svg", "data/sums/tiny/contamination.csv", "data/sums/tiny/contamination.html",
    "data/sums/tiny/contamination.md", "data/sums/tiny/contamination.png", "data/sums/tiny/contamination.svg",
    "figures/mini/checkpoints.png", "figures/mini/diagnostics.svg", "figures/mini/forecast.json",
    "figures/mini/training.svg", "runs/mini/health.json", "runs/mini/model_card.md", "runs/mini/rollouts.html",
    "samples/sums_heldout_mini.html", "samples/sums_harder_mini@base.html",
)  # fmt: skip
# Other files are made of these: what is wrong is said of the file itself, or of the row that it belongs to.
BEGINNINGS = {
    "benchmarks/sums_heldout/questions.parquet": "benchmarks/sums_heldout/questions.parquet",
    "benchmarks/sums_heldout/raw/train.parquet": "benchmarks/sums_heldout/raw/train.parquet",
    "claims.json": "claims.json",
    "comparison/mini.csv": "comparison/mini.csv",
    "data/sums/raw/train.parquet": "data/sums/raw/train.parquet",
    "data/sums/tiny/contamination.json": "data/sums/tiny/contamination.json",
    "data/sums/tiny/prepared/data_card.json": "data/sums/tiny/prepared/data_card.json",
    "data/sums/tiny/train.parquet": "data/sums/tiny/train.parquet",
    "hardware.json": "hardware.json",
    "models/tiny/config.json": "models/tiny/config.json",
    "provenance.json": "provenance.json",
    "runs/mini/metrics.jsonl": "runs/mini/metrics.jsonl",
    "runs/mini/preflight.json": "runs/mini/preflight.json",
    "runs/mini/run.json": "runs/mini",
    "runs/mini/segments/4/metrics.jsonl": "runs/mini",
    "runs/mini/segments/8/rollouts.parquet": "runs/mini",
    "runs/mini/work/finished/step_000004/segment.json": "runs/mini",
    "runs/mini/work/metrics.jsonl": "runs/mini",
    "sums_heldout_mini.json": "sums_heldout_mini.json",
    "evaluations/mini@8/sums_harder/paper/grades_rules.parquet": "sums_harder_mini.json",
}


def test_what_is_as_it_was_made_is_right(results, capsys):
    assert verify(results, capsys, "--states") == (0, {})


@pytest.mark.parametrize("change", [cut, one_digit])
def test_each_page_table_and_figure_that_was_changed_is_named(results, capsys, change):
    for name in ENDS:
        edit(results / name, change)
    status, wrong = verify(results, capsys)
    assert status == 1
    assert set(ENDS) <= set(wrong), set(ENDS) - set(wrong)
    assert set(wrong) <= {*ENDS, "ro-crate-metadata.json"}


@pytest.mark.parametrize("change", [cut, one_digit])
@pytest.mark.parametrize("name", BEGINNINGS)
def test_each_file_that_others_are_made_of_is_named(results, capsys, name, change):
    edit(results / name, change)
    status, wrong = verify(results, capsys)
    assert status == 1 and BEGINNINGS[name] in wrong
    if BEGINNINGS[name] != name:
        assert Path(name).name in wrong[BEGINNINGS[name]].replace(" ", "")


def test_a_list_of_hashes_that_was_cut_short_is_named(results, capsys):
    edit(results / "ro-crate-metadata.json", cut)
    assert "ro-crate-metadata.json" in verify(results, capsys)[1]
    (results / "checksums.json").write_text("{")
    assert "checksums.json" in verify(results, capsys)[1]


def test_what_is_not_made_again_is_compared_with_the_checksums(results, capsys):
    experiment = Experiment.from_mapping(config_snapshots.read(config_snapshots.newest(results))[0])
    write_checksums(run_state.layout_of(experiment, results))
    (results / "ro-crate-metadata.json").unlink()
    assert verify(results, capsys, "--states") == (0, {})
    # Written again, they still know which files an earlier version made: those may be worded otherwise.
    write_checksums(run_state.layout_of(experiment, results))
    assert verify(results, capsys) == (0, {})
    changed = {"figures/mini/training.svg", "comparison/mini.png", "hardware.json", "runs/mini/preflight.json"}
    changed |= {"models/tiny/config.json", "data/sums/raw/train.parquet"}
    for name in changed:
        edit(results / name, one_digit)
    assert changed <= verify(results, capsys)[1].keys()


def test_a_word_that_was_forged_together_with_its_hash_is_seen_in_a_page_of_this_version(results, capsys):
    (results / "ro-crate-metadata.json").unlink()
    experiment = Experiment.from_mapping(config_snapshots.read(config_snapshots.newest(results))[0])
    layout, page = run_state.layout_of(experiment, results), results / "claims.json"
    made = next(made for made in remade_files(layout) if page in made.files)
    justrl([*made.words, made.option, *map(str, made.here())])
    write_checksums(layout)
    assert "claims.json" not in verify(results, capsys)[1]
    before = file_sha256(page)
    edit(page, lambda content: content.replace(b"not run", b"held up"))
    assert file_sha256(page) != before
    edit(results / "checksums.json", lambda content: content.replace(before.encode(), file_sha256(page).encode()))
    assert "claims.json" in verify(results, capsys)[1]


@pytest.mark.parametrize("name", ["comparison/mini.csv", "claims.md", "runs/mini/metrics.jsonl"])
def test_rows_in_another_order_are_named(results, capsys, name):
    edit(results / name, swapped)
    assert name in verify(results, capsys)[1]


@pytest.mark.parametrize(
    "name", [*(name for name in ENDS if name.endswith((".html", ".md", ".json", ".csv"))), "claims.json"]
)
def test_a_file_that_was_forged_together_with_its_recorded_hash_is_seen(results, capsys, name):
    path, card = results / name, results / "ro-crate-metadata.json"
    before = file_sha256(path)
    edit(path, one_digit)
    edit(card, lambda content: content.replace(before.encode(), file_sha256(path).encode()))
    assert name in verify(results, capsys)[1]


STATE = "runs/mini/work/checkpoints/step_000008"


@pytest.mark.parametrize("name", ["model.safetensors", "tensors.pt", "state.json", "metrics.jsonl", "manifest.json"])
def test_a_training_state_that_was_cut_short_is_named(results, capsys, name):
    edit(results / STATE / name, cut)
    wrong = verify(results, capsys)[1]
    assert name in wrong[STATE]


def test_the_bytes_of_large_files_of_a_state_are_hashed_when_asked(results, capsys, monkeypatch):
    monkeypatch.setattr("justrl.workflow.records.SMALL", 1000)
    edit(results / STATE / "model.safetensors", lambda content: content[:-1] + bytes([content[-1] ^ 1]))
    assert verify(results, capsys) == (0, {})
    assert "model.safetensors" in verify(results, capsys, "--states")[1][STATE]


def test_a_state_of_verl_is_checked_by_the_checksums_that_torch_wrote(results, capsys):
    """Their manifest is the archive that each file is: a table at its end, a checksum for each tensor."""
    folder = results / "runs/mini/work/checkpoints/global_step_8"
    (folder / "actor").mkdir(parents=True)
    path = folder / "actor/model_world_size_1_rank_0.pt"
    shutil.copy(results / STATE / "tensors.pt", path)
    assert verify(results, capsys, "--states") == (0, {})
    row = folder.relative_to(results).as_posix()
    edit(path, lambda content: content[:60_000] + bytes([content[60_000] ^ 1]) + content[60_001:])
    assert path.name in verify(results, capsys, "--states")[1][row]
    edit(path, cut)
    assert path.name in verify(results, capsys)[1][row]


@pytest.mark.parametrize(
    "name",
    [
        "aime_fake.json",
        "my_bench_mini.json",
        "greedy/my_bench_mini.json",
        "another/sums_heldout_mini.json",
        "comparison/other.md",
        "samples/sums_heldout_other.html",
        "figures/other/training.svg",
        "runs/mini/health_old.json",
        "runs/other/metrics.jsonl",
        "golden/other.csv",
    ],
)
def test_what_the_configuration_does_not_know_is_named(results, capsys, name):
    (results / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(results / "sums_heldout_mini.json", results / name)
    status, wrong = verify(results, capsys)
    (row,) = wrong
    assert status == 1 and name.startswith(row) and "it is not known to the configuration" in wrong[row]


def test_what_an_earlier_start_knew_is_said_to_be_its(results, capsys):
    name = "my_bench_mini.json"
    shutil.copy(results / "sums_heldout_mini.json", results / name)
    first = json.loads(config_snapshots.newest(results).read_text())
    (results / "experiments/0002.json").write_text(json.dumps(first))
    first["config"]["benchmarks"]["my_bench"] = first["config"]["benchmarks"]["sums_heldout"]
    (results / "experiments/0001.json").write_text(json.dumps(first))
    justrl(["verify", str(results)])
    assert re.search(rf"^ok +{re.escape(name)} +of an earlier configuration, 0001.json", capsys.readouterr().out, re.M)


def test_pages_of_ones_own_at_the_top_are_left_alone(results, capsys):
    (results / "report.html").write_text("<p>mine</p>")
    (results / "notes.md").write_text("mine")
    assert verify(results, capsys) == (0, {})


def ask(results: Path, *targets: str) -> None:
    """As if the last start had been asked for these."""
    config_snapshots.note_asked(targets, config_snapshots.newest(results))


def test_only_what_was_asked_for_is_missing(results, capsys):
    (results / "ro-crate-metadata.json").unlink()
    shutil.rmtree(results / "figures")
    assert verify(results, capsys) == (0, {}), "nobody knows what was asked for"
    ask(results, "sums_heldout_mini.json")
    assert verify(results, capsys) == (0, {})
    ask(results, "figures/mini/training.svg")
    assert verify(results, capsys) == (1, {"figures/mini/training.svg": "MISSING -> it is missing"})
    ask(results, "all")
    status, wrong = verify(results, capsys)
    assert status == 1 and {"figures/mini/forecast.svg", "checksums.json"} <= set(wrong)
    assert all(said.startswith("MISSING") for said in wrong.values())


@pytest.mark.parametrize("options", [(), ("--config", "mini/experiment.yaml")])
def test_where_nothing_was_started_nothing_is_wrong(tmp_path, capsys, options):
    assert justrl(["verify", str(tmp_path / "results"), *options]) == 0
    out = capsys.readouterr().out
    assert "no experiment has been started in" in out or "not requested, not computed" in out
    assert out.count("\n") == 1


def test_the_table_fits_a_terminal_and_ends_with_the_counts(results, capsys):
    edit(results / "sums_heldout_mini.json", one_digit)
    (results / "claims.md").unlink()
    justrl(["verify", str(results)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert re.fullmatch(r"\d+ correct, \d+ wrong(, \d+ [a-z, ]+)*", lines[-1])
