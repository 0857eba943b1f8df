"""Checks of a model's tokenizer before anything is sampled or trained: what it would get wrong, it gets wrong silently.

transformers may build another tokenizer than the folder's tokenizer.json describes: it goes by the type of the model,
and a class that a tokenizer's files name is replaced (transformers#45488). The answers then still look like text. Our
own prompts are in the ids of tokenizer.json; an engine that loads the tokenizer itself is asked for the same.
"""

from itertools import takewhile
from pathlib import Path
from typing import Any

from justrl.errors import UserError
from justrl.generation.chat_template import QUESTION, TEXTS, ChatTokenizer
from justrl.io import read_json

ANSWER = "It is 1,025."


def check_tokenizer(tokenizer: Any, folder: str | Path, stops: tuple[int, ...]) -> None:
    """Refuse a tokenizer that is not the one of the folder's files, loses text, or cannot ask and end.

    Args:
        tokenizer: as transformers loaded it from `folder`.
        folder: the model's folder; its tokenizer.json says which ids are right.
        stops: the tokens that end an answer.

    Raises UserError: naming the folder, the text or token, what was found and what to do.
    """
    own = ChatTokenizer(folder)
    check_ids(tokenizer, folder, own)
    _check_prompt(tokenizer, own, folder)
    _check_stops(own, folder, stops)


def check_ids(tokenizer: Any, folder: str | Path, own: ChatTokenizer | None = None) -> None:
    """Refuse a tokenizer whose ids are not those of the folder's tokenizer.json, or that loses text."""
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
    """Whether an answer follows the prompt at once: something opens its turn, or in a conversation nothing does."""
    if prompt != tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=False):
        return True
    answered = [*message, {"role": "assistant", "content": ANSWER}]
    try:
        text = tokenizer.apply_chat_template(answered, tokenize=False, add_generation_prompt=False)
    except Exception:  # a template can raise what Python can
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
