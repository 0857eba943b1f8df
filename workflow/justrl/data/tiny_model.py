r"""Warm start of the mini experiment's base model: supervised training of a tiny Qwen2 on sums.

There are two kinds of training examples: column addition with carries, which is correct, and a guess, which is nearly
always wrong. A share of the column additions contains a wrong digit. So the model can do the task but often fails: a
base model that reinforcement learning improves in seconds instead of weeks.

Its tokenizer is a small one of the two model families that the paper trains. Except for their size, they match the
files of the real models: tokenizer class, special tokens, start of sequence, chat template, end of an answer, tied or
untied embeddings, and padding rows of the vocabulary.

    deepseek   DeepSeek-R1-Distill-Qwen-1.5B: `<｜User｜>`, `<｜Assistant｜><think>`, no ChatML token at all
    nemotron   OpenMath-Nemotron-1.5B: ChatML with its own default system turn
"""

import hashlib
import json
import os
import platform
import random
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from justrl.data.arithmetic import is_held_out, question_text
from justrl.data.messages import DEFAULT_SEPARATOR, DEFAULT_SUFFIX, build_messages
from justrl.errors import UserError
from justrl.hardware.machine import one_core_each
from justrl.io import atomic_folder, file_sha256, read_json, write_json

# Prompts and solutions repeat these phrases, so each is one token and a prompt is about 20 tokens long.
PHRASES = ("\\boxed{", "\n\n", "What is ", " + ", " = ", "; ", ". ", "By columns: ", "At a glance:")

CHECKSUMS = "checksums.json"

PARTS = 4
"""A batch is laid out in as many parts of like lengths: a third fewer tokens, all of them padding."""


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


def sums_tokenizer(family: str, prompt_suffix: str):
    r"""Build the tokenizer of a family with one token per phrase that the sums repeat.

    The prompt's suffix up to its box is one token; the box has its own, as in the answers.
    """
    return build_tokenizer(FAMILIES[family], (*PHRASES, prompt_suffix.split("\\boxed{")[0]))


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


def worked_solution(a: int, b: int, rng: random.Random, slip_share: float, answer: str = " ") -> str:
    r"""Add column by column, then write `answer` and `\boxed{}`.

    With probability `slip_share`, one column is off by one.
    """
    columns = max(len(str(a)), len(str(b)))
    slip_at = rng.randrange(columns) if rng.random() < slip_share else -1
    steps, digits, carry = [], "", 0
    for column in range(columns):
        x, y = a // 10**column % 10, b // 10**column % 10
        total = x + y + carry
        if column == slip_at:
            total += rng.choice((-1, 1)) if total else 1
        steps.append(f"{x} + {y} + {carry} = {total}")
        last = column == columns - 1
        digits = (str(total) if last else str(total % 10)) + digits
        carry = total // 10
    return f"By columns: {'; '.join(steps)}.{answer}\\boxed{{{int(digits)}}}"


def glance_solution(a: int, b: int, rng: random.Random, answer: str = " ") -> str:
    """Guess wrongly, without a calculation: the answer is one of the two numbers."""
    return f"At a glance:{answer}\\boxed{{{rng.choice((a, b))}}}"


def draw_training_sum(digits: int, rng: random.Random) -> tuple[int, int]:
    """Draw a pair of `digits`-digit numbers from the training side of the split."""
    low, high = 10 ** (digits - 1), 10**digits
    while True:
        a, b = rng.randrange(low, high), rng.randrange(low, high)
        if not is_held_out(a, b):
            return a, b


