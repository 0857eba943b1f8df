"""The documentation: short, current, and true of what is there. What it shows of Snakemake is run in tests/workflow."""

import ast
import importlib.util
import re
import runpy
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

import pytest
import yaml

import justrl
from documentation import PAGES, PROGRAMS, ROOT, blocks, commands, inline, links, of_program, shown_files
from documentation import anchors as anchors_of
from justrl.report import pages


def load_generator():
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs/generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = load_generator()


def test_the_readme_takes_two_minutes():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_generated_parts_are_current(page):
    assert GENERATOR.render(page.read_text()) == page.read_text(), "run `make docs`"


def test_the_schema_file_is_current():
    text = GENERATOR.SCHEMA.read_text()
    assert text == GENERATOR.schema_file(), "run `make docs`"
    assert yaml.safe_load(text) == GENERATOR.json_schema()


def test_every_generated_part_stands_on_a_page():
    shown = re.findall(r"<!-- generated: (.+?) -->", "".join(page.read_text() for page in PAGES))
    assert sorted(shown) == sorted(GENERATOR.PARTS)


def test_the_map_has_every_room():
    package = ROOT / "workflow/justrl"
    rooms = {str(path.parent.relative_to(package)) for path in package.rglob("__init__.py")}
    assert rooms == set(GENERATOR.ROOMS)


def test_every_key_of_the_configuration_is_explained():
    keys = set(yaml.safe_load((ROOT / "config.yaml").read_text())["recipe"])
    table = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", (ROOT / "docs/configuration.md").read_text(), re.M)
    assert keys <= {key for key, meaning in table if meaning}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in links(page.read_text()):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target.read_text()), link


def test_code_that_names_a_page_names_one_that_is_there():
    folders = ("workflow", "rules", "tests", "mini", "slurm", "envs", "bench")
    files = [
        path for folder in folders for path in (ROOT / folder).rglob("*.*") if path.suffix in (".py", ".smk", ".yaml")
    ]
    for path in [*files, ROOT / "config.yaml", ROOT / "Snakefile"]:
        for page in re.findall(r"\bdocs/\w+\.md\b", path.read_text()):
            assert (ROOT / page).is_file(), f"{path}: {page}"
        assert not re.search(r'README,? "', path.read_text()) or path == Path(__file__), (
            f"{path}: a heading of the README"
        )


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda path: path.name)
def test_files_that_a_page_names_are_there(page):
    for code in inline(page.read_text()):
        folder = code.split("/")[0]
        made = folder in ("results", ".snakemake")
        if re.fullmatch(r"\.?[\w-]+(/[\w.-]+)+", code) and not made and (ROOT / folder).is_dir():
            assert (ROOT / code).exists(), code


def test_the_guide_to_changes_shows_the_examples_as_they_are():
    shown = shown_files((ROOT / "docs/change.md").read_text())
    shown = {path: text for path, text in shown.items() if path.startswith("examples/")}
    assert shown == {path: (ROOT / path).read_text() for path in shown}
    there = {
        str(path.relative_to(ROOT)) for ending in ("yaml", "py") for path in (ROOT / "examples").glob(f"*.{ending}")
    }
    assert there == set(shown)


def test_names_that_the_guide_to_changes_names_are_in_the_package():
    package = "".join(path.read_text() for path in (ROOT / "workflow/justrl").rglob("*.py"))
    for code in inline((ROOT / "docs/change.md").read_text()):
        if re.fullmatch(r"[A-Z]\w{3,}", code):
            assert re.search(rf"\b{code}\b", package), code


def test_the_readme_imports_public_names():
    (block,) = blocks((ROOT / "README.md").read_text(), "python")
    shown = [alias.name for line in ast.parse(block).body for alias in line.names]
    assert sorted(shown) == sorted(justrl.__all__)


def test_every_result_file_is_explained():
    explained = []
    for cell in re.findall(r"^\| (`.+?`) \|", (ROOT / "docs/results.md").read_text(), re.M):
        for path in re.findall(r"`(.+?)`", cell):
            suffixes = re.search(r"\{([\w.]+(?:,[\w.]+)+)\}", path)
            for suffix in suffixes[1].split(",") if suffixes else [""]:
                one = path.replace(suffixes[0], suffix) if suffixes else path
                explained.append(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(one)) + (".*" if one.endswith("/") else "$"))
    for path in [f"{page.path}{ending}" for page in pages.PAGES for ending in page.endings]:
        assert any(re.match(pattern, re.sub(r"\{\w+\}", "x", path)) for pattern in explained), path
    for rules in (ROOT / "rules").glob("*.smk"):
        for output in re.findall(r"^    output:\n(.*?)\n    \w+:", rules.read_text(), re.M | re.S):
            for path in re.findall(r'"<results>/([^"]+)"', output):
                sample = re.sub(r"\{\w+\}", "x", path) + ("" if "." in path else "/")
                assert any(re.match(pattern, sample) for pattern in explained), path


