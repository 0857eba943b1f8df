"""What the command line says of numbers that are none, of files that cannot be had, and of a full disk."""

import json
import shutil
import subprocess
import sys

import pytest

from justrl.cli.main import main, of_the_machine

JUSTRL = ["-m", "justrl"]
NAMESPACE = ["unshare", "--map-root-user", "--mount"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("plan --nodes -1", "--nodes: must be at least 1, got -1"),
        ("plan --nodes 1.5", "--nodes: must be a whole number, got '1.5'"),
        ("status --watch nan", "--watch: must be 0.1 or more, got nan"),
        ("status --watch -1", "--watch: must be 0.1 or more, got -1"),
        ("data download model --hub-id a/b --output x --timeout inf", "--timeout: must be 0 or more, got inf"),
        ("data arithmetic train --rows -5 --digits 2 --seed 1 --output x", "--rows: must be at least 1, got -5"),
        (
            "data arithmetic train --rows 5 --digits 2 --seed 1 --output x --harder-share nan",
            "--harder-share: must be from 0 to 1, got nan",
        ),
        ("evaluate --model-path m --dataset d --output-file o --limit -1", "--limit: must be at least 1, got -1"),
        ("evaluate --model-path m --dataset d --output-file o --temperature nan", "--temperature: must be 0 or more"),
        ("generate --shards 0", "--shards: must be at least 1, got 0"),
        ("grade --max-tokens 0", "--max-tokens: must be at least 1, got 0"),
        ("train segment --save-every 0", "--save-every: must be at least 1, got 0"),
        ("train segment --wait-for-owner-minutes nan", "--wait-for-owner-minutes: must be 0 or more, got nan"),
    ],
)
def test_numbers_that_are_none_are_refused(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_file_that_cannot_be_had_is_a_sentence(tmp_path):
    words = ["report", "metrics", str(tmp_path / "absent.jsonl"), "--output", str(tmp_path / "m.jsonl")]
    done = subprocess.run([sys.executable, "-m", "justrl", *words], capture_output=True, text=True)
    assert done.returncode in (1, 2) and done.stderr.count("\n") == 1 and "absent.jsonl" in done.stderr


def test_errors_of_the_program_keep_their_traceback():
    assert of_the_machine(KeyError("x")) is None and of_the_machine(OSError("something")) is None


def on_a_small_disk(folder, kilobytes, *words):
    """Run `python WORDS` where `folder` is a disk of that size."""
    may = shutil.which("unshare") and subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0
    if not may:
        pytest.skip("a disk of one's own needs `unshare --map-root-user --mount`, which is refused here")
    folder.mkdir()
    mount = f'mount -t tmpfs -o size={kilobytes}k tmpfs {folder} && "$@"; status=$?; ls -A {folder}; exit $status'
    command = [*NAMESPACE, "sh", "-c", mount, "sh", sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


WRITERS = {
    "safetensors": "save_file({'x': torch.zeros(100_000)}, path)",
    "torch": "torch.save({'x': torch.zeros(100_000)}, path)",
    "pyarrow": "pq.write_table(pa.table({'x': [str(hash(str(i))) for i in range(100_000)]}), path)",
    "text": "Path(path).write_text('x' * 100_000)",
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writers_full_disk_is_told_in_a_sentence(tmp_path, writer):
    """As an export meets it: safetensors and torch say it in words only."""
    code = f"""
import sys, torch, pyarrow as pa, pyarrow.parquet as pq
from pathlib import Path
from safetensors.torch import save_file
from justrl.cli.main import of_the_machine
path = {str(tmp_path / "disk/x")!r}
try:
    {WRITERS[writer]}
except Exception as error:
    sys.exit(f"error: {{of_the_machine(error)}}")
"""
    one_sentence(on_a_small_disk(tmp_path / "disk", 64, "-c", code))


def one_sentence(done):
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.count("error: no space left on the disk") == 1


def test_a_full_disk_while_data_are_written(tmp_path):
    rows = [json.dumps({"question": f"What is {i} + {i}? {hash(str(i))}", "answer": str(i)}) for i in range(20_000)]
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    words = ["--dataset-name", tmp_path / "in.jsonl", "--output-dir", tmp_path / "disk"]
    done = on_a_small_disk(tmp_path / "disk", 64, *JUSTRL, "data", "prepare", *words)
    one_sentence(done)
    assert done.stdout == ""  # no half a file


def test_a_full_disk_while_answers_are_written(tmp_path):
    import pandas

    from tiny_model import make_tiny_model

    model = make_tiny_model(tmp_path / "model")
    rows = [("toy", f"q{i}", f"What is {i}?", str(i)) for i in range(8)]
    pandas.DataFrame(rows, columns=["benchmark", "id", "question", "answer"]).to_parquet(tmp_path / "b.parquet")
    protocol = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 8, "prompt_separator": " ", "prompt_suffix": "Box it."}
    words = ["--model", model, "--benchmark", tmp_path / "b.parquet", "--protocol", json.dumps(protocol)]
    words += [
        "--samples",
        4,
        "--run",
        "toy",
        "--seed",
        3,
        "--backend",
        "transformers",
        "--output",
        tmp_path / "disk/c.parquet",
    ]
    one_sentence(on_a_small_disk(tmp_path / "disk", 4, *JUSTRL, "generate", *words))
