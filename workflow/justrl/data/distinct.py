"""Compute facts about the texts of a column, once per distinct text."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

CACHED_TEXTS = 32_768
"""Texts remembered while streaming: more than DAPO's block of 17,917 rows, so its repetitions are known at sight."""


class DistinctTexts:
    """Maps each row of a text column to the result of `describe` on its text, a tuple of `dtype`.

    Arrow compares the texts, so a row with a known text costs no work in Python. Up to CACHED_TEXTS texts are cached
    between columns. The facts of a row without text are zeros.
    """

    def __init__(self, describe: Callable[[str], tuple[Any, ...]], dtype: np.dtype) -> None:
        self._describe = describe
        self._known = pa.array([], pa.large_string())
        # Fact 0 is for rows without text.
        self._facts = np.zeros(1, dtype)

    def __call__(self, column: pa.Array) -> np.ndarray:
        """Facts of all rows of a string column, in order."""
        column = column.cast(pa.large_string())
        numbers = pc.index_in(column, self._known).fill_null(-1).to_numpy() + 1
        new = np.flatnonzero((numbers == 0) & column.is_valid().to_numpy(zero_copy_only=False))
        facts = self._facts
        if len(new):
            encoded = column.take(pa.array(new)).dictionary_encode()
            texts = encoded.dictionary
            described = np.array([self._describe(text) for text in texts.to_pylist()], facts.dtype)
            numbers[new] = len(facts) + encoded.indices.to_numpy()
            facts = np.concatenate([facts, described])
            if len(facts) <= CACHED_TEXTS:
                self._facts, self._known = facts, pa.concat_arrays([self._known, texts])
        return facts[numbers]
