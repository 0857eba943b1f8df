"""What commands write to a terminal: names from files can neither steer it nor end the command.

Run names, folders and model ids come from other people's files. A control character in them is shown as its escape.
"""

import io
import os
import re
import select
import sys
import textwrap
from pathlib import Path
from typing import Any, TextIO

# C0 and C1 except tab and newline; line separators; what changes the direction of writing.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# What progress bars and coloured logs of libraries write to the error stream.
_BARS = re.compile("(\r|\x1b\\[[0-9;]*[mAK])")
CLEAR = b"\x1b[2J\x1b[H"
# Columns of what a person reads.
WIDTH = 100
# Where the last column of a table begins: after the last gap of two spaces or more in its left half.
_LAST_COLUMN = re.compile(rf"(?:.{{0,{WIDTH // 2}}}\s\s|\s*)(?=\S)")


def printable(text: str) -> str:
    """The text with its control characters as escapes."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class _Output(io.TextIOWrapper):
    """A text stream that writes control characters as escapes."""

    def write(self, text: str) -> int:
        super().write(printable(text))
        return len(text)


class _Errors(_Output):
    """The error stream, whose progress bars and colours stay."""

    def write(self, text: str) -> int:
        parts = _BARS.split(text)
        io.TextIOWrapper.write(self, "".join(part if i % 2 else printable(part) for i, part in enumerate(parts)))
        return len(text)


def open_streams() -> None:
    """Put safe streams in the place of stdout and stderr; what their encoding lacks is written as its escape."""
    sys.stdout, sys.stderr = _safe(sys.stdout, _Output), _safe(sys.stderr, _Errors)


def _safe(stream: TextIO, kind: type[_Output]) -> TextIO:
    if type(stream) is not io.TextIOWrapper:  # None where it is closed, or what a caller has put there
        return stream
    # A process that is killed has said what it had to say: each line of the error stream is written at once.
    encoding, lines, through = stream.encoding, stream.line_buffering or kind is _Errors, stream.write_through
    return kind(
        stream.detach(), encoding=encoding, errors="backslashreplace", line_buffering=lines, write_through=through
    )


def fit(text: str) -> str:
    """The text with lines of more than `WIDTH` columns continued below their last column."""
    return "\n".join(part for line in text.split("\n") for part in _fit_line(line))


def _fit_line(line: str) -> list[str]:
    if len(line) <= WIDTH:
        return [line]
    begin = _LAST_COLUMN.match(line)
    head = begin[0] if begin else ""
    below = " " * (len(head) or 2)
    return textwrap.wrap(
        line[len(head) :],
        WIDTH,
        initial_indent=head,
        subsequent_indent=below,
        break_long_words=False,
        break_on_hyphens=False,
    )


def paragraphs(text: str) -> str:
    """The text with its paragraphs filled again; an indented one stays as it is and is called an example."""
    parts = text.strip("\n").split("\n\n")
    return "\n\n".join(f"examples:\n{part}" if part.startswith(" ") else textwrap.fill(part, WIDTH) for part in parts)


def say(text: str, **options: Any) -> None:
    """Print text for a person to read, in lines of at most `WIDTH` columns."""
    print(fit(text), **options)


def clear_screen() -> None:
    """Clear the terminal and go to its upper left, as `watch` does."""
    sys.stdout.flush()
    sys.stdout.buffer.write(CLEAR)


def complain(sentence: str) -> None:
    """Write `error: SENTENCE` on the error stream, if anybody reads it; one line, unless a terminal shows it."""
    text = f"error: {printable(sentence)}"
    try:
        print(fit(text) if sys.stderr is not None and sys.stderr.isatty() else text, file=sys.stderr, flush=True)
    except BrokenPipeError:
        _drop(sys.stderr)


def flush() -> None:
    """Write what stdout still holds back."""
    if sys.stdout is not None:
        sys.stdout.flush()


def abandoned() -> bool:
    """Has the reader of a stream gone, as `head` does?"""
    poll = select.poll()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def close() -> None:
    """Leave nothing to be written that nobody takes, which Python would complain of at the end."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            _drop(stream)


def _drop(stream: TextIO) -> None:
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
