"""envs/install.sh: which Pythons it takes, what it says to others, and which torch it installs."""

import hashlib
import os
import re
import shutil
import subprocess

import pytest

# Says its version, makes an environment that is itself, and writes down what pip is asked for.
PYTHON = """#!/bin/sh
case "$*" in
*version_info*) echo {version} ;;
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
*"pip config list"*) echo "global.find-links='{wheels}'" ;;
*"import version"*) echo 2.13.0 ;;
*) echo "$*" >>{said} ;;
esac
"""


@pytest.fixture
def install(root, tmp_path):
    """Runs install.sh in a folder with the locks, where `names` are Pythons made here; what pip was asked for, too."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "wheels").mkdir()
    for name in ("sh", "sed", "grep", "tr", "cut", "ls", "basename", "mkdir", "cp", "cat", "sha256sum", "uname"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    shutil.copytree(root / "envs", tmp_path / "envs")

    def run(lock="envs/mini.txt", names=(), wheels=(), **variables):
        for name, version in dict(names).items():
            said = {"version": version, "wheels": tmp_path / "wheels", "said": tmp_path / "said"}
            (tmp_path / "bin" / name).write_text(PYTHON.format(**said))
            (tmp_path / "bin" / name).chmod(0o755)
        for wheel in wheels:
            (tmp_path / "wheels" / wheel).write_text("torch")
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHON", "TORCH", "PIP_FIND_LINKS")}
        done = subprocess.run(
            ["sh", "envs/install.sh", "made", lock],
            cwd=tmp_path,
            env={**kept, "PATH": str(tmp_path / "bin"), "UV": "", **variables},
            capture_output=True,
            text=True,
        )
        asked = (tmp_path / "said").read_text() if (tmp_path / "said").exists() else ""
        return done, re.findall(r"-r (envs/torch\S*)", asked)

    return run


@pytest.mark.parametrize(
    ("names", "variables", "words"),
    [
        ({}, {}, "python3.11 is not here, or does not start"),
        ({"python3.12": "3.12"}, {}, "python3.11 is not here, or does not start"),
        ({}, {"PYTHON": "python3.12"}, "python3.12 is not here, or does not start"),
        (
            {"python3.11": "3.11", "python3.10": "3.10"},
            {"PYTHON": "python3.10"},
            "python3.10 is Python 3.10, for which",
        ),
        (
            {"python3.11": "3.11", "python3.13": "3.13"},
            {"PYTHON": "python3.13"},
            "python3.13 is Python 3.13, for which",
        ),
        ({"python3.11": "3.9"}, {}, "python3.11 is Python 3.9, for which"),
    ],
)
def test_a_python_that_is_missing_or_not_supported_is_said_in_a_sentence(install, tmp_path, names, variables, words):
    done, asked = install(names=names, **variables)
    assert done.returncode == 2 and not asked and not (tmp_path / "made").exists()
    (line,) = done.stderr.splitlines()
    assert words in line and line.endswith(
        "install Python 3.11 or 3.12 and name it, as in `make mini PYTHON=python3.12`"
    )


def test_the_pythons_that_it_takes_are_those_of_the_project(root):
    (wanted,) = re.findall(r'requires-python = "(.*)"', (root / "pyproject.toml").read_text())
    assert wanted == ">=3.11,<3.13" and "3.11 | 3.12)" in (root / "envs/install.sh").read_text()


@pytest.mark.parametrize(
    ("version", "wheels", "known", "pins"),
    [
        ("3.11", [], True, "envs/torch.txt"),
        ("3.11", ["torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"], True, "envs/torch-cpu.txt"),
        ("3.11", ["torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_aarch64.whl"], False, "envs/torch.txt"),
        ("3.12", ["torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"], True, "envs/torch.txt"),
        ("3.12", ["torch-2.13.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl"], False, "envs/torch.txt"),
        ("3.12", [f"torch-2.13.0+cpu-cp31{n}-cp31{n}-linux_x86_64.whl" for n in (1, 2)], True, "envs/torch-cpu.txt"),
    ],
)
def test_the_cpu_build_is_taken_where_its_wheel_is_for_this_python(install, tmp_path, version, wheels, known, pins):
    if known:
        hashed = hashlib.sha256(b"torch").hexdigest()
        (tmp_path / "envs/torch-cpu.txt").write_text(f"torch==2.13.0 \\\n    --hash=sha256:{hashed}\n")
    name = f"python{version}"
    done, asked = install(names={name: version}, wheels=wheels, PYTHON=name)
    assert done.returncode == 0 and asked == [pins], done.stderr
    assert ("is the CPU build for Python" in done.stderr) == bool(wheels and pins == "envs/torch.txt")


def test_a_lock_for_gpus_has_its_own_torch(install):
    done, asked = install("envs/gpu-cu12.txt", {"python3.11": "3.11"}, ["torch-2.13.0+cpu-cp311-cp311-x.whl"])
    assert done.returncode == 0 and asked == ["envs/torch-gpu-cu12.txt"], done.stderr


UV = """#!/bin/sh
echo "uv $*" >>{said}
case "$*" in *--torch-backend=cpu*) exit {status} ;; esac
"""


@pytest.mark.parametrize(
    ("lock", "version", "status", "tried", "pins"),
    [
        ("envs/mini.txt", "3.11", 0, True, []),
        ("envs/mini.txt", "3.11", 2, True, ["envs/torch.txt"]),
        ("envs/mini.txt", "3.12", 0, False, ["envs/torch.txt"]),
        ("envs/gpu.txt", "3.11", 0, False, ["envs/torch.txt"]),
    ],
)
def test_uv_gets_the_cpu_build_from_pytorchs_index_or_the_size_is_said(
    install, tmp_path, lock, version, status, tried, pins
):
    uv = tmp_path / "bin/uv"
    uv.write_text(UV.format(said=tmp_path / "said", status=status))
    uv.chmod(0o755)
    (tmp_path / "bin/uname").unlink()
    (tmp_path / "bin/uname").write_text("#!/bin/sh\necho Linux x86_64\n")
    (tmp_path / "bin/uname").chmod(0o755)
    done, asked = install(lock, {f"python{version}": version}, PYTHON=f"python{version}", UV=str(uv))
    assert done.returncode == 0 and asked == pins, done.stderr
    assert ("--torch-backend=cpu" in (tmp_path / "said").read_text()) == tried
    assert ("about 3 GB to download" in done.stderr) == (bool(pins) and "gpu" not in lock)
    if tried:
        pinned = (tmp_path / "made/torch.txt").read_text()
        assert pinned == (tmp_path / "envs/torch-cpu.txt").read_text().replace("torch==2.13.0", "torch==2.13.0+cpu")
