"""The judge of the row "generation and judge": verdicts on a file of answers, from one loaded vLLM.

    .venv-verl/bin/python bench/vllm_judging.py     (then, for each measurement, a file of bench/vllm_generation.py)

`justrl.verifiers.judge` with a tiny model, which says of every answer a verdict of at most eight tokens, as a real one
does; both sides ask it alike, for all answers of a file at once, as the authors' script does. For each line read, a
JSON line tells the digest of the verdicts.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

from work import engine_replies

VERDICT_TOKENS = 8

# Files of answers hold none; what a tiny judge says of it means nothing.
GOLD = "1"


def main() -> None:
    """Load once, then judge file by file until there are no more."""
    replies = engine_replies()
    from justrl.evaluation.completions import read_completions
    from justrl.verifiers.judge import ModelGrader
    from tiny_model import make_tiny_model

    with tempfile.TemporaryDirectory() as folder:
        model = make_tiny_model(Path(folder) / "judge", seed=1)
        judge = ModelGrader(
            str(model), max_tokens=VERDICT_TOKENS, max_model_len=4096, dtype="float32", most_not_understood=1.0
        )
        judge.grade("\\boxed{1}", "1", "What is 1?")  # the model is loaded on first use
        for line in sys.stdin:
            samples, _ = read_completions([Path(line.strip())])
            # Neither side finds in the cache what the other has asked.
            judge._judge.backend.llm.reset_prefix_cache()
            grades = judge.grade_many((row.completion, GOLD, row.question) for row in samples.itertuples())
            verdicts = json.dumps([grade.outcome.value for grade in grades])
            told = {"answers": len(grades), "digest": hashlib.sha256(verdicts.encode()).hexdigest()}
            print(json.dumps(told), file=replies, flush=True)
        judge.close()


if __name__ == "__main__":
    main()
