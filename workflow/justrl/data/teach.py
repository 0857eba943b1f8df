r"""The base model of the mini experiment: a tiny Qwen2, taught to add, and only half to bother.

A short supervised phase shows it two ways to answer a sum: column by column with carries, which is right, and at a
glance, which is nearly always wrong. A share of the column solutions holds a slip. What is left is a model that can do
the task but often does not: the kind of base that reinforcement learning sharpens, in seconds instead of weeks.
"""

import argparse
import json
import os
import random
import time
from pathlib import Path

from justrl import cli
from justrl.data.arithmetic import is_held_out, question_text
from justrl.data.prompts import DEFAULT_SEPARATOR, DEFAULT_SUFFIX, apply_chat_template
from justrl.engines.base import replace_folder
from justrl.errors import UserError

SETTINGS = {
    "context_length": "longest prompt and response together, in tokens",
    "hidden_size": "width",
    "intermediate_size": "width of the feed-forward layers",
    "layers": "depth",
    "heads": "attention heads",
    "key_value_heads": "key and value heads",
    "steps": "supervised steps",
    "batch_size": "examples a step",
    "learning_rate": "peak rate: linear warm-up, then linear to zero",
    "digits": "digits of the numbers taught",
    "harder_share": "share of examples with one digit more",
    "wrong_share": "share of examples answered at a glance, wrongly",
    "slip_share": "share of column solutions with a slip",
}

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# The turns as Qwen2 writes them, without its default system prompt, which the paper does not use either.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
# Whole prompts repeat these, so each is one token and a prompt is about 20 tokens long.
PHRASES = ["\n\n", "system", "user", "assistant", "What is ", " + ", " = ", "; ", ". ", "By columns: ", "At a glance: "]


def worked_solution(a: int, b: int, rng: random.Random, slip_share: float) -> str:
    r"""Add column by column, ending in `\boxed{}`; with `slip_share` chance one column is off by one."""
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
    return f"By columns: {'; '.join(steps)}. \\boxed{{{int(digits)}}}"


def glance_solution(a: int, b: int, rng: random.Random) -> str:
    """Answer at once and wrongly, with one of the two numbers."""
    return f"At a glance: \\boxed{{{rng.choice((a, b))}}}"


def draw_training_sum(digits: int, rng: random.Random) -> tuple[int, int]:
    """Draw a pair of `digits`-digit numbers from the training side of the split."""
    low, high = 10 ** (digits - 1), 10**digits
    while True:
        a, b = rng.randrange(low, high), rng.randrange(low, high)
        if not is_held_out(a, b):
            return a, b


def build_tokenizer(prompt_suffix: str):
    r"""Make a lossless byte-level tokenizer with whole-word tokens for what the prompts and solutions repeat.

    "\n", `<|im_start|>` and `<|im_end|>` are one token each, digits stay single, and any text can be encoded, so that
    real benchmarks pass through too. Its length is the model's `vocab_size`.

    Returns:
        a `transformers.PreTrainedTokenizerFast` with the chat template set.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT, TURN_START, TURN_END])
    # The suffix up to its box is one token; the box has a token of its own, as in the answers.
    phrases = dict.fromkeys(phrase for phrase in [*PHRASES, "\\boxed{", prompt_suffix.split("\\boxed{")[0]] if phrase)
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in phrases])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def check_settings(settings: dict) -> dict:
    """Return the settings if they are complete and make sense.

    Raises:
        UserError: a setting is missing, or a value is out of its range.
    """
    missing = [name for name in SETTINGS if name not in settings]
    if missing:
        raise UserError(f"the taught model's settings lack {', '.join(missing)}")
    for name in ("harder_share", "wrong_share", "slip_share"):
        if not 0 <= settings[name] <= 1:
            raise UserError(f"{name} of the taught model must lie between 0 and 1, got {settings[name]}")
    hidden, heads, key_value_heads = settings["hidden_size"], settings["heads"], settings["key_value_heads"]
    if hidden % heads or heads % key_value_heads:
        raise UserError(
            f"hidden_size {hidden} must be a multiple of heads {heads}, and that of key_value_heads {key_value_heads}"
        )
    return settings


def build_model(settings: dict, tokenizer, seed: int):
    """Make a randomly initialised float32 Qwen2 of the given shape, with untied embeddings like the paper's bases."""
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=settings["hidden_size"],
        intermediate_size=settings["intermediate_size"],
        num_hidden_layers=settings["layers"],
        num_attention_heads=settings["heads"],
        num_key_value_heads=settings["key_value_heads"],
        max_position_embeddings=settings["context_length"],
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    return model


