"""Find phrases that make a reader stop, in pages, docstrings and comments: `python docs/plain_english.py`.

Each is printed as file:line: phrase, write: plain words; then the status is 1. Code in pages is not read: blocks, words
in backticks, targets of links.
"""

import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "config/*.md", "results/README.md", ".github/ISSUE_TEMPLATE/*.md")
COMMENTS = ("config.yaml", *(f"{folder}/*.yaml" for folder in ("mini", "laptop", "one_gpu", "slurm", "examples")))
CODE_FILES = ("Snakefile", "rules/*.smk", "workflow/**/*.py")

# A pattern, and what to write instead. A space is any white space; @ is a piece of code.
PLAIN = {
    r"besides?": "next to, alongside, compared with, in addition to",
    r"but for": "except",
    r"(held|hold|holds) against": "compared with",
    r"at hand|be had": "available",
    r"one's": "your",
    r"(where|from where|before) one (starts|started)": "the working directory; you start",
    r"(go|goes|gone|going|went) on": "continue, resume",
    r"anew": "again, re-run, retrain",
    r"(made|taken) again": "recomputed, re-run",
    r"(stand|stands|stood) (in|on|at|beside|here|there|with|next|once|behind)": "is, is in, is listed in",
    r"stand-ins?": "imitation, substitute, or name the thing",
    r"(is|are|was|were|be|been) told": "receives, reads, is given",
    r"told (of|by)": "reported by",
    r"@ (says|said|tells|told)": "prints, reports, shows",
    r"(file|log|page|plan|table|verdict|key|report|preflight|figure|column)s? (says?|tells?)": "prints, reports, shows",
    r"(says|say|said) (so|no|nothing)": "reports it; mentions no",
    r"(is|are) said": "is documented, is printed",
    r"unless said": "by default",
    r"with a sentence": "with an error message",
    r"(?<!there\s)(is|are|was|were) no (?!longer|more|less|better|faster|later)": "is not a",
    r"in (the )?place of": "instead of",
    r"set aside": "moved away",
    r"unasked": "by default",
    r"asked of": "requested from",
    r"on the spot": "immediately",
    r"(questions|tokens|answers|completions|sequences|updates|jobs|ms|\d+) an? "
    r"(second|step|token|segment|prompt|forward|mini-batch)": "per",
    r"(?:(?<=[.;:]\s)|(?<=\n\n))(?-i:What) (?![^.!]*\?)": "a noun: The kept files are in ...",
    r"rungs?|ladders?": "scale",
    r"(?<!time\s)stamp(s|ed|ing)?": "label",
    r"golds": "reference answers",
    r"taught|teaching|untaught": "warm-started, warm start",
    r"mend(s|ed|ing)?": "fix",
    r"headline grader": "primary grader",
    r"furnished|last words": "a standard term",
    r"the wish(es)?": "the requirements",
    r"for ever": "forever",
}
# A character that stands for code, so that the words around it are not neighbours.
CODE = "@"
FENCE, INLINE, TARGET = r"^ *```.*?^ *```$", r"`[^`]+`", r"\]\([^)\s]+\)"


def hidden(text: str) -> str:
    """The text with all code made @, in lines as before."""
    cover = re.compile(f"{FENCE}|{INLINE}|{TARGET}", re.M | re.S)
    return cover.sub(lambda code: CODE + "\n" * code[0].count("\n"), text)


def comments(text: str) -> str:
    """The comments of a YAML file, in lines as before."""
    found = (re.search(r"(?:^|\s)#(.*)", line) for line in text.split("\n"))
    return "\n".join(match[1] if match else "" for match in found)


def docstrings_and_comments(text: str) -> str:
    """The docstrings and comments of Python or Snakemake code, in lines as before."""
    lines = [""] * (text.count("\n") + 2)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] += token.string[1:]
        elif token.type == tokenize.STRING and token.line.lstrip().startswith('"""'):
            for number, line in enumerate(token.string.split("\n"), token.start[0] - 1):
                lines[number] += line
    return "\n".join(lines)


READERS = {
    ".yaml": comments,
    ".py": docstrings_and_comments,
    ".smk": docstrings_and_comments,
    "": docstrings_and_comments,
}


def found(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, phrase and plain words of each phrase to replace."""
    for pattern, plain in PLAIN.items():
        edge = r"(?<!\w)" if pattern[0] == "@" else r"\b"
        for match in re.finditer(edge + f"(?:{pattern})".replace(" ", r"\s+") + r"\b", text, re.I):
            yield text.count("\n", 0, match.start()) + 1, " ".join(match[0].split()), plain


def main() -> int:
    """Print what is found, and say whether there is anything."""
    status = 0
    for pattern in (*PAGES, *COMMENTS, *CODE_FILES):
        for path in sorted(ROOT.glob(pattern)):
            text = READERS.get(path.suffix, str)(path.read_text(encoding="utf-8"))
            for line, phrase, plain in sorted(found(hidden(text))):
                print(f"{path.relative_to(ROOT)}:{line}: {phrase}, write: {plain}")
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
