"""How many tokens a prompt has for the model that will read it."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from justrl.data.duplicates import CACHED_TEXTS
from justrl.data.lock import sha256_file
from justrl.errors import UserError
from justrl.io import read_json

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "tokenizer.model")


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield the items in lists of `size`, the last one shorter."""
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part


class PromptLength:
    """Counts a prompt's tokens under a model's own chat template, the assistant's turn opened.

    `record` says which tokenizer it is: hub id and revision, where the folder tells them, and its files' SHA-256.
    """

    def __init__(self, folder: str | Path) -> None:
        """Load the tokenizer of a model's folder; raise UserError if there is none or it has no chat template."""
        from transformers import AutoTokenizer

        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"the tokenizer {folder} is not a folder: give the folder of the model to be trained")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder} holds no usable tokenizer: {str(error).splitlines()[0]}") from error
        if not self._tokenizer.chat_template:
            raise UserError(f"the tokenizer in {folder} has no chat template, so prompts cannot be measured")
        source = read_json(folder / "source.json") if (folder / "source.json").is_file() else {}
        self.record = {
            "hub_id": source.get("hub_id"),
            "revision": source.get("revision"),
            "files": {name: sha256_file(folder / name) for name in _TOKENIZER_FILES if (folder / name).is_file()},
        }
        self._known: dict[str, int] = {}

    def __call__(self, prompts: list[list[dict[str, str]]]) -> list[int]:
        """Return the number of tokens of each prompt, a list with one user message."""
        texts = [messages[0]["content"] for messages in prompts]
        new = {text: messages for text, messages in zip(texts, prompts, strict=True) if text not in self._known}
        if len(self._known) > CACHED_TEXTS:
            self._known, new = {}, dict(zip(texts, prompts, strict=True))
        # Some hundred at a time, since every token is a Python integer until it is counted.
        for part in batched(new.values(), 512):
            encoded = self._tokenizer.apply_chat_template(
                part, add_generation_prompt=True, tokenize=True, return_dict=True
            )
            lengths = map(len, encoded["input_ids"])
            self._known |= {prompt[0]["content"]: n for prompt, n in zip(part, lengths, strict=True)}
        return [self._known[text] for text in texts]