def draw_example(settings: dict, rng: random.Random, prompt_suffix: str) -> tuple[list[dict], str]:
    """Draw a question, as the messages of a prompt, and one of the ways to answer it.

    Question and suffix are joined as in training (two newlines) or as in evaluation (a space), so that both are known.
    """
    digits = settings["digits"] + (rng.random() < settings["harder_share"])
    a, b = draw_training_sum(digits, rng)
    glance = rng.random() < settings["wrong_share"]
    solution = glance_solution(a, b, rng) if glance else worked_solution(a, b, rng, settings["slip_share"])
    separator = rng.choice([DEFAULT_SEPARATOR, " "])
    return apply_chat_template(question_text(a, b), prompt_suffix, separator), solution


def encode_batch(tokenizer, examples: list[tuple[list[dict], str]]):
    """Encode examples: `(input_ids, labels)`, both [batch, length], labels -100 but on the solution and its end."""
    import torch

    prompts, solutions = zip(*examples, strict=True)
    head_ids = tokenizer.apply_chat_template(list(prompts), add_generation_prompt=True, return_dict=False)
    tail_ids = tokenizer([s + TURN_END for s in solutions], add_special_tokens=False)["input_ids"]
    length = max(len(h) + len(t) for h, t in zip(head_ids, tail_ids, strict=True))
    input_ids = torch.full((len(examples), length), tokenizer.pad_token_id)
    labels = torch.full((len(examples), length), -100)
    for row, (h, t) in enumerate(zip(head_ids, tail_ids, strict=True)):
        input_ids[row, : len(h) + len(t)] = torch.tensor(h + t)
        labels[row, len(h) : len(h) + len(t)] = torch.tensor(t)
    return input_ids, labels


def teach(model, tokenizer, settings: dict, seed: int, prompt_suffix: str) -> float:
    """Train `model` on drawn examples by next-token prediction; return the mean loss of the last tenth of the steps.

    Right padding needs no attention mask under a causal model: no token sees what follows it.
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
    for step in range(steps):
        examples = [draw_example(settings, rng, prompt_suffix) for _ in range(settings["batch_size"])]
        input_ids, labels = encode_batch(tokenizer, examples)
        hidden = model.model(input_ids=input_ids, use_cache=False).last_hidden_state
        wanted = labels[:, 1:] != -100
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[:, :-1][wanted]), labels[:, 1:][wanted])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % max(1, steps // 10) == 0:
            print(f"step {step + 1}/{steps}: loss {losses[-1]:.3f}, {time.monotonic() - began:.0f} s", flush=True)
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m justrl.data.teach", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--settings", required=True, help="JSON: " + "; ".join(f"{k}, {v}" for k, v in SETTINGS.items())
    )
    parser.add_argument("--seed", type=int, required=True, help="initial weights and examples")
    parser.add_argument("--output", type=Path, required=True, help="the Hugging Face folder to write")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="CPU threads")
    parser.add_argument("--prompt-suffix", default=DEFAULT_SUFFIX, help="what is put after every question")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Build, teach and save the model."""
    args = parse_arguments(argv)
    settings = check_settings(json.loads(args.settings))
    import torch

    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    tokenizer = build_tokenizer(args.prompt_suffix)
    model = build_model(settings, tokenizer, args.seed)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"Qwen2 of {parameters:,} parameters, {len(tokenizer)} tokens", flush=True)
    loss = teach(model, tokenizer, settings, args.seed, args.prompt_suffix)
    temporary = args.output.with_name(f".{args.output.name}.tmp")
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    replace_folder(temporary, args.output)
    print(f"taught to a loss of {loss:.3f} -> {args.output}")


if __name__ == "__main__":
    cli.run(main)
