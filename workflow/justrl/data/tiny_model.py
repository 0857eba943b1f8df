r"""Warm start of the mini experiment's base model: supervised training of a tiny Qwen2 on sums.

There are two kinds of training examples: column addition with carries, which is correct, and a guess, which is nearly
always wrong. A share of the column additions contains a wrong digit. So the model can do the task but often fails: a
base model that reinforcement learning improves in seconds instead of weeks.
"""

import random
import time
from functools import partial
from pathlib import Path

from justrl.data import tiny_tokenizers
from justrl.data.arithmetic import is_held_out, question_text
from justrl.data.messages import DEFAULT_SEPARATOR, DEFAULT_SUFFIX, build_messages
from justrl.io import atomic_folder
from justrl.threads import one_core_each

# Prompts and solutions repeat these phrases, so each is one token and a prompt is about 20 tokens long.
PHRASES = ("\\boxed{", "\n\n", "What is ", " + ", " = ", "; ", ". ", "By columns: ", "At a glance:")

PARTS = 4
"""A batch is laid out in as many parts of like lengths: a third fewer tokens, all of them padding."""


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


def build_tokenizer(family: str, prompt_suffix: str):
    r"""Build the tokenizer of a family of `tiny_tokenizers.FAMILIES`, with one token per phrase that the sums repeat.

    The prompt's suffix up to its box is one token; the box has its own, as in the answers.
    """
    return tiny_tokenizers.build_tokenizer(
        tiny_tokenizers.FAMILIES[family], (*PHRASES, prompt_suffix.split("\\boxed{")[0])
    )


def build_model(settings: dict, tokenizer, seed: int):
    """Build a randomly initialised float32 Qwen2 of the given shape and family."""
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    family = tiny_tokenizers.FAMILIES[settings["family"]]
    torch.manual_seed(seed)
    config = Qwen2Config(
        hidden_size=settings["hidden_size"],
        intermediate_size=settings["intermediate_size"],
        num_hidden_layers=settings["layers"],
        num_attention_heads=settings["heads"],
        num_key_value_heads=settings["key_value_heads"],
        max_position_embeddings=settings["context_length"],
        **tiny_tokenizers.token_settings(tokenizer, family),
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tiny_tokenizers.stop_ids(tokenizer, family), pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    return model


def draw_example(settings: dict, rng: random.Random, prompt_suffix: str) -> tuple[list[dict], str]:
    """Draw a question, as prompt messages, and a solution of one of the two kinds.

    Question and suffix are joined as in training (two newlines) or as in evaluation (a space), so the model knows both.
    """
    digits = settings["digits"] + (rng.random() < settings["harder_share"])
    a, b = draw_training_sum(digits, rng)
    glance = rng.random() < settings["wrong_share"]
    answer = tiny_tokenizers.FAMILIES[settings["family"]].answer
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
    """Build a Qwen2 from `settings` (the values of a `TinyModel`), train it, and save it as a folder."""
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    family = settings["family"]
    tokenizer = build_tokenizer(family, prompt_suffix)
    model = build_model(settings, tokenizer, seed)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"Qwen2 of {parameters:,} parameters, {len(tokenizer)} tokens, family {family}", flush=True)
    loss = train_supervised(model, tokenizer, settings, seed, prompt_suffix, threads)
    with atomic_folder(output) as folder:
        model.save_pretrained(folder)
        tiny_tokenizers.save_tokenizer(tokenizer, tiny_tokenizers.FAMILIES[family], folder)
    print(f"trained to a loss of {loss:.3f} -> {output}")
