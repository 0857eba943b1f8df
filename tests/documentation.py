"""What the pages of the documentation show: commands, links, blocks of code."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES += [ROOT / "results/README.md", ROOT / "config/README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
# Their comments name commands in backticks.
FOLDERS = ("examples", "mini", "one_gpu", "slurm")
CONFIGURATIONS = [
    ROOT / "config.yaml",
    *(file for folder in FOLDERS for file in sorted((ROOT / folder).glob("*.yaml"))),
]
PROGRAMS = ("snakemake", "make", "justrl", "python", "torchrun", "hf", "head", "git", "cd", "cp", ".")

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
# Docstrings of the package, which are not pages.
ROOMS = re.compile(r"<!-- generated: rooms -->.*?<!-- end -->", re.S)
INLINE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Command:
    """A command as a page shows it."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [body for name, body in FENCE.findall(text) if name == language]


def shown_files(text: str) -> dict[str, str]:
    """The content of each file that a page shows: blocks that begin with the file's path as a comment."""
    bodies = [body for _, body in FENCE.findall(text) if re.match(r"# [\w/]+\.\w+\n", body)]
    return {body.partition("\n")[0].removeprefix("# "): body.partition("\n")[2] for body in bodies}


def inline(text: str) -> list[str]:
    """Every piece of code in backticks outside of fenced blocks, on one line each."""
    return [" ".join(code.split()) for code in INLINE.findall(FENCE.sub("", text))]


def commands() -> list[Command]:
    """Every command of the pages and of the configurations' comments, each once for a page."""
    return list(dict.fromkeys(_commands()))


def _commands() -> Iterator[Command]:
    for path in [*PAGES, *CONFIGURATIONS]:
        if path.name == "CHANGELOG.md":  # tells of what was
            continue
        text = ROOMS.sub("", path.read_text())
        name = str(path.relative_to(ROOT))
        if path.suffix == ".yaml":
            text = re.sub(r"\n# ", "\n", text)
        for line in (line for block in blocks(text, "sh") for line in block.splitlines()):
            if words := shlex.split(line, comments=True):
                yield Command(name, tuple(words))
        for code in inline(text):
            # A program named alone, or with three dots, is no command to type.
            if code.split()[0] in PROGRAMS and " " in code and "..." not in code:
                yield Command(name, tuple(shlex.split(code, comments=True)))


def of_program(name: str) -> list[Command]:
    """The commands of one program."""
    return [command for command in commands() if command.words[0] == name]


def links(text: str) -> list[str]:
    """Targets of the links and pictures of a page."""
    return re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """The anchors that a page's headings have where Markdown is shown."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