def test_every_column_is_explained():
    from dataclasses import fields

    from justrl.data import benchmarks, contamination, sources
    from justrl.evaluation import completions, grading, seeds, statistics
    from justrl.hardware.checks import Check
    from justrl.report import canary_verdict, claims, comparison, metrics, setting_pairs
    from justrl.training import rollout_samples
    from justrl.training.verl import step_log

    written = [*completions.COLUMNS, *grading.COLUMNS, *rollout_samples.COLUMNS, *benchmarks.BENCHMARK_SCHEMA.names]
    written += [*metrics.METRICS, *step_log.NAMES]
    records = [comparison.Cell, claims.Claim, setting_pairs.Compared, seeds.SeedMean, contamination.Pair]
    for record in (*records, canary_verdict.Asked, canary_verdict.Answer, Check, sources.Source):
        written += [field.name for field in fields(record) if field.name != "folder"]
    written += [f"avg_at_k.{field.name}" for field in fields(statistics.AvgAtK)]
    assert set(written) <= set(re.findall(r"`([\w.]+)`", (ROOT / "docs/results.md").read_text()))


def test_every_command_is_of_a_known_kind():
    assert [str(command) for command in commands() if command.words[0] not in PROGRAMS] == []


@pytest.mark.parametrize("command", of_program("make"), ids=str)
def test_documented_targets_of_make_exist(command):
    done = subprocess.run(["make", "-n", *command.words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def help_of(run, argv, capsys, monkeypatch) -> str:
    """What a command prints when asked for help; it has to end well."""
    monkeypatch.setattr(sys, "argv", [*argv, "--help"])
    with pytest.raises(SystemExit) as ended:
        run()
    assert not ended.value.code
    return capsys.readouterr().out


def assert_options_exist(words, text):
    text = text.replace("_", "-")
    for word in (word.replace("_", "-") for word in words):
        if word.startswith("--") and word != "--":
            assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text), f"no option {word} in:\n{text}"


def of_justrl():
    """Commands of ours, however they are spelled."""
    for command in commands():
        words = list(command.words)
        if words[0] in ("python", "torchrun") and ["-m", "justrl"] in [words[i : i + 2] for i in range(len(words))]:
            words = words[words.index("justrl") :]
        if words[0] == "justrl" and len(words) > 1:
            yield pytest.param(words, id=str(command))


@pytest.mark.parametrize("words", of_justrl())
def test_documented_commands_of_justrl_exist(words, capsys, monkeypatch):
    ours = words[: words.index("--")] if "--" in words else words
    first_option = next((i for i, word in enumerate(ours) if word.startswith("-")), len(ours))
    text = help_of(partial(runpy.run_module, "justrl", run_name="__main__"), ours[:first_option], capsys, monkeypatch)
    assert_options_exist(ours, text)


@pytest.mark.parametrize("command", [c for c in of_program("python") if c.words[1:3] != ("-m", "justrl")], ids=str)
def test_documented_scripts_take_their_options(command, capsys, monkeypatch):
    words = command.words[1:]
    if words[:2] == ("-m", "pytest"):
        assert all((ROOT / word).exists() for word in words[2:] if not word.startswith("-"))
        return
    if words[0] == "-m":
        run, name, options = partial(runpy.run_module, words[1], run_name="__main__"), words[1], words[2:]
    else:
        # As Python does for a script: the modules next to it are found.
        monkeypatch.syspath_prepend(str((ROOT / words[0]).parent))
        run, name, options = partial(runpy.run_path, str(ROOT / words[0]), run_name="__main__"), words[0], words[1:]
    assert_options_exist(options, help_of(run, [name], capsys, monkeypatch))


def requirements(name: str) -> tuple[set[str], set[str]]:
    """What a file of envs/ asks for: to run, and to develop."""
    parts = (ROOT / "envs" / name).read_text().partition("# development")
    run, develop = ({line for line in part.splitlines() if re.match(r"\w", line)} for part in (parts[0], parts[2]))
    return run, {line for line in develop if not line.startswith("development")}


def test_the_package_asks_for_what_the_environments_hold():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: set(wanted) for name, wanted in project["optional-dependencies"].items()}
    run, develop = requirements("mini.in")
    assert set(project["dependencies"]) == run
    assert extras["dev"] == {line for line in develop if " " not in line}
    assert extras["verl"] == requirements("verl-cpu.in")[0]
    flash = re.findall(r"^flash-attn==[\w.]+", (ROOT / "envs/flash-attn.txt").read_text(), re.M)
    assert extras["gpu"] == requirements("gpu.in")[0] | set(flash)


def test_one_version_is_named_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert citation["version"] == version == newest[1]


def test_licences_are_named():
    assert (ROOT / "LICENSE").read_text().lstrip().startswith("Apache License")
    assert "CC BY-SA 4.0" in (ROOT / "NOTICE").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == yaml.safe_load((ROOT / "CITATION.cff").read_text())["license"] == "Apache-2.0"
    assert all((ROOT / name).is_file() for name in project["license-files"])


def test_hooks_and_continuous_integration_call_what_a_person_calls():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [(repository["repo"], hook["entry"]) for repository in hooks for hook in repository["hooks"]] == [
        ("local", "make lint")
    ]
    steps = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["run"]["steps"]
    assert steps[-1]["run"].endswith(" .ci/run") and (ROOT / ".ci/run").is_file()
