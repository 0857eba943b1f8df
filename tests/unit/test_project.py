"""What the project promises about itself: public names, commands, pins, a map of the tree, what no file may hold."""

import re
import subprocess
import sys

import pytest
import yaml

import justrl


@pytest.mark.parametrize("name", justrl.__all__)
def test_public_names_are_importable(name):
    assert callable(getattr(justrl, name))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = justrl.no_such_name


COMMANDS = ["prepare_data", "train", "evaluate", "generate", "grade", "score", "preflight", "plan", "status"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_heavy_import(command):
    # torch, transformers and SymPy take seconds to import; asking for help must not.
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['justrl.{command}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('justrl.{command}', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "heavy = {'torch', 'transformers', 'sympy', 'datasets', 'matplotlib', 'vllm'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def tracked(root, *patterns):
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=root, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: tracked files cannot be listed")
    return listed.stdout.splitlines()


def test_the_readme_maps_every_file(root):
    # The first column of the map is a file's last name, indented under its folder.
    readme = (root / "README.md").read_text()
    tree = readme[readme.index("## The tree") :]
    missing = [path for path in tracked(root) if path.rsplit("/", 1)[-1] not in tree]
    assert missing == []


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


@pytest.mark.parametrize("part", ["recipe", "speed"])
def test_the_readme_shows_the_settings_that_verl_is_given(root, part):
    from justrl import config
    from justrl.engines.verl import settings, table

    rows = {"recipe": settings.RECIPE, "speed": settings.SPEED}[part]
    assert table.markdown(rows, table.request_for(config.load(), "deepseek")) in (root / "README.md").read_text()
