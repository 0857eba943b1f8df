"""The check of the pages' English: each of its phrases is found, code and plain sentences are not."""

import importlib.util

import pytest

from documentation import ROOT

FOUND = {
    "The log lies beside it.": "beside",
    "All but for one.": "but for",
    "Results are held\nagainst the files.": "held against",
    "No GPU was at hand.": "at hand",
    "Whether it can be had.": "be had",
    "A file of one's own.": "one's",
    "Paths begin where one starts.": "where one starts",
    "The run goes on.": "goes on",
    "It is left and gone on from.": "gone on",
    "Trained anew.": "anew",
    "The model is made again.": "made again",
    "It stands in the log.": "stands in",
    "A stand-in of R1's.": "stand-in",
    "Slurm is told of it.": "is told",
    "Jobs told of as ours are.": "told of",
    "The command `justrl plan` says why.": "@ says",
    "The log says why.": "log says",
    "It says so.": "says so",
    "The length is said there.": "is said",
    "They are 4 unless said.": "unless said",
    "It ends with a sentence.": "with a sentence",
    "This is no result.": "is no",
    "64 in place of 256.": "in place of",
    "It was set aside.": "set aside",
    "It is evaluated unasked.": "unasked",
    "The time asked of the queue.": "asked of",
    "Refused on the spot.": "on the spot",
    "Tokens a second.": "tokens a second",
    "Four jobs. What is kept, and why.": "what",
    "A ladder.": "ladder",
    "The rungs.": "rungs",
    "Files are stamped.": "stamped",
    "The golds.": "golds",
    "A taught model.": "taught",
    "The bug is mended.": "mended",
    "The headline grader.": "headline grader",
    "Furnished jobs.": "furnished",
    "The wish and the lock.": "the wish",
    "It waits for ever.": "for ever",
}
PLAIN = """# What it costs

Is it here? What does it cost? There is no GPU, and there
is no need for one. It stands for a name, and is no longer ongoing: see `goes on`, [costs](cluster.md#what-goes-on).

```sh
justrl plan    # what is told beside it
```

We recommend a time stamp, and said as much: a second run takes 4 minutes.
"""


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("plain_english", ROOT / "docs/plain_english.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("sentence", FOUND)
def test_each_phrase_is_found_on_its_line(check, sentence):
    lines = [(line, phrase.lower()) for line, phrase, _ in check.found(check.hidden(f"Title\n\n{sentence}"))]
    assert (3, FOUND[sentence]) in lines


def test_each_pattern_has_a_sentence(check):
    text = check.hidden("\n\n".join(FOUND))
    assert {plain for _, _, plain in check.found(text)} == set(check.PLAIN.values())


def test_code_and_plain_sentences_are_left_alone(check):
    assert list(check.found(check.hidden(PLAIN))) == []


def test_of_a_configuration_the_comments_are_read(check):
    text = "goes_on: 1\nurl: a#beside  # a\n# one that goes\n# on\n  key: beside # it is anew\n"
    assert [(line, phrase) for line, phrase, _ in check.found(check.hidden(check.comments(text)))] == [
        (3, "goes on"),
        (5, "anew"),
    ]


def test_the_status_is_that_of_the_findings(check, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("Plain.\n")
    assert check.main() == 0 and capsys.readouterr().out == ""
    (tmp_path / "README.md").write_text("Plain.\n\nIt goes on.\n")
    assert check.main() == 1
    assert capsys.readouterr().out == "README.md:3: goes on, write: continue, resume\n"
