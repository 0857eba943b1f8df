"""Every snakemake command of the documentation: its options exist, and a dry run finds what it asks for."""

import re
from collections import defaultdict

import pytest
import yaml
from snakemake.cli import get_argument_parser

from documentation import ROOT, blocks, of_program, shown_files
from justrl.config import load

# What is done elsewhere: reports of the mini experiment in test_mini.py, unlocking in the fault tests of Slurm. The
# laptop profile needs the model that `make smollm2` downloads.
NOT_PLANNED = {"--report", "--unlock", "laptop"}
OVERLAY = "mine.yaml"
COMMANDS = of_program("snakemake")


def parsed(command):
    """A command as Snakemake understands it."""
    return get_argument_parser().parse_args(command.words[1:])


def is_pattern(target: str) -> bool:
    """Whether a page says it of any file of a kind, as in `results/{benchmark}_{run}.json`."""
    return "{" in target


def setting(command) -> tuple:
    """The options that decide how Snakemake reads the workflow: commands that share them are planned together."""
    options = parsed(command)
    given = {"--profile": options.profile, "--configfile": options.configfile, "--config": options.config}
    return tuple(word for option, values in given.items() if values for word in (option, *map(str, values)))


def groups():
    """The targets to plan for each setting; a command without one asks for `all`."""
    targets = defaultdict(set)
    for command in COMMANDS:
        # config.yaml names a result of an entry that is commented out.
        if command.page != "config.yaml" and not NOT_PLANNED & set(command.words):
            targets[setting(command)] |= set(parsed(command).targets) or {"all"}
    # In an order that does not change, for the names of the tests.
    return sorted((how, sorted(asked)) for how, asked in targets.items())


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_options_exist(command):
    options = parsed(command)
    assert all((ROOT / profile / "config.yaml").is_file() for profile in options.profile or ())
    assert not any(is_pattern(target) for target in options.targets)


@pytest.fixture(scope="module")
def overlay(workspace):
    """The overlay that the guide to changes writes, block by block; next to it the files of the tutorial."""
    for name, text in shown_files((ROOT / "docs/tutorial.md").read_text()).items():
        (workspace.folder / name).write_text(text)
    parts = blocks((ROOT / "docs/change.md").read_text(), "yaml")
    parts = [part for part in parts if not part.startswith("# examples/")]
    merged = defaultdict(dict)
    for part in parts:
        for key, value in yaml.safe_load(part).items():
            merged[key] = merged[key] | value if isinstance(value, dict) else value
    (workspace.folder / "my_model").mkdir(exist_ok=True)  # a model folder of the reader's own
    path = workspace.folder / OVERLAY
    path.write_text(yaml.safe_dump(dict(merged)))
    return path


def test_the_guides_overlay_is_accepted(overlay):
    load([overlay])


@pytest.mark.parametrize(("how", "targets"), groups(), ids=lambda value: re.sub(r"\W+", "-", str(value))[:60])
def test_a_dry_run_finds_what_is_asked_for(workspace, overlay, how, targets):
    jobs = workspace.jobs(*targets, *how)
    assert sum(jobs.values()) > len(targets)
