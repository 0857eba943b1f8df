"""Safe terminal output: names from files can neither control the terminal nor crash the command.

Run names, folders and model ids come from other people's files. Control characters in them are printed as escapes.
"""

import io
import os
import re
import select
import sys
import textwrap
from pathlib import Path
from typing import Any, TextIO

# C0 and C1 controls except tab and newline, line separators, and controls of the writing direction.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# Control characters of progress bars and coloured logs of libraries on the error stream.
_BARS = re.compile("(\r|\x1b\\[[0-9;]*[mAK])")
CLEAR = b"\x1b[2J\x1b[H"
# Width of text for people, in columns.
WIDTH = 100
# The start of a table's last column: after the last gap of two spaces or more in the left half of the line.
_LAST_COLUMN = re.compile(rf"(?:.{{0,{WIDTH // 2}}}\s\s|\s*)(?=\S)")


def printable(text: str) -> str:
    """Replace control characters by escapes."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class _Output(io.TextIOWrapper):
    """A text stream that writes control characters as escapes."""

    def write(self, text: str) -> int:
        super().write(printable(text))
        return len(text)


class _Errors(_Output):
    """The error stream, which keeps progress bars and colours."""

    def write(self, text: str) -> int:
        parts = _BARS.split(text)
        io.TextIOWrapper.write(self, "".join(part if i % 2 else printable(part) for i, part in enumerate(parts)))
        return len(text)


def open_streams() -> None:
    """Replace stdout and stderr by safe streams; characters that their encoding lacks are written as escapes."""
    sys.stdout, sys.stderr = _safe(sys.stdout, _Output), _safe(sys.stderr, _Errors)


def _safe(stream: TextIO, kind: type[_Output]) -> TextIO:
    if type(stream) is not io.TextIOWrapper:  # None if it is closed, or a stream that a caller has set
        return stream
    # Write each line of the error stream immediately, so that nothing is lost if the process is killed.
    encoding, lines, through = stream.encoding, stream.line_buffering or kind is _Errors, stream.write_through
    return kind(
        stream.detach(), encoding=encoding, errors="backslashreplace", line_buffering=lines, write_through=through
    )


def fit(text: str) -> str:
    """Wrap lines longer than `WIDTH` columns; the rest continues below their last column."""
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
    """Re-wrap the paragraphs of a text; an indented paragraph is left unchanged, under the heading "examples"."""
    parts = text.strip("\n").split("\n\n")
    return "\n\n".join(f"examples:\n{part}" if part.startswith(" ") else textwrap.fill(part, WIDTH) for part in parts)


def say(text: str, **options: Any) -> None:
    """Print text for people, in lines of at most `WIDTH` columns."""
    print(fit(text), **options)


def clear_screen() -> None:
    """Clear the terminal and move the cursor to the upper left, as `watch` does."""
    sys.stdout.flush()
    sys.stdout.buffer.write(CLEAR)


def complain(sentence: str) -> None:
    """Write `error: SENTENCE` to the error stream, wrapped only on a terminal; a closed stream is ignored."""
    text = f"error: {printable(sentence)}"
    try:
        print(fit(text) if sys.stderr is not None and sys.stderr.isatty() else text, file=sys.stderr, flush=True)
    except BrokenPipeError:
        _drop(sys.stderr)


def flush() -> None:
    """Flush stdout."""
    if sys.stdout is not None:
        sys.stdout.flush()


def abandoned() -> bool:
    """True if the reader of stdout or stderr has closed it, as `head` does."""
    poll = select.poll()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def close() -> None:
    """Flush the streams and drop output that nobody reads, so that Python does not report an error at exit."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            _drop(stream)


def _drop(stream: TextIO) -> None:
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
