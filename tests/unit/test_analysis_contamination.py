"""The figure and the table of what benchmarks share with a training set, from two tiny sets to the page."""

import json

import pytest

from justrl import config as experiment
from justrl.cli.main import main
from justrl.data.contamination import check_contamination, summarize
from justrl.errors import UserError
from justrl.report.contamination_figure import card_section, contamination_section, parts_of, plot_contamination

PHRASE = "where m and n are relatively prime positive integers then find the sum of both"
EQUAL = "A cube has an edge of three, how many small cubes of edge one does it hold inside?"


def summary():
    """Questions of a benchmark of which one is asked, one half asked, one shares a phrase; and a newer one."""
    half = " ".join(f"word{number}" for number in range(30))
    benchmarks = [
        {"benchmark": "aime", "id": "1", "question": EQUAL},
        {"benchmark": "aime", "id": "2", "question": half},
        {"benchmark": "aime", "id": "3", "question": f"{' '.join(f'other{i}' for i in range(40))} {PHRASE}"},
        {"benchmark": "aime", "id": "4", "question": "What is one plus one?"},
        {"benchmark": "aime26", "id": "1", "question": f"{' '.join(f'new{i}' for i in range(40))} {PHRASE}"},
    ]
    train = [EQUAL, f"{half.rpartition(' word25')[0]} and so on", f"Something else, {PHRASE}"]
    found = summarize(check_contamination(train, benchmarks), benchmarks, len(train))
    found["train_rows"] |= {"removed": 0, "out": 3}
    return found


def test_each_question_counts_once_by_the_most_it_shares():
    counts = summary()["benchmarks"]
    assert parts_of(counts["aime"]) == (1, 1, 1) and parts_of(counts["aime26"]) == (0, 0, 1)


def test_the_table_says_what_is_newer_and_outside_the_average():
    section = contamination_section(summary(), {"aime": "AIME 2024"}, ["aime26"])
    first, second = section.rows
    assert (first[0].main, first[0].note) == ("AIME 2024", "in the paper's average")
    assert [cell.main for cell in first[1:]] == ["4", "1", "1", "1", "75.0%", "3"]
    assert second[0].note == "outside the paper's average, newer than the weights"
    assert any("newer" in note for note in section.notes)
    assert contamination_section(summary(), {}, []).notes == ()


def test_the_figure_draws_shares_of_each_benchmark():
    axis = plot_contamination(summary(), {"aime": "AIME 2024"}, ["aime26"], "paper").axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["AIME 2024", "aime26 (newer than the weights)"]
    widths = [[bar.get_width() for bar in bars] for bars in axis.containers]
    assert widths == [[25.0, 0.0], [25.0, 0.0], [25.0, 100.0]]
    assert {"3 of 4", "1 of 1"} <= {text.get_text().strip() for text in axis.texts}


def test_the_command_writes_figure_and_table(tmp_path):
    (tmp_path / "contamination.json").write_text(json.dumps(summary()))
    outputs = [tmp_path / f"out.{ending}" for ending in ("svg", "png", "html", "md")]
    words = ["report", "contamination", "--summary", str(tmp_path / "contamination.json"), "--newer", "aime26"]
    assert main([*words, "--experiment", "mini", "--output", *map(str, outputs)]) == 0
    assert all("not a paper result" in outputs[place].read_text() for place in (2, 3)) and outputs[1].stat().st_size
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UserError, match=r"other\.json is not a contamination\.json: benchmarks is missing"):
        main([*words[:3], str(tmp_path / "other.json"), "--output", str(outputs[0])])


def test_the_two_contests_after_the_weights_are_marked_and_not_part_of_the_evaluation():
    loaded = experiment.load()
    newer = {name for name, entry in loaded.benchmarks.items() if entry.newer}
    assert newer == {"aime26", "hmmt26"} and newer.isdisjoint(loaded.evaluation.benchmarks)


def test_the_data_card_is_a_table_and_what_was_not_counted_is_a_dash():
    rows = {"in": 17917, "incomplete": 1, "unique": 17000, "conflicting": 7, "overlong": None, "out": 16993}
    card = {
        "dataset": {"hub_id": "BytedTsinghua-SIA/DAPO-Math-17k", "revision": "abc"},
        "prompt": {"max_prompt_length": 1024},
        "rows": rows,
        "prompt_tokens": None,
        "output": {"sha256": "0123456789abcdef"},
    }
    section = card_section(card)
    cells = {row[0].main: row[1].main for row in section.rows}
    assert (
        cells["Rows read"] == "17,917"
        and cells["Prompts over the limit"] == "–"
        and cells["Kept for training"] == "16,993"
    )
    assert section.lead == "Source: BytedTsinghua-SIA/DAPO-Math-17k, revision abc." and len(section.rows) == 6
    tokens = {"mean": 102.25, "p95": 240.0, "max": 900}
    assert card_section(card | {"prompt_tokens": tokens}).rows[-1][1].main == "102.2"
