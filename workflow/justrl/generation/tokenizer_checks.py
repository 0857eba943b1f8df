"""Checks of a model's tokenizer before anything is sampled or trained: what it would get wrong, it gets wrong silently.

transformers may build another tokenizer than the folder's tokenizer.json describes: it goes by the type of the model,
and a class that a tokenizer's files name is replaced (transformers#45488). The answers then still look like text.
"""

from itertools import takewhile
from pathlib import Path
from typing import Any

from justrl.errors import UserError
from justrl.generation.chat_template import QUESTION, TEXTS, ChatTokenizer
from justrl.io import read_json


def check_tokenizer(tokenizer: Any, folder: str | Path, stops: tuple[int, ...]) -> None:
    """Refuse a tokenizer that is not the one of the folder's files, loses text, or cannot ask and end.

    Args:
        tokenizer: as transformers loaded it from `folder`.
        folder: the model's folder; its tokenizer.json says which ids are right.
        stops: the tokens that end an answer.

    Raises UserError: naming the folder, the text or token, what was found and what to do.
    """
    own = ChatTokenizer(folder)
    _check_ids(tokenizer, own, folder)
    _check_prompt(tokenizer, own, folder)
    _check_stops(own, folder, stops)


def _check_ids(tokenizer: Any, own: ChatTokenizer, folder: str | Path) -> None:
    for text, right in zip(TEXTS, own.encode(TEXTS), strict=True):
        found = tokenizer.encode(text, add_special_tokens=False)
        if found != right:
            import transformers

            raise UserError(
                f"{folder}: transformers {transformers.__version__} encodes {text!r} as {found[:8]}..., the model's "
                f"own tokenizer.json as {right[:8]}...: the model would be asked in tokens that it does not know. It "
                f"is loaded as {type(tokenizer).__name__}; choose another version of transformers, or another "
                "tokenizer_class in tokenizer_config.json"
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
    asked = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=False)
    if prompt == asked or not prompt.startswith(asked.rstrip()):
        raise UserError(
            f"{folder}: the chat template does not open the assistant's turn: the prompt ends {prompt[-40:]!r}"
        )
    (ids,) = own.encode([prompt])
    # Some models open each turn with the token that begins a sequence.
    begins = len(list(takewhile(lambda token: token == tokenizer.bos_token_id, ids)))
    if begins > 1:
        raise UserError(f"{folder}: the prompt begins with {tokenizer.bos_token!r} {begins} times")


def _check_stops(own: ChatTokenizer, folder: str | Path, stops: tuple[int, ...]) -> None:
    size = read_json(Path(folder) / "config.json").get("vocab_size")
    for stop in stops:
        token = own.token(stop)
        if token is None or (size is not None and stop >= size):
            raise UserError(f"{folder}: the stop token {stop} is no token of the model ({size} tokens)")
        (ids,) = own.encode([token])
        if ids != [stop]:
            raise UserError(f"{folder}: the stop token {token!r} is not one token but {ids}")
