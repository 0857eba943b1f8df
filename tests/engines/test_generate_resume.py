"""A generation that is killed, as a queue kills, and started again: a real process, a real SIGKILL."""

import signal
import subprocess
import sys
import time

import pandas
import pytest

from justrl.evaluation.completions import read_completions
from justrl.io import write_json
from tiny_model import make_tiny_model

pytest.importorskip("torch")

QUESTIONS, SAMPLES = 20, 32
PROTOCOL = {
    "temperature": 1.0,
    "top_p": 0.95,
    "max_tokens": 12,
    "prompt_separator": " ",
    "prompt_suffix": "Box it.",
    "samples": SAMPLES,
}


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rows = [("toy", f"q{i}", f"What is {i} + {i}?", str(2 * i)) for i in range(QUESTIONS)]
    pandas.DataFrame(rows, columns=["benchmark", "id", "question", "answer"]).to_parquet(tmp_path / "b.parquet")
    write_json(tmp_path / "protocol.json", PROTOCOL)
    model = make_tiny_model(tmp_path / "model")

    def build(output, batch_size):
        arguments = ["--model", model, "--benchmark", tmp_path / "b.parquet", "--protocol", tmp_path / "protocol.json"]
        arguments += ["--run", "toy", "--seed", 3, "--backend", "transformers", "--dtype", "float64"]
        arguments += ["--batch-size", batch_size, "--output", tmp_path / output]
        return [sys.executable, "-m", "justrl", "generate", *map(str, arguments)]

    return build


def wait_for_a_part(parts, process):
    deadline = time.monotonic() + 120
    while not list(parts.glob("*/part-*.parquet")):
        assert process.poll() is None, "the generation ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_killed_generation_goes_on_where_it_was(command, tmp_path):
    subprocess.run(command("whole.parquet", 128), check=True, capture_output=True)
    parts = tmp_path / "killed.parquet.parts"
    process = subprocess.Popen(command("killed.parquet", 40), stderr=subprocess.DEVNULL)
    wait_for_a_part(parts, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed.parquet").exists()
    kept = sum(len(pandas.read_parquet(path)) for path in parts.glob("*/part-*.parquet"))
    assert 0 < kept < QUESTIONS * SAMPLES
    done = subprocess.run(command("killed.parquet", 100), check=True, capture_output=True, text=True)
    assert f"{kept} of {QUESTIONS * SAMPLES} samples are there from an earlier try" in done.stderr
    assert not parts.exists()
    whole, _ = read_completions([tmp_path / "whole.parquet"])
    resumed, _ = read_completions([tmp_path / "killed.parquet"])
    assert len(resumed) == QUESTIONS * SAMPLES
    assert resumed.equals(whole)
