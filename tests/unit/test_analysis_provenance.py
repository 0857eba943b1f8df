"""Provenance: everything that made a result, and nothing that names a person's machine."""

import json
import platform
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from analysis_examples import result

from justrl import config
from justrl.cli.main import main
from justrl.config.files import ROOT
from justrl.errors import UserError
from justrl.io import json_sha256, read_json, write_json
from justrl.report import provenance
from justrl.report.provenance import provenance_sections


def test_record_holds_versions_seeds_and_sources_and_no_path(tmp_path):
    source = {"kind": "model", "hub_id": "a/b", "revision": "c" * 40, "origin": str(tmp_path / "mirror")}
    write_json(tmp_path / "source.json", source)
    data = result("aime", "mini", 80, {"strict": 0.4}, questions=5, samples=2)
    data["provenance"] = {"generation": {"model": str(tmp_path / "model"), "backend": "transformers", "seed": 3}}
    write_json(tmp_path / "result.json", data)
    record = provenance.collect_provenance(
        {"seed": 42},
        {"experiment": 42},
        [tmp_path / "source.json"],
        [tmp_path / "result.json"],
        ["/x/justrl/__main__.py", "train"],
    )
    assert record["seeds"] == {"experiment": 42}
    assert record["sources"] == [{**source, "origin": "mirror"}]
    assert record["evaluations"][0]["model"] == "model" and record["evaluations"][0]["samples"] == 2
    assert record["packages"]["numpy"] == np.__version__
    assert record["python"] == platform.python_version()
    assert record["command"] == "python -m justrl train"
    text = json.dumps(record)
    assert str(tmp_path) not in text and str(Path.home()) not in text
    assert len(socket.gethostname()) < 4 or f'"{socket.gethostname()}"' not in text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/home/someone/data/x.json", "x.json"),
        ("results/x.json", "results/x.json"),
        ({"a": ["/tmp/y", 3]}, {"a": ["y", 3]}),
        (Path("/z/q"), "q"),
        ("/", ""),
        ("a / b", "a / b"),
        (None, None),
    ],
)
def test_paths_are_cut(given, expected):
    assert provenance.without_paths(given) == expected


def test_command_is_shown_as_typed_without_absolute_paths():
    shown = provenance.describe_command(["/a/justrl/report/__main__.py", "--out=/b/c.json", "/d/e f.json", "rel/x"])
    assert shown == "python -m justrl.report --out=c.json 'e f.json' rel/x"


def repository(folder):
    """A git repository that tracks a copy of the module."""
    folder.mkdir()
    (folder / "provenance.py").write_text("x = 1\n")
    for words in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "First"],
    ):
        subprocess.run(["git", "-C", str(folder), *words], check=True)
    return folder


def test_code_version_tells_commit_changes_and_why_there_is_none(tmp_path, monkeypatch):
    folder = repository(tmp_path / "code")
    head = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    assert provenance.code_version(folder) == {"commit": head, "dirty": False}
    (folder / "provenance.py").write_text("x = 2\n")
    assert provenance.code_version(folder) == {"commit": head, "dirty": True}
    (tmp_path / "plain").mkdir()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert "git checkout" in provenance.code_version(tmp_path / "plain")["reason"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.code_version(folder)["reason"] == "git is not installed"


def test_gpus_are_read_from_nvidia_smi(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nfor i in 0 1; do echo $i, NVIDIA A800-SXM4-80GB, 550.54, 81920, 0, 0; done\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert provenance.gpus() == [{"name": "NVIDIA A800-SXM4-80GB", "memory": "81920 MiB", "driver": "550.54"}] * 2
    record = provenance.collect_provenance()
    values = {row[0].main: row[1].main for row in provenance_sections(record)[0].rows}
    assert values["GPUs"] == "2 × NVIDIA A800-SXM4-80GB"
    program.write_text("#!/bin/sh\nexit 9\n")
    assert provenance.gpus() == []


def test_command_line_writes_json_and_page(tmp_path):
    write_json(tmp_path / "result.json", result("aime", "mini", 80, {"strict": 0.4}, questions=5, samples=2))
    words = ["--config", '{"experiment": "mini", "seed": 7}', "--results", tmp_path / "result.json"]
    words += ["--output", tmp_path / "p.json", tmp_path / "p.html"]
    subprocess.run([sys.executable, "-m", "justrl", "report", "provenance", *map(str, words)], check=True)
    record = read_json(tmp_path / "p.json")
    assert record["experiment"] == "mini" and record["seeds"] == {"experiment": 7}
    assert record["command"].startswith("python -m justrl report provenance --config ... --results")
    page = (tmp_path / "p.html").read_text()
    assert "mini experiment – not a paper result" in page and "Evaluations" in page
    assert str(tmp_path) not in page + json.dumps(record)


def test_missing_source_is_named(tmp_path):
    with pytest.raises(UserError, match=r"source\.json cannot be read as JSON.*No such file"):
        provenance.collect_provenance(sources=[tmp_path / "source.json"])


def test_lists_of_any_length_and_a_frozen_configuration_are_given_as_files(tmp_path):
    """A configuration of 120 runs is longer than one word of a command may be, and 20,000 results than all together."""
    experiment = config.load([str(ROOT / "mini/experiment.yaml")])
    runs = experiment.as_dict()["runs"]
    many = {f"mini_{number:03}": runs["mini"] for number in range(120)}
    frozen = {"config": experiment.as_dict() | {"runs": runs | many}, "segment_ends": {}}
    write_json(tmp_path / "0001.json", frozen)
    assert (tmp_path / "0001.json").stat().st_size > 131_072
    write_json(tmp_path / "result.json", result("aime", "mini", 80, {"strict": 0.4}, questions=5, samples=2))
    (tmp_path / "names").write_text(f"{tmp_path}/{'./' * 50}result.json\n" * 20_000)
    given = ["--config", str(tmp_path / "0001.json"), "--results", f"@{tmp_path / 'names'}"]
    main(["report", "provenance", *given, "--output", str(tmp_path / "p.json")])
    record = read_json(tmp_path / "p.json")
    resolved = config.Experiment.from_mapping(frozen["config"]).with_canaries()
    assert record["config_sha256"] == json_sha256(resolved.model_dump(mode="json"))
    assert len(record["evaluations"]) == 20_000 and record["experiment"] == "mini"
    assert len(json.dumps(record["command"])) < 300
