"""Which column holds the question and which the answer, and how each kind of column becomes plain text.

Published math data sets name and type the same two things in a dozen ways; the known ones are all read here, by one
table of names, so that training data and benchmarks agree on what they accept.
"""

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from justrl.data.prompts import user_content
from justrl.errors import UserError
from justrl.verifiers.extraction import last_boxed

# In order of preference: `solution` is last, because beside an `answer` it holds the worked solution.
QUESTION_COLUMNS = ("question", "problem", "prompt")
ANSWER_COLUMNS = ("answer", "reward_model", "final_answer", "ground_truth", "solution")
ID_COLUMNS = ("unique_id", "id", "problem_idx")

# Doubles hold integers exactly up to here; beyond, a gold has already lost digits.
_EXACT_FLOAT = 2**53


def pick_column(found: Sequence[str], accepted: Sequence[str], asked: str | None, what: str, where: str) -> str:
    """Return the column that holds `what` ("question" or "answer"): the one asked for, or the first known name.

    A dotted name reaches into a struct ("reward_model.ground_truth"). Raises UserError that lists what was found and
    what is accepted.
    """
    if asked is not None:
        if asked.split(".")[0] in found:
            return asked
        raise UserError(f"{where} has no column {asked!r} for the {what}: it has {', '.join(found)}")
    for name in accepted:
        if name in found:
            return name
    raise UserError(
        f"{where} has no column known to hold the {what}: found {', '.join(found) or 'none'}; "
        f"accepted are {', '.join(accepted)}, or name one with --{what}-column"
    )


def take_column(table: pa.Table, name: str) -> pa.Array:
    """Return a column of a table as one array; a dotted name reaches into structs."""
    first, *fields = name.split(".")
    column = table.column(first).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    for field in fields:
        if not pa.types.is_struct(column.type) or column.type.get_field_index(field) < 0:
            raise UserError(f"column {name!r}: {column.type} has no field {field!r}")
        column = pc.struct_field(column, field)
    return column


def question_texts(column: pa.Array) -> list[str | None]:
    """Return one text per row of a question column: strings, or message lists with exactly one user message."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return column.to_pylist()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        message = kind.value_type
        if pa.types.is_struct(message) and {"role", "content"} <= {field.name for field in message}:
            return _message_texts(column)
    raise UserError(f"a question column must hold text or lists of {{role, content}} messages, this one holds {kind}")


def _message_texts(column: pa.Array) -> list[str | None]:
    single = pc.all(pc.equal(pc.list_value_length(column), 1)).as_py() and column.null_count == 0
    if single:
        # The usual case, without building a dictionary per message: one message in every row, all by the user.
        messages = column.flatten()
        if pc.all(pc.equal(pc.struct_field(messages, "role"), "user")).as_py():
            return pc.struct_field(messages, "content").to_pylist()
    return [None if messages is None else user_content(messages) for messages in column.to_pylist()]


def answer_texts(column: pa.Array) -> list[str | None]:
    """Return one text per row of an answer column: text, numbers, `{ground_truth}` structs, or lists of those.

    Integers stay exact at any size that the file holds them in; several answers of one list are joined by a comma.
    """
    kind = column.type
    if pa.types.is_struct(kind):
        if kind.get_field_index("ground_truth") < 0:
            raise UserError(f"an answer struct needs a field ground_truth, this one is {kind}")
        return answer_texts(pc.struct_field(column, "ground_truth"))
    return [None if value is None else _answer_text(value) for value in column.to_pylist()]


def _answer_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        raise UserError(f"an answer must be text or a number, got {value}")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _float_text(value)
    if isinstance(value, list):
        return ",".join(_answer_text(item) for item in value if item is not None)
    raise UserError(f"an answer must be text, a number or a list of those, got {type(value).__name__}: {value!r:.80}")


def _float_text(value: float) -> str:
    if value.is_integer() and abs(value) < _EXACT_FLOAT:
        return str(int(value))
    if abs(value) >= _EXACT_FLOAT or value != value:
        raise UserError(f"the answer {value!r} is stored as a double, which has lost its digits: store golds as text")
    return repr(value)


def clean_gold(gold: str) -> str:
    r"""Return a gold as the graders want it: unboxed, without math delimiters, stripped.

    `\boxed{204}` gives `204`; `$69$,$84$` gives `69,84`. An escaped dollar is money and stays (`\$18.90`). The full
    stop of a sentence that ends in a formula goes with its dollar sign (`$x$.` gives `x`).
    """
    boxed = last_boxed(gold)
    gold = (gold if boxed is None else boxed).strip()
    gold = re.sub(r"(?<!\\)((?:\\\\)*)\$\.$", r"\1", gold)
    # A dollar preceded by an even number of backslashes is a delimiter.
    return re.sub(r"(?<!\\)((?:\\\\)*)\$", r"\1", gold).strip()
