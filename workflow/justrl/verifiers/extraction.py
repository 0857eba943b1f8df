r"""Finding the answer: the content of `\boxed{...}`.

All functions take time linear in the text and never raise on a string. Braces are counted as the authors' scripts
count them: every brace, also an escaped one.
"""

import re

BOX = "\\boxed{"
_BRACE = re.compile(r"[{}]")


def balanced_end(text: str, start: int, end: int | None = None) -> int | None:
    """Index just past the brace that closes the first brace found from `start`, or None if none does before `end`."""
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

    Of nested boxes the inner one counts, as it begins last. A box that is cut off is passed over and the one before it
    taken. Linear: a box that never closes leaves the text after it to no earlier box, since whatever encloses it cannot
    close either; so every stretch of text is looked at once.
    """
    end = len(text)
    while (start := text.rfind(BOX, 0, end)) >= 0:
        close = balanced_end(text, start, end)
        if close is not None:
            return text[start + len(BOX) : close - 1]
        end = start
    return None


def cut_in_box(text: str) -> bool:
    r"""Whether a text that ends early ends inside its last `\boxed{...}`, so that its answer is not known."""
    return BOX in text and final_boxed(text) is None


def final_boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{` if its braces balance; None if they do not, whatever stands before it.

    This is how both the authors' training reward (`math_dapo.last_boxed_only_string`) and this function differ from
    `last_boxed`: a final box that is cut off is no answer.
    """
    _, box, rest = text.rpartition(BOX)
    if not box:
        return None
    # Most answers hold no brace: three searches in C, where `balanced_end` makes an object of each brace.
    answer, closed, _ = rest.partition("}")
    if "{" not in answer:
        return answer if closed else None
    end = balanced_end(box + rest, 0)
    return None if end is None else rest[: end - 1 - len(box)]
