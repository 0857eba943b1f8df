r"""Extract the answer: the content of `\boxed{...}`.

All functions take time linear in the text and never raise on a string. As in the authors' scripts, every brace counts,
even an escaped one.
"""

import re

BOX = "\\boxed{"
_BRACE = re.compile(r"[{}]")


def balanced_end(text: str, start: int, end: int | None = None) -> int | None:
    """Index after the brace that closes the first brace at or after `start`, or None if none does before `end`."""
    depth = 0
    for match in _BRACE.finditer(text, start, len(text) if end is None else end):
        if match.group() == "{":
            depth += 1
            continue
        depth -= 1
        if depth == 0:
            return match.end()
    return None


def last_boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{...}` whose braces balance, or None if there is no such box.

    For nested boxes, the inner one counts, because it begins last. A box that is cut off is skipped, and the one before
    it is tried. This is linear in the text: if a box never closes, no enclosing box can close after it, so each part of
    the text is scanned once.
    """
    end = len(text)
    while (start := text.rfind(BOX, 0, end)) >= 0:
        close = balanced_end(text, start, end)
        if close is not None:
            return text[start + len(BOX) : close - 1]
        end = start
    return None


def cut_in_box(text: str) -> bool:
    r"""Whether a truncated text ends inside its last `\boxed{...}`, so that its answer is unknown."""
    return BOX in text and final_boxed(text) is None


def final_boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{` if its braces balance. None if they don't, whatever precedes it.

    Unlike `last_boxed`, this does not fall back to an earlier box if the last one is cut off. The authors' training
    reward does the same (`math_dapo.last_boxed_only_string`).
    """
    _, box, rest = text.rpartition(BOX)
    if not box:
        return None
    # Fast path: most answers have no brace, so three string searches in C do. `balanced_end` makes an object per brace.
    answer, closed, _ = rest.partition("}")
    if "{" not in answer:
        return answer if closed else None
    end = balanced_end(box + rest, 0)
    return None if end is None else rest[: end - 1 - len(box)]
