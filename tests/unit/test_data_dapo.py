"""Cleaning DAPO-Math-17k: against a plain reference, on every form the file comes in."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from justrl.data import dapo
from justrl.data.dapo import (
    TRAIN_SCHEMA,
    WRAPPER_PREFIX,
    WRAPPER_SUFFIX,
    DistinctTexts,
    process_dapo_dataset,
    unwrap,
)
from justrl.data.messages import DEFAULT_SUFFIX, build_messages
from justrl.errors import UserError

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}</>{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


def dapo_row(question: str, answer: str, index: int = 0) -> dict:
    """A row as the hub's file has it."""
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": WRAPPER_PREFIX + question + WRAPPER_SUFFIX, "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": f"{index:036x}"},
    }


def write(path: Path, rows: list[dict], **options) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def read(folder: Path) -> list[tuple[str, str]]:
    rows = pq.read_table(folder / "train.parquet").to_pylist()
    return [(row["extra_info"]["question"], row["reward_model"]["ground_truth"]) for row in rows]


@pytest.fixture(scope="module")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with one token for each byte, so that lengths can be counted by hand."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE).save_pretrained(folder)
    return folder


@given(st.text() | st.text(alphabet=WRAPPER_PREFIX[:20] + WRAPPER_SUFFIX[-20:]))
def test_the_wrapper_comes_off_exactly(question: str) -> None:
    assert unwrap(WRAPPER_PREFIX + question + WRAPPER_SUFFIX) == question


def test_letters_of_the_wrapper_stay_in_the_question() -> None:
    # What str.strip(chars), met in reimplementations, would eat.
    question = "Solve for n: answer on the line"
    assert unwrap(WRAPPER_PREFIX + question + WRAPPER_SUFFIX) == question
    assert unwrap(question) == question


def reference(rows: list[tuple[str | None, str | None]]) -> list[tuple[str, str]]:
    """Clean rows of (question, answer) the slow and obvious way."""
    answers: dict[str, set[str]] = {}
    complete = [(q, a.strip()) for q, a in rows if q and q.split() and a and a.strip()]
    for question, answer in complete:
        answers.setdefault(" ".join(question.split()), set()).add(answer)
    kept = []
    for question, answer in complete:
        normal = " ".join(question.split())
        if len(answers.get(normal, ())) == 1:
            kept.append((question, answer))
            del answers[normal]
    return kept


words = st.lists(st.sampled_from(["a", "b", " ", "\n", "\t", "$x$", "三"]), max_size=4).map("".join)
answers = st.sampled_from(["1", "2", " 1", "-3", "", "184467440737095516161844674407370955161"]) | st.none()
row_lists = st.lists(st.tuples(st.none() | words, answers), max_size=30)


@settings(max_examples=60)
@given(row_lists, st.integers(1, 7))
def test_the_rows_are_the_references(tmp_path_factory, rows: list[tuple[str | None, str | None]], batch: int) -> None:
    folder = tmp_path_factory.mktemp("dapo")
    rows = [*rows, ("last", "1")]
    source = write(folder / "in.parquet", [dapo_row(q or "", a or "", i) for i, (q, a) in enumerate(rows)])
    card = process_dapo_dataset(source, folder, batch_size=batch)
    kept, counts = reference(rows), card["rows"]
    assert read(folder) == kept
    assert counts["in"] == len(rows)
    assert counts["in"] - counts["incomplete"] - counts["duplicates"] == counts["unique"]
    assert counts["unique"] - counts["conflicting"] == counts["out"] == len(kept)
    assert counts["unique"] <= counts["unique_exact"]
    assert card == json.loads((folder / "data_card.json").read_text())


@given(
    st.lists(st.lists(st.none() | st.sampled_from(["", "a", "b", "三", "c" * 50]) | st.text(), max_size=9), max_size=5)
)
def test_facts_of_distinct_texts_are_those_of_each_row(columns: list[list[str | None]]) -> None:
    texts = DistinctTexts(lambda text: (len(text), text), (0, None))
    for column in columns:
        texts.add(pa.array(column, pa.string()))
    found = [texts.facts[number] for number in texts.numbers()]
    assert found == [(len(text or ""), text) for column in columns for text in column]


@pytest.mark.parametrize("remembered", [10, 1000])
def test_each_distinct_text_is_looked_at_once_and_no_more_are_kept_than_said(monkeypatch, remembered: int) -> None:
    """The work in Python of a file that repeats itself is that of one copy; without room it is that of each batch."""
    monkeypatch.setattr(dapo, "CACHED_TEXTS", remembered)
    looked_at: list[str] = []

    def describe(text: str) -> int:
        looked_at.append(text)
        return len(text)

    texts = DistinctTexts(describe, 0)
    for _ in range(7):
        texts.add(pa.array([f"{i % 100:03}" for i in range(1000)]))
    assert {texts.facts[number] for number in texts.numbers()} == {3}
    assert len(looked_at) == (100 if remembered == 1000 else 700)


