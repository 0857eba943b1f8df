r"""Small tokenizers of the two model families that the paper trains, for the mini experiment.

Except for their size, they match the files of the real models: tokenizer class, special tokens, start of sequence, chat
template, end of an answer, tied or untied embeddings, and padding rows of the vocabulary.

    deepseek   DeepSeek-R1-Distill-Qwen-1.5B: `<｜User｜>`, `<｜Assistant｜><think>`, no ChatML token at all
    nemotron   OpenMath-Nemotron-1.5B: ChatML with its own default system turn
"""

from dataclasses import dataclass
from pathlib import Path

from justrl.io import read_json, write_json

# transformers builds this for every model of type qwen2, whichever tokenizer class the files name.
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Real models pad their vocabulary to a multiple for the hardware; the extra rows belong to no token.
_VOCABULARY_MULTIPLE = 16


@dataclass(frozen=True)
class Family:
    """The differences between the files of the families.

    `answer` joins reasoning and boxed answer as the family's models do. `stops` are the tokens that end an answer; the
    first is the tokenizer's end of sequence. `phrases` are parts of the template that become one token each.
    """

    tokenizer_class: str
    special: tuple[str, ...]
    added: tuple[str, ...]
    bos: str | None
    stops: tuple[str, ...]
    pad: str
    chat_template: str
    tied_embeddings: bool
    answer: str
    phrases: tuple[str, ...] = ()


FAMILIES = {
    "deepseek": Family(
        tokenizer_class="LlamaTokenizerFast",
        special=("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        # Not special tokens, so they remain in a decoded answer.
        added=("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
        bos="<｜begin▁of▁sentence｜>",
        stops=("<｜end▁of▁sentence｜>",),
        pad="<｜end▁of▁sentence｜>",
        chat_template=(
            "{{- bos_token -}}"
            "{%- for message in messages -%}"
            "{%- if message['role'] == 'user' -%}{{- '<｜User｜>' + message['content'] -}}"
            "{%- elif message['role'] == 'assistant' -%}"
            "{{- '<｜Assistant｜>' + message['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' -}}"
            "{%- else -%}{{- message['content'] -}}{%- endif -%}"
            "{%- endfor -%}"
            "{%- if add_generation_prompt -%}{{- '<｜Assistant｜><think>\n' -}}{%- endif -%}"
        ),
        tied_embeddings=False,
        answer="\n</think>\n\n",
    ),
    "nemotron": Family(
        tokenizer_class="Qwen2Tokenizer",
        special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        added=(),
        bos=None,
        stops=("<|im_end|>", "<|endoftext|>"),
        pad="<|endoftext|>",
        chat_template=(
            "{%- if messages[0]['role'] != 'system' -%}"
            "{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' -}}{%- endif -%}"
            "{%- for message in messages -%}"
            "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' -}}"
            "{%- endfor -%}"
            "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
        ),
        tied_embeddings=True,
        answer="\n\n",
        phrases=("system", "user", "assistant", "You are a helpful assistant."),
    ),
}


def build_tokenizer(family: Family, phrases: tuple[str, ...] = (), corpus: tuple[str, ...] = ()):
    """Make a lossless byte-level BPE tokenizer. Its merges are trained on `corpus`; each of `phrases` is one token.

    Digits stay single, "\\n" is one token, and any text can be encoded, so that real benchmarks can be used, too.

    Returns a `transformers.PreTrainedTokenizerFast` with the family's special tokens and chat template.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(QWEN2_WORDS), behavior="isolated")
    bytes_of_words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_of_words])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    size = 640 if corpus else len(alphabet)
    trainer = BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens([*family.special])
    words_of_it = dict.fromkeys([*family.added, *family.phrases, *phrases])
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words_of_it if word])
    if family.bos:
        begin = [(family.bos, tokenizer.token_to_id(family.bos))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{family.bos} $A", special_tokens=begin)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=family.bos,
        eos_token=family.stops[0],
        pad_token=family.pad,
        chat_template=family.chat_template,
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(tokenizer, family: Family, folder: Path) -> None:
    """Write the tokenizer's files, with the settings of the family's own files."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    # An explicit null means that there is no unknown token; without it, transformers adds Qwen2's.
    begin = {"add_bos_token": True, "add_eos_token": False, "legacy": True, "unk_token": None} if family.bos else {}
    write_json(path, read_json(path) | begin | {"tokenizer_class": family.tokenizer_class})


def token_settings(tokenizer, family: Family) -> dict:
    """The settings of config.json for tokens and embeddings: padded vocabulary size, special tokens, tied or not."""
    return {
        "vocab_size": -(-len(tokenizer) // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": family.tied_embeddings,
    }


def stop_ids(tokenizer, family: Family) -> list[int]:
    """The ids of the tokens that end an answer, as listed in generation_config.json."""
    return [tokenizer.convert_tokens_to_ids(token) for token in family.stops]