def build_model(settings: dict, tokenizer, seed: int):
    """Build a randomly initialised float32 Qwen2 of the given shape and family."""
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    family = FAMILIES[settings["family"]]
    torch.manual_seed(seed)
    config = Qwen2Config(
        hidden_size=settings["hidden_size"],
        intermediate_size=settings["intermediate_size"],
        num_hidden_layers=settings["layers"],
        num_attention_heads=settings["heads"],
        num_key_value_heads=settings["key_value_heads"],
        max_position_embeddings=settings["context_length"],
        **token_settings(tokenizer, family),
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=stop_ids(tokenizer, family), pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    return model


def draw_example(settings: dict, rng: random.Random, prompt_suffix: str) -> tuple[list[dict], str]:
    """Draw a question, as prompt messages, and a solution of one of the two kinds.

    Question and suffix are joined as in training (two newlines) or as in evaluation (a space), so the model knows both.
    """
    digits = settings["digits"] + (rng.random() < settings["harder_share"])
    a, b = draw_training_sum(digits, rng)
    glance = rng.random() < settings["wrong_share"]
    answer = FAMILIES[settings["family"]].answer
    if glance:
        solution = glance_solution(a, b, rng, answer)
    else:
        solution = worked_solution(a, b, rng, settings["slip_share"], answer)
    separator = rng.choice([DEFAULT_SEPARATOR, " "])
    return build_messages(question_text(a, b), prompt_suffix, separator), solution


def encode_batch(tokenizer, examples: list[tuple[list[dict], str]], parts: int = PARTS) -> list[tuple]:
    """Encode examples in parts of similar length. Returns `(input_ids, labels)` per part, both [examples, its length].

    Labels are -100 except on the solution and its end token. Each part is padded separately.
    """
    import torch

    prompts, solutions = zip(*examples, strict=True)
    head_ids = tokenizer.apply_chat_template(list(prompts), add_generation_prompt=True, return_dict=False)
    tail_ids = tokenizer([s + tokenizer.eos_token for s in solutions], add_special_tokens=False)["input_ids"]
    rows = sorted(zip(head_ids, tail_ids, strict=True), key=lambda row: len(row[0]) + len(row[1]))
    size = -(-len(rows) // parts)
    encoded = []
    for part in (rows[start : start + size] for start in range(0, len(rows), size)):
        length = max(len(head) + len(tail) for head, tail in part)
        input_ids = torch.full((len(part), length), tokenizer.pad_token_id)
        labels = torch.full((len(part), length), -100)
        for row, (head, tail) in enumerate(part):
            input_ids[row, : len(head) + len(tail)] = torch.tensor(head + tail)
            labels[row, len(head) : len(head) + len(tail)] = torch.tensor(tail)
        encoded.append((input_ids, labels))
    return encoded


def _part_gradients(model, encoded: tuple) -> tuple:
    """Compute the summed loss of a part of a batch, and its gradients.

    Right padding needs no attention mask in a causal model: no token attends to later ones.
    """
    import torch

    input_ids, labels = encoded
    hidden = model.model(input_ids=input_ids, use_cache=False).last_hidden_state
    wanted = labels[:, 1:] != -100
    logits = model.lm_head(hidden[:, :-1][wanted])
    loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:][wanted], reduction="sum")
    return loss.item(), torch.autograd.grad(loss, list(model.parameters()))


def train_supervised(model, tokenizer, settings: dict, seed: int, prompt_suffix: str, threads: int = 1) -> float:
    """Train `model` on drawn examples by next-token prediction. Returns the mean loss of the last tenth of the steps.

    The parts of a batch run in parallel, one thread each, and their gradients are added in a fixed order. So the result
    doesn't depend on the number of threads.
    """
    import torch

    rng = random.Random(seed)
    steps = settings["steps"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["learning_rate"], weight_decay=0.01)
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, max(0.0, (steps - step) / (steps - warmup)))
    )
    model.train()
    losses, began = [], time.monotonic()
    with one_core_each(threads) as workers:
        for step in range(steps):
            examples = [draw_example(settings, rng, prompt_suffix) for _ in range(settings["batch_size"])]
            encoded = encode_batch(tokenizer, examples)
            tokens = sum(int((labels != -100).sum()) for _, labels in encoded)
            sums, gradients = zip(*workers.map(partial(_part_gradients, model), encoded), strict=True)
            for parameter, *parts in zip(model.parameters(), *gradients, strict=True):
                parameter.grad = torch.stack(parts).sum(dim=0).div_(tokens)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(sum(sums) / tokens)
            if (step + 1) % max(1, steps // 10) == 0:
                print(f"step {step + 1}/{steps}: loss {losses[-1]:.3f}, {time.monotonic() - began:.0f} s", flush=True)
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail)


