"""Find training questions that equal or contain a benchmark question, lie in it, or share 13 words in a row with it.

Thirteen words are the usual window (GPT-3, Llama). Stock phrases of competition problems can be as long ("where m and n
are relatively prime positive integers, find m + n"). So each pair also has the share of the benchmark question that it
covers: nearly all of it for a copy, little for a stock phrase. A question of fewer words has no window. It matches if
one question contains the whole other one, including signs. Spellings of LaTeX, case and punctuation are normalised.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from justrl.errors import UserError
from justrl.io import atomic_write, write_csv, write_json, write_parquet

NGRAM = 13
LEAST_HELD = 5  # words and signs; shorter ones would match too often: many questions contain "Find x"
_JOINS = frozenset("+-/^=<>")
# LaTeX that changes a formula's appearance but not its meaning. A command ends where its letters end.
_SPELLINGS = (
    (re.compile(r"\\[()\[\],;:!> ]|\$|~"), " "),
    (re.compile(r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-z])\.?"), " "),
    (re.compile(r"\\(?:text|textrm|textbf|textit|mathrm|mathbf|mbox|operatorname|displaystyle|q?quad)(?![a-z])"), " "),
    (re.compile(r"\\[dtc]frac(?![a-z])"), r"\\frac "),
    (re.compile(r"\\(?:cdot|times|ast)(?![a-z])|[×·⋅∗]"), "*"),
    (re.compile(r"\\(?:[lcd]?dots|dotsc|dotsb)(?![a-z])|…|\.{3}"), " dots "),
    (re.compile(r"\\(?:le|leq|leqslant)(?![a-z])"), "≤"),
    (re.compile(r"\\(?:ge|geq|geqslant)(?![a-z])"), "≥"),
    (re.compile(r"\\(?:ne|neq)(?![a-z])"), "≠"),
    (re.compile(r"[−–‐]"), "-"),
)
# The data that a run has trained with; `workflow.start_checks` keeps it there.
TRAINED = "trained.parquet"


@dataclass(frozen=True)
class Pair:
    """A training question and a benchmark question that overlap.

    `train_row` is the row of the training file, from 0. `coverage` is the share of the benchmark question's n-grams
    that the training question contains (1.0 for equal questions).
    """

    benchmark: str
    id: str
    train_row: int
    kind: str
    shared_ngrams: int
    coverage: float
    train_question: str
    benchmark_question: str


def plain(text: str) -> str:
    """Normalise a text to one case, one Unicode form and one spelling of LaTeX."""
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    return unicodedata.normalize("NFKC", text).casefold()


def normalized_words(text: str) -> list[str]:
    """Return the words of a text: runs of letters and digits in its plain form, without signs."""
    return re.findall(r"[^\W_]+", plain(text))


def tokens(text: str) -> tuple[str, ...]:
    """Return the words, numbers and signs of a text's plain form, without punctuation, braces and backslashes."""
    return tuple(re.findall(r"\d+(?:\.\d+)?|[^\W\d_]+|[^\w\s.,;:?\'\"{}\\’‘“”]", plain(text)))


def ngrams(text: str, n: int = NGRAM) -> set[str]:
    """Return the distinct sequences of `n` words in a text; empty if it has fewer words."""
    words = normalized_words(text)
    return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}


def holds(longer: tuple[str, ...], shorter: tuple[str, ...]) -> bool:
    """Whether `longer` contains `shorter` without a formula that continues, as 1 + 2 does in 1 + 2 + 3."""
    size = len(shorter)
    for i in range(len(longer) - size + 1):
        if longer[i : i + size] == shorter:
            before, after = longer[max(i - 1, 0) : i], longer[i + size : i + size + 1]
            goes_further = _JOINS.intersection(after) or (shorter[0].isdigit() and _JOINS.intersection(before))
            if not goes_further:
                return True
    return False


class Questions:
    """Index of the benchmarks' questions by text, by n-grams and, for short questions, by token sequences."""

    def __init__(self, questions: Sequence[str], n: int):
        self.n = n
        self.tokens = [tokens(question) for question in questions]
        self.grams = [ngrams(question, n) for question in questions]
        self.by_gram: dict[str, list[int]] = defaultdict(list)
        self.by_text: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self.by_run: dict[tuple[str, ...], set[int]] = defaultdict(set)
        for number, words in enumerate(self.tokens):
            self.by_text[words].append(number)
            for gram in self.grams[number]:
                self.by_gram[gram].append(number)
            if not self.grams[number]:
                for i in range(len(words) - LEAST_HELD + 1):
                    self.by_run[words[i : i + LEAST_HELD]].add(number)

    def shared(self, question: str) -> dict[int, int]:
        """Return the number of shared n-grams for each benchmark question that shares any with a training question."""
        shared: dict[int, int] = defaultdict(int)
        for gram in ngrams(question, self.n) & self.by_gram.keys():
            for number in self.by_gram[gram]:
                shared[number] += 1
        return shared

    def held(self, words: tuple[str, ...]) -> dict[int, float]:
        """Return the short questions that contain these tokens or are contained in them, with the covered share.

        A training question inside a benchmark question counts if it covers at least half of it.
        """
        runs = {words[i : i + LEAST_HELD] for i in range(len(words) - LEAST_HELD + 1)}
        found = {}
        for number in set().union(*(self.by_run[run] for run in runs & self.by_run.keys())):
            theirs = self.tokens[number]
            if holds(words, theirs):
                found[number] = 1.0
            elif 2 * len(words) >= len(theirs) and holds(theirs, words):
                found[number] = len(words) / len(theirs)
        return found


