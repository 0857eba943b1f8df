"""Check a model's tokenizer before sampling or training, since its errors would be silent.

transformers may build a tokenizer that differs from the folder's tokenizer.json: it selects by the model type and
replaces the class that a tokenizer's files name (transformers#45488). The answers still look like text. Our own prompts
use the ids of tokenizer.json; an engine that loads the tokenizer itself must give the same ids.
"""

from itertools import takewhile
from pathlib import Path
from typing import Any

from justrl.errors import UserError
from justrl.io import read_json
from justrl.models.chat_template import QUESTION, TEXTS, ChatTokenizer

ANSWER = "It is 1,025."


def check_tokenizer(tokenizer: Any, folder: str | Path, stops: tuple[int, ...]) -> None:
    """Raise UserError if a tokenizer differs from the folder's files, loses text, or cannot open and end an answer.

    Args:
        tokenizer: as transformers loaded it from `folder`.
        folder: the model's folder; its tokenizer.json defines the correct ids.
        stops: the tokens that end an answer.

    The error names the folder, the text or token, the result, and what to do.
    """
    own = ChatTokenizer(folder)
    check_ids(tokenizer, folder, own)
    _check_prompt(tokenizer, own, folder)
    _check_stops(own, folder, stops)


def check_ids(tokenizer: Any, folder: str | Path, own: ChatTokenizer | None = None) -> None:
    """Raise UserError if a tokenizer's ids differ from the folder's tokenizer.json, or if decoding loses text."""
    for text, right in zip(TEXTS, (own or ChatTokenizer(folder)).encode(TEXTS), strict=True):
        found = tokenizer.encode(text, add_special_tokens=False)
        if found != right:
            import transformers

            raise UserError(
                f"{folder}: transformers {transformers.__version__} encodes {text!r} as {found}, the model's own "
                f"tokenizer.json as {right}: the model would be asked in tokens that it does not know. It is loaded as "
                f"{type(tokenizer).__name__}; write PreTrainedTokenizerFast as tokenizer_class in "
                "tokenizer_config.json, or train with `engine: reference`, which reads tokenizer.json itself"
            )
        back = tokenizer.decode(found, skip_special_tokens=False)
        if back != text:
            raise UserError(f"{folder}: the tokenizer turns {text!r} into {back!r}: answers would be graded as others")


def _check_prompt(tokenizer: Any, own: ChatTokenizer, folder: str | Path) -> None:
    message = [{"role": "user", "content": QUESTION}]
    prompt = own.render(message)
    theirs = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    if prompt != theirs:
        raise UserError(f"{folder}: the chat template gives {theirs!r} in transformers and {prompt!r} here")
    if QUESTION not in prompt:
        raise UserError(f"{folder}: the chat template drops or changes the question: {prompt!r}")
    if not _opens_answer(tokenizer, message, prompt):
        raise UserError(
            f"{folder}: the chat template does not open the assistant's turn: the prompt ends {prompt[-40:]!r}"
        )
    (ids,) = own.encode([prompt])
    # Some models open each turn with the token that begins a sequence.
    begins = len(list(takewhile(lambda token: token == tokenizer.bos_token_id, ids)))
    if begins > 1:
        raise UserError(f"{folder}: the prompt begins with {tokenizer.bos_token!r} {begins} times")


def _opens_answer(tokenizer: Any, message: list[dict[str, str]], prompt: str) -> bool:
    """Whether an answer follows the prompt directly: a header opens its turn, or conversations have no such header."""
    if prompt != tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=False):
        return True
    answered = [*message, {"role": "assistant", "content": ANSWER}]
    try:
        text = tokenizer.apply_chat_template(answered, tokenize=False, add_generation_prompt=False)
    except Exception:  # a template can raise anything
        return False
    return text.removeprefix(prompt).lstrip().startswith(ANSWER)


def _check_stops(own: ChatTokenizer, folder: str | Path, stops: tuple[int, ...]) -> None:
    size = read_json(Path(folder) / "config.json").get("vocab_size")
    for stop in stops:
        token = own.token(stop)
        if token is None or (size is not None and stop >= size):
            raise UserError(f"{folder}: the stop token {stop} is not in the model's vocabulary ({size} tokens)")
        (ids,) = own.encode([token])
        if ids != [stop]:
            raise UserError(f"{folder}: the stop token {token!r} is not one token but {ids}")