def test_what_is_written_is_verls_schema(tmp_path: Path) -> None:
    card = process_dapo_dataset(write(tmp_path / "in.parquet", [dapo_row("What is $1+1$?", "2")] * 3), tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "train.parquet")
    assert table.schema == TRAIN_SCHEMA
    assert table.to_pylist() == [
        {
            "data_source": "math_dapo",
            "prompt": [{"role": "user", "content": f"What is $1+1$?\n\n{DEFAULT_SUFFIX}"}],
            "ability": "MATH",
            "reward_model": {"style": "rule", "ground_truth": "2"},
            "extra_info": {"index": 0, "question": "What is $1+1$?"},
        }
    ]
    assert card["wrapper"] == {"full": 3, "partial": 0, "none": 0, "remains": 0}
    assert card["rows"] == {
        "in": 3,
        "incomplete": 0,
        "unique_exact": 1,
        "unique": 1,
        "duplicates": 2,
        "conflicting": 0,
        "overlong": None,
        "out": 1,
    }


def test_contradictory_questions_go_and_are_listed(tmp_path: Path) -> None:
    rows = [dapo_row("Which?", "1"), dapo_row("Sum?", "3"), dapo_row("Which?\n", "2"), dapo_row("Which?", "1")]
    card = process_dapo_dataset(write(tmp_path / "in.parquet", rows), tmp_path)
    assert read(tmp_path) == [("Sum?", "3")]
    assert card["conflicting_questions"] == [{"question": "Which?", "answers": ["1", "2"]}]


def test_copies_and_contradictions_can_be_kept(tmp_path: Path) -> None:
    rows = [("Which?", "1"), ("Sum?", "3"), ("Which?", "2"), ("Sum?", "3")]
    source = write(tmp_path / "in.parquet", [dapo_row(*row) for row in rows])
    card = process_dapo_dataset(source, tmp_path, remove_duplicates=False, remove_contradictions=False)
    assert read(tmp_path) == rows
    assert card["removed"] == {"wrapper": True, "duplicates": False, "contradictions": False}
    process_dapo_dataset(source, tmp_path, remove_duplicates=False)
    assert read(tmp_path) == [("Sum?", "3"), ("Sum?", "3")]
    process_dapo_dataset(source, tmp_path, remove_contradictions=False)
    assert read(tmp_path) == [("Which?", "1"), ("Sum?", "3")]


def test_the_file_can_be_taken_as_it_is_released(tmp_path: Path) -> None:
    """For the run that follows the authors to the letter: the suffix goes behind DAPO's own instruction."""
    source = write(tmp_path / "in.parquet", [dapo_row("Q?", "1")] * 2)
    keep = {"remove_wrapper": False, "remove_duplicates": False, "remove_contradictions": False}
    card = process_dapo_dataset(source, tmp_path, suffix="Box it.", **keep)
    rows = pq.read_table(tmp_path / "train.parquet").to_pylist()
    assert [row["prompt"][0]["content"] for row in rows] == [f"{WRAPPED}\n\nBox it."] * 2
    assert card["removed"] == {"wrapper": False, "duplicates": False, "contradictions": False}
    assert card["wrapper"] == {"full": 2, "partial": 0, "none": 0, "remains": 2}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text + " ",
        lambda text: "\n" + text,
        lambda text: text.replace(". ", ".  "),
        lambda text: WRAPPER_PREFIX + text + WRAPPER_SUFFIX,
        lambda text: text.replace(" should", " SHOULD").replace("Remember", "remember"),
    ],
)
def test_a_wrapper_that_does_not_come_off_whole_is_refused(tmp_path: Path, spoil) -> None:
    rows = [dapo_row(f"{i}?", "1") for i in range(2000)]
    for row in rows[5:8]:
        row["prompt"][0]["content"] = spoil(row["prompt"][0]["content"])
    with pytest.raises(UserError, match=r"does not come off whole in 3 of 2000 rows \(0.15%; at most 0.1%.*5\?"):
        process_dapo_dataset(write(tmp_path / "in.parquet", rows), tmp_path)
    assert not (tmp_path / "train.parquet").exists()
    card = process_dapo_dataset(write(tmp_path / "in.parquet", rows[7:]), tmp_path)
    assert card["wrapper"]["remains"] == 1 and card["rows"]["out"] == 1993


WRAPPED = WRAPPER_PREFIX + "Q?" + WRAPPER_SUFFIX
BIG = "340282366920938463463374607431768211457"


@pytest.mark.parametrize(
    "row",
    [
        dapo_row("Q?", BIG),
        {"question": "Q?", "answer": BIG},
        {"problem": "Q?", "answer": BIG, "solution": "Think."},
        {"prompt": WRAPPED, "solution": f"\\boxed{{{BIG}}}"},
        {"prompt": "Q?", "reward_model": {"ground_truth": BIG}},
        {"prompt": build_messages("Q?"), "answer": f"${BIG}$"},
    ],
    ids=lambda row: "+".join(row)[:40],
)
@pytest.mark.parametrize("form", ["parquet", "json", "jsonl", "folder"])
def test_all_known_columns_and_forms_give_the_same_rows(tmp_path: Path, row: dict, form: str) -> None:
    source = tmp_path / "rows"  # source.json is the name of a record
    if form in ("parquet", "folder"):
        path = source.with_suffix(".parquet") if form == "parquet" else source / "data" / "train-0.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, [row, row])
    else:
        path = source.with_suffix(f".{form}")
        path.write_text(json.dumps([row, row]) if form == "json" else json.dumps(row) + "\n" + json.dumps(row))
    process_dapo_dataset(source if form == "folder" else path, tmp_path / "out")
    assert read(tmp_path / "out") == [("Q?", BIG)]