def check_contamination(train: Iterable[str], benchmarks: Sequence[dict[str, str]], n: int = NGRAM) -> list[Pair]:
    """Return every pair of a training and a benchmark question that are equal, share an n-gram, or contain one another.

    `benchmarks` has rows {benchmark, id, question}. Pairs are in the order of the training questions, then of the
    benchmarks. An index of the benchmarks' questions makes the time linear in the text.
    """
    from tqdm import tqdm

    questions = Questions([row["question"] for row in benchmarks], n)
    pairs = []
    for train_row, question in enumerate(tqdm(train, desc="comparing", unit=" questions", mininterval=1.0)):
        words = tokens(question)
        shared, held = questions.shared(question), questions.held(words)
        equal = set(questions.by_text.get(words, ()))
        for number in sorted(equal | shared.keys() | held.keys()):
            if number in equal:
                kind, coverage = "equal", 1.0
            elif number in shared:
                kind, coverage = "ngram", shared[number] / len(questions.grams[number])
            else:
                kind, coverage = "contained", held[number]
            row = benchmarks[number]
            ends = (shared.get(number, 0), round(coverage, 4), question, row["question"])
            pairs.append(Pair(row["benchmark"], row["id"], train_row, kind, *ends))
    return pairs


def summarize(
    pairs: Sequence[Pair], benchmarks: Sequence[dict[str, str]], train_rows: int, n: int = NGRAM
) -> dict[str, Any]:
    """Count overlapping training rows and benchmark questions per benchmark, and those at least half covered."""
    names = list(dict.fromkeys(row["benchmark"] for row in benchmarks))
    counts = {}
    for name in names:
        mine = [pair for pair in pairs if pair.benchmark == name]
        counts[name] = {
            "questions": sum(row["benchmark"] == name for row in benchmarks),
            "questions_met": len({pair.id for pair in mine}),
            "questions_half_covered": len({pair.id for pair in mine if pair.coverage >= 0.5}),
            "questions_equal": len({pair.id for pair in mine if pair.kind == "equal"}),
            "train_rows": len({pair.train_row for pair in mine}),
        }
    listed = [{k: v for k, v in asdict(pair).items() if not k.endswith("_question")} for pair in pairs]
    rows = {"in": train_rows, "met": len({pair.train_row for pair in pairs})}
    return {"ngram": n, "train_rows": rows, "benchmarks": counts, "pairs": listed}


def write_pairs(pairs: Sequence[Pair], path: str | Path) -> None:
    """Write the pairs with both questions as CSV, atomically, sorted by decreasing coverage."""
    worst_first = sorted(pairs, key=lambda pair: (-pair.coverage, pair.benchmark, pair.id, pair.train_row))
    write_csv(path, Pair.__dataclass_fields__, map(asdict, worst_first))


def read_questions(path: str | Path) -> list[str]:
    """Return the questions of a training file in verl's schema, without the instruction at the end of its prompts."""
    schema = pq.read_schema(path)
    if "extra_info" not in schema.names or schema.field("extra_info").type.get_field_index("question") < 0:
        raise UserError(f"{path} has no extra_info.question: make it with `justrl data prepare`")
    return [info["question"] for info in pq.read_table(path, columns=["extra_info"])["extra_info"].to_pylist()]


def write_train(train: Path, output: Path, drop: set[int]) -> None:
    """Write the training file without the rows in `drop`, atomically.

    If `drop` is empty, the copy is byte-identical.
    """
    if not drop:
        with atomic_write(output, "wb") as handle:
            handle.write(train.read_bytes())
        return
    table = pq.read_table(train)
    write_parquet(table.filter([row not in drop for row in range(table.num_rows)]), output)


def compare_files(
    train: Path, benchmarks: Sequence[Path], output: Path, remove: bool = False, n: int = NGRAM
) -> dict[str, Any]:
    """Compare a training file with benchmark files; write contamination.json, contamination.csv and train.parquet.

    train.parquet is a copy of the training file or, with `remove`, omits the questions that overlap with a benchmark.
    Once a run has trained with it, it stays unchanged (`output`/trained.parquet): later benchmarks are only reported.

    Returns the content of contamination.json.

    Raises UserError: no question would be left.
    """
    questions = read_questions(train)
    names = ["benchmark", "id", "question"]
    rows = [row for path in benchmarks for row in pq.read_table(path, columns=names).to_pylist()]
    pairs = check_contamination(questions, rows, n)
    drop = {pair.train_row for pair in pairs} if remove else set()
    if len(drop) == len(questions):
        raise UserError(
            f"every one of the {len(questions)} training questions meets a benchmark question: none would be left"
        )
    report = summarize(pairs, rows, len(questions), n)
    report["train_rows"] |= {"removed": len(drop), "out": len(questions) - len(drop)}
    kept = output / TRAINED
    if kept.is_file():
        write_train(kept, output / "train.parquet", set())
        out = pq.read_metadata(kept).num_rows
        report["train_rows"] |= {"removed": len(questions) - out, "out": out, "as_trained": True}
    else:
        write_train(train, output / "train.parquet", drop)
    write_pairs(pairs, output / "contamination.csv")
    write_json(output / "contamination.json", report)
    return report
