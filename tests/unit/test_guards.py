"""What the light commands import when they run; nothing here is timed."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "snakemake", "matplotlib", "pandas", "vllm", "ray", "verl")
LIGHT = [["plan"], ["plan", "--kinds"], ["plan", "--rungs"], ["status"]]
# In this order: the second reads what the first writes; FOLDER is a temporary one.
LIGHT += [
    ["data", "arithmetic", "train", "--rows", "20", "--digits", "1", "--seed", "5", "--output", "FOLDER/sums.parquet"],
    ["data", "prepare", "--dataset_name", "FOLDER/sums.parquet", "--output_dir", "FOLDER/prepared"],
]
# One process for all of them; after each, what it has imported.
CODE = """
import contextlib, io, json, sys
from justrl.commands.main import main
seen = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        main(words)
    seen.append([len(shown.getvalue()), sorted(set(json.loads(sys.argv[2])) & set(sys.modules))])
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def imported(root, tmp_path_factory):
    """By command: the length of what it printed, and the heavy modules present after it."""
    given = json.dumps(LIGHT).replace("FOLDER", str(tmp_path_factory.mktemp("light")))
    command = [sys.executable, "-c", CODE, given, json.dumps(HEAVY)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(map(" ".join, LIGHT), json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("command", [" ".join(words) for words in LIGHT])
def test_a_light_command_runs_without_heavy_imports(imported, command):
    printed, heavy = imported[command]
    # pyarrow imports pandas by itself where it makes a table of Python's values.
    allowed = {"pandas"} if command.startswith("data") else set()
    assert printed and not set(heavy) - allowed, heavy
