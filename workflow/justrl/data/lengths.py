"""Prompt lengths in tokens under a model's tokenizer and chat template."""

from pathlib import Path

from justrl.data.distinct import CACHED_TEXTS
from justrl.errors import UserError
from justrl.io import file_sha256
from justrl.models.chat_template import ChatTokenizer
from justrl.models.downloads import check_download, read_record

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


class PromptLength:
    """Counts a prompt's tokens under a model's chat template, including the start of the assistant's turn.

    `record` identifies the tokenizer: hub id and revision, if the folder records them, and the SHA-256 of its files.
    """

    def __init__(self, folder: str | Path) -> None:
        """Load the tokenizer of a model's folder. Raises UserError if there is none or it has no chat template."""
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"the tokenizer {folder} is not a folder: give the folder of the model to be trained")
        check_download(folder)
        self._tokenizer = ChatTokenizer(folder)
        if not self._tokenizer.chat_template:
            raise UserError(f"the tokenizer in {folder} has no chat template, so prompts cannot be measured")
        source = read_record(folder / "source.json") if (folder / "source.json").is_file() else {}
        self.record = {
            "hub_id": source.get("hub_id"),
            "revision": source.get("revision"),
            "files": {name: file_sha256(folder / name) for name in _TOKENIZER_FILES if (folder / name).is_file()},
        }
        self._known: dict[str, int] = {}

    def __call__(self, prompts: list[list[dict[str, str]]]) -> list[int]:
        """Return the number of tokens of each prompt, each a list with one user message."""
        texts = [messages[0]["content"] for messages in prompts]
        new = {text: messages for text, messages in zip(texts, prompts, strict=True) if text not in self._known}
        if len(self._known) > CACHED_TEXTS:
            self._known, new = {}, dict(zip(texts, prompts, strict=True))
        self._known |= dict(zip(new, self._tokenizer.lengths(new.values()), strict=True))
        return [self._known[text] for text in texts]
