"""What the project promises about itself: commands, pins, what no file may hold."""

import os
import re
import subprocess
import sys

import pytest
import yaml

from justrl.cli.main import COMMANDS

HEAVY = {
    "torch",
    "transformers",
    "sympy",
    "datasets",
    "matplotlib",
    "vllm",
    "pandas",
    "pyarrow",
    "scipy",
    "ray",
    "snakemake",
}


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["data", "prepare"]])
def test_help_needs_no_heavy_import(command):
    # torch, transformers and SymPy take seconds to import; asking for help must not.
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['justrl', *{command}, '--help']\n"
        "try:\n"
        "    runpy.run_module('justrl', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"usage: {' '.join(['justrl', *command])}" in done.stdout


def test_the_help_lists_every_command_in_one_screen():
    shown = subprocess.run([sys.executable, "-m", "justrl"], capture_output=True, text=True, check=True).stdout
    lines = shown.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 100
    for name, text in COMMANDS.items():
        assert [name, text] in [line.split(None, 1) for line in lines]


def tracked(root, *patterns):
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=root, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: tracked files cannot be listed")
    return listed.stdout.splitlines()


def pins_of(text):
    return {name.lower(): version for name, version in re.findall(r"^\s*-?\s*([\w.-]+)==([^\s\\;]+)", text, re.M)}


def test_the_conda_environment_pins_what_the_lock_pins(root):
    lock = pins_of((root / "envs/mini.txt").read_text())
    environment = yaml.safe_load((root / "envs/workflow.yaml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    pins = dict(line.lower().split("==") for line in pip)
    assert pins.pop("torch") == "2.13.0"
    assert pins == {name: lock[name] for name in pins}


def test_locks_are_exact_and_hashed_and_name_no_host(root):
    for path in (root / "envs").glob("*.txt"):
        text = path.read_text()
        assert "://" not in text, path
        if not path.name.startswith("overrides"):
            requirements = [line for line in text.splitlines() if re.match(r"[\w.-]+(\[|=)", line)]
            assert requirements and all("==" in line for line in requirements), path
            assert text.count("--hash=sha256:") >= len(requirements), path


def test_nothing_trusts_remote_code_or_unpickles(root):
    for path in tracked(root, "workflow/*.py", "rules/*.smk", "Snakefile"):
        text = (root / path).read_text()
        assert not re.search(r"trust_remote_code\s*=\s*True", text), path
        assert not re.search(r"^\s*import pickle|pickle\.load|weights_only\s*=\s*False|shell\s*=\s*True", text, re.M), (
            path
        )


def test_torch_is_pinned_by_the_hashes_of_each_build(root):
    wanted = {
        name: pins_of((root / f"envs/{name}.in").read_text())["torch"] for name in ("mini", "gpu-cu12", "gpu-verl")
    }
    for file, version in (("cpu", "mini"), ("gpu-cu12", "gpu-cu12"), ("gpu-verl", "gpu-verl"), (None, "mini")):
        text = (root / "envs" / (f"torch-{file}.txt" if file else "torch.txt")).read_text()
        assert pins_of(text) == {"torch": wanted[version]} and "--hash=sha256:" in text


def test_an_audit_that_reaches_no_database_does_not_pass(root, tmp_path):
    """pip-audit itself ends with status 0 for packages that its index does not know."""
    (tmp_path / "uv").write_text("#!/bin/sh\necho 'No known vulnerabilities found'\n")
    (tmp_path / "uv").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", root / "envs/audit.sh"], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no pin was checked" in done.stderr and not done.stdout
