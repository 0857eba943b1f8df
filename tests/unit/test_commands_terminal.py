"""What commands print: no line wider than 100 columns, tables that stay tables, a version."""

import tomllib

import pytest

from justrl.cli import terminal
from justrl.cli.main import COMMANDS, main

# Commands that have commands of their own.
GROUPS = ("data", "report", "train", "verl", "envs")


def widest(text: str) -> str:
    """The longest line."""
    return max(text.splitlines(), key=len)


@pytest.mark.parametrize(
    "words",
    [
        ["plan"],
        ["plan", "--kinds"],
        ["plan", "--detect", "2"],
        ["plan", "--config", "mini/experiment.yaml"],
        ["preflight", "--offline"],
    ],
    ids=" ".join,
)
def test_what_a_person_reads_fits_100_columns(words, root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    main(words)
    assert len(widest(capsys.readouterr().out)) <= 100


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_fits_100_columns_on_a_wide_terminal(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert len(widest(shown)) <= 100
    for name in _names(shown) if command in GROUPS else ():
        with pytest.raises(SystemExit):
            main([command, name, "--help"])
        assert len(widest(capsys.readouterr().out)) <= 100, name


def _names(shown: str) -> list[str]:
    """The commands of a command, from its help."""
    listed = shown.partition("commands:\n")[2].partition("\n\n")[0].splitlines()
    return [line.split()[0] for line in listed if line.startswith("    ") and line[4] != " "]


def test_a_long_line_goes_on_below_its_last_column():
    row = "  weights      1.7 GB   " + "1.78e9 parameters x 2 bytes, " * 6
    first, *rest = terminal.fit(row.rstrip()).splitlines()
    assert first.startswith("  weights      1.7 GB   1.78e9") and rest
    assert all(line.startswith(" " * 24 + "1.78e9") or line[:24].isspace() for line in rest)
    assert terminal.fit("short\n\n  as it is ") == "short\n\n  as it is "


def test_a_word_longer_than_a_line_stays_whole():
    path = "/" + "folder/" * 30
    assert path in terminal.fit(f"FAIL disk   no room at {path}").splitlines()[-1]


def test_json_is_never_wrapped(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    assert main(["plan", "--json"]) == 0
    assert len(widest(capsys.readouterr().out)) > 100


def test_the_version_is_the_projects(root, capsys):
    assert main(["--version"]) == 0
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert capsys.readouterr().out == f"justrl {version}\n"