def test_columns_can_be_named(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", [{"q": "Q?", "a": {"final": 7}}])
    process_dapo_dataset(source, tmp_path, question_column="q", answer_column="a.final")
    assert read(tmp_path) == [("Q?", "7")]


def test_its_own_output_is_left_as_it_is(tmp_path: Path) -> None:
    rows = [dapo_row("First?", "1"), dapo_row(f"Second? {DEFAULT_SUFFIX}", "2")]
    process_dapo_dataset(write(tmp_path / "in.parquet", rows), tmp_path / "once")
    process_dapo_dataset(tmp_path / "once" / "train.parquet", tmp_path / "twice")
    once, twice = (pq.read_table(tmp_path / name / "train.parquet") for name in ("once", "twice"))
    assert once.equals(twice)


def test_prompts_over_the_length_are_dropped(tmp_path: Path, byte_tokenizer: Path) -> None:
    # 11 bytes of template and the instruction stand around the question; 三 has three bytes.
    frame = len(f"<user>\n\n{DEFAULT_SUFFIX}</><a>".encode())
    questions = ["x" * 40, "x" * 41, "三" * 13 + "x", "三" * 14]
    source = write(tmp_path / "in.parquet", [dapo_row(question, "1") for question in questions] * 2)
    for batch_size in (1, 3, 100):
        card = process_dapo_dataset(
            source, tmp_path, tokenizer=byte_tokenizer, max_prompt_length=frame + 40, batch_size=batch_size
        )
        assert [question for question, _ in read(tmp_path)] == [questions[0], questions[2]]
        assert card["rows"]["overlong"] == 2
        assert card["prompt_tokens"]["max"] == frame + 42
    assert set(card["tokenizer"]["files"]) >= {"tokenizer.json", "tokenizer_config.json"}


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, byte_tokenizer: Path) -> None:
    source = write(tmp_path / "in.parquet", [dapo_row(f"{i % 50}?", str(i % 50), i) for i in range(500)])
    cards = [process_dapo_dataset(source, tmp_path / name, tokenizer=byte_tokenizer) for name in "ab"]
    assert cards[0] == cards[1]
    assert (tmp_path / "a" / "train.parquet").read_bytes() == (tmp_path / "b" / "train.parquet").read_bytes()
    assert read(tmp_path / "a") == [(f"{i}?", str(i)) for i in range(50)]


def test_row_groups_do_not_matter(tmp_path: Path) -> None:
    rows = [dapo_row(f"{i % 7}?", str(i % 7), i) for i in range(100)]
    one, many = write(tmp_path / "one.parquet", rows), write(tmp_path / "many.parquet", rows, row_group_size=9)
    for source, name in ((one, "a"), (many, "b")):
        process_dapo_dataset(source, tmp_path / name, batch_size=16)
    assert (tmp_path / "a" / "train.parquet").read_bytes() == (tmp_path / "b" / "train.parquet").read_bytes()


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"query": "Q?", "answer": "1"}], {}, "found query, answer; accepted are question, problem, prompt"),
        ([{"question": "Q?", "label": "1"}], {}, "found question, label; accepted are answer, reward_model"),
        ([{"question": "Q?", "answer": "1"}], {"tokenizer": "/nowhere"}, "the tokenizer /nowhere is not a folder"),
        ([{"question": "", "answer": "1"}], {}, "no question is left of 1 rows"),
        ([{"question": 3, "answer": "1"}], {}, "must hold text or lists"),
    ],
)
def test_what_cannot_be_used_is_explained(tmp_path: Path, rows: list[dict], options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        process_dapo_dataset(write(tmp_path / "in.parquet", rows), tmp_path / "out", **options)
    assert not (tmp_path / "out" / "train.parquet").exists()


def test_a_tokenizer_without_a_chat_template_is_refused(tmp_path: Path, byte_tokenizer: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((byte_tokenizer / name).read_bytes())
    with pytest.raises(UserError, match="has no chat template"):
        process_dapo_dataset(write(tmp_path / "in.parquet", [dapo_row("Q?", "1")]), tmp_path, tokenizer=folder)


def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", [dapo_row("Q?", "1")] * 5)
    command = [sys.executable, "-m", "justrl", "data", "prepare", "--output_dir", str(tmp_path / "out")]
    done = subprocess.run([*command, "--dataset-name", str(source)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("5 rows: 0 incomplete, 4 duplicates, 0 questions with contradictory answers")
    write(source, [{"query": "Q?"}])
    refused = subprocess.run([*command, "--dataset_name", str(source)], capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: {source} has no column with a known name for the question: found query")
