"""Time and peak memory of cleaning a training file with the size and schema of DAPO-Math-17k.

    python bench/dapo_rows.py [--rows 1791700] [--distinct 17917] [--tokenizer MODEL_DIR]

Generates the file (100 copies of a block, as published), runs the prepare-data command on it in a separate process, and
prints rows, elapsed seconds, processor seconds (more reliable on a busy machine) and the peak resident set. `--distinct
1791700` is the worst case: no row repeats.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from justrl.data.dapo import WRAPPER_PREFIX, WRAPPER_SUFFIX
from justrl.io import read_json

WORDS = "Let the triangle circle $x^2+y^2$ real number integer find sum of all $\\frac{m}{n}$ such that point 三角形"
SCHEMA = pa.schema(
    {
        "data_source": pa.string(),
        "prompt": pa.list_(pa.struct({"content": pa.string(), "role": pa.string()})),
        "ability": pa.string(),
        "reward_model": pa.struct({"ground_truth": pa.string(), "style": pa.string()}),
        "extra_info": pa.struct({"index": pa.string()}),
    }
)


def row(number: int) -> dict:
    """Make row `number`: a wrapped question of about 60 words and an integer answer, sometimes of more than 64 bits."""
    chance = random.Random(number)
    question = f"{number}: " + " ".join(chance.choices(WORDS.split(), k=chance.randint(20, 100)))
    gold = str(chance.randrange(10**25 if number % 500 == 0 else 1000))
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": WRAPPER_PREFIX + question + WRAPPER_SUFFIX, "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": gold, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": f"{number:036x}"},
    }


def write_file(path: Path, rows: int, distinct: int) -> None:
    """Write `rows` rows that repeat every `distinct` rows, in row groups of a million as pandas writes them."""
    step = min(distinct, 50_000)
    with pq.ParquetWriter(path, SCHEMA) as writer:
        block, held = None, []
        for start in range(0, rows, step):
            if block is None or distinct > step:
                block = pa.Table.from_pylist([row(i % distinct) for i in range(start, start + step)], schema=SCHEMA)
            held.append(block.slice(0, min(step, rows - start)))
            if sum(map(len, held)) >= 1_000_000 or start + step >= rows:
                writer.write_table(pa.concat_tables(held), row_group_size=2**20)
                held = []


def main() -> None:
    """Generate the file, run the command, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_791_700)
    parser.add_argument("--distinct", type=int, default=17_917)
    parser.add_argument("--tokenizer", help="model folder, to measure the prompt-length filter as well")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dapo.parquet"
        write_file(path, arguments.rows, arguments.distinct)
        command = [
            sys.executable,
            "-m",
            "justrl",
            "data",
            "prepare",
            "--dataset_name",
            str(path),
            "--output_dir",
            folder,
        ]
        command += ["--tokenizer", arguments.tokenizer] if arguments.tokenizer else []
        start = time.perf_counter()
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            sys.exit(f"the command failed with status {status}")
        rows = read_json(Path(folder) / "data_card.json")["rows"]
        print(f"{arguments.rows} rows, {arguments.distinct} distinct, {path.stat().st_size / 2**20:.0f} MiB of Parquet")
        processor = usage.ru_utime + usage.ru_stime
        print(f"{seconds:.1f} s ({processor:.1f} s of processor), peak resident set {usage.ru_maxrss / 2**20:.2f} GiB")
        print(f"{rows['out']} questions out")


if __name__ == "__main__":
    main()
