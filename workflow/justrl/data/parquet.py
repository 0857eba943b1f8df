"""Training and benchmark Parquet files as indexable data sets. Works with or without torch.

`torch.utils.data.DataLoader(ParquetDataset(path), batch_size=256, collate_fn=collate_fn)` is all that torch needs.
"""

from operator import index
from pathlib import Path
from typing import Any

from justrl.data.messages import build_messages, question_of
from justrl.errors import UserError


class ParquetDataset:
    """The rows of a Parquet file in verl's schema (training) or the benchmark schema.

    An item is {question, prompt, ground_truth, index, data_source}: `prompt` is the message list, `index` the row's id
    in the file, `data_source` its origin (a benchmark's name). Rows stay in Arrow memory until they are accessed.
    """

    def __init__(self, file_path: str | Path) -> None:
        """Read the file. Raises UserError if it is missing, unreadable or in neither schema."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            self._table = pq.read_table(file_path)
        except FileNotFoundError:
            raise UserError(f"{file_path}: no such Parquet file") from None
        except pa.ArrowException as error:
            raise UserError(f"{file_path} is not a Parquet file: {str(error).splitlines()[0]}") from error
        names = set(self._table.column_names)
        self._is_training = {"prompt", "reward_model"} <= names
        if not self._is_training and not {"question", "answer"} <= names:
            raise UserError(
                f"{file_path} holds {', '.join(sorted(names))}: a training file has prompt and reward_model, "
                f"a benchmark question and answer"
            )

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Return one row; negative positions count from the end."""
        position = index(position)
        if not -len(self) <= position < len(self):
            raise IndexError(f"row {position} of {len(self)}")
        position %= len(self)
        row = self._table.slice(position, 1).to_pylist()[0]
        if not self._is_training:
            return {
                "question": row["question"],
                "prompt": build_messages(row["question"]),
                "ground_truth": row["answer"],
                "index": row.get("id", position),
                "data_source": row.get("benchmark"),
            }
        extra = row.get("extra_info") or {}
        question = extra.get("question")
        return {
            "question": question_of(row["prompt"]) if question is None else question,
            "prompt": row["prompt"],
            "ground_truth": row["reward_model"]["ground_truth"],
            "index": extra.get("index", position),
            "data_source": row.get("data_source"),
        }


def collate_fn(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the list of items unchanged, since questions and answers are text: for `DataLoader(collate_fn=...)`."""
    return batch