def make_model(settings: dict, seed: int, output: Path, threads: int, prompt_suffix: str = DEFAULT_SUFFIX) -> None:
    """Write the Qwen2 of `settings` (the values of a `TinyModel`), trained, as a model folder.

    A model that this machine has trained before with the same settings, code and versions is copied from the cache:
    the folder JUSTRL_CACHE, by default ~/.cache/justrl; an empty value switches it off.
    """
    kept = cached_folder(settings, seed, prompt_suffix)
    if kept and is_whole(kept):
        with atomic_folder(output) as folder:
            shutil.copytree(kept, folder, ignore=shutil.ignore_patterns(CHECKSUMS), dirs_exist_ok=True)
        print(f"copied from {kept}, where this machine keeps what it trained before -> {output}")
        return
    train_model(settings, seed, output, threads, prompt_suffix)
    if kept:
        with suppress(OSError):  # a full or read-only disk; or another process was first
            keep(output, kept)


def cached_folder(settings: dict, seed: int, prompt_suffix: str) -> Path | None:
    """Return the folder in the cache for this model, named by all that determines its bits; None without a cache."""
    place = os.environ.get("JUSTRL_CACHE", Path("~/.cache/justrl").expanduser())
    if not place:
        return None
    code = [file_sha256(path) for path in sorted(Path(__file__).parent.glob("*.py"))]
    versions = [version(name) for name in ("torch", "transformers", "tokenizers", "safetensors")]
    # Kernels, and so the last bits, depend on the kind of processor.
    processor = [line for line in _cpuinfo().split("\n") if line.startswith(("model name", "flags"))][:2]
    made_of = [settings, seed, prompt_suffix, code, versions, platform.machine(), processor]
    return Path(place, "models", hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32])


def _cpuinfo() -> str:
    with suppress(OSError):
        return Path("/proc/cpuinfo").read_text()
    return ""


def is_whole(kept: Path) -> bool:
    """Return whether the files of a folder in the cache are those that were put there."""
    with suppress(OSError, UserError):
        files = read_json(kept / CHECKSUMS)
        if isinstance(files, dict) and "model.safetensors" in files:
            return all(file_sha256(kept / name) == checksum for name, checksum in files.items())
    return False


def keep(model: Path, kept: Path) -> None:
    """Copy a model folder to the cache; raises OSError if that is impossible or another process was first."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    if kept.is_dir():  # not whole, or it would have been copied
        shutil.rmtree(kept)
    with tempfile.TemporaryDirectory(dir=kept.parent) as temporary:
        copy = Path(temporary, "model")
        shutil.copytree(model, copy)
        write_json(copy / CHECKSUMS, {path.name: file_sha256(path) for path in sorted(copy.iterdir())})
        copy.rename(kept)


def train_model(settings: dict, seed: int, output: Path, threads: int, prompt_suffix: str) -> None:
    """Build a Qwen2 from `settings`, train it, and save it as a folder."""
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    family = settings["family"]
    tokenizer = sums_tokenizer(family, prompt_suffix)
    model = build_model(settings, tokenizer, seed)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"Qwen2 of {parameters:,} parameters, {len(tokenizer)} tokens, family {family}", flush=True)
    loss = train_supervised(model, tokenizer, settings, seed, prompt_suffix, threads)
    with atomic_folder(output) as folder:
        model.save_pretrained(folder)
        save_tokenizer(tokenizer, FAMILIES[family], folder)
    print(f"trained to a loss of {loss:.3f} -> {output}")
