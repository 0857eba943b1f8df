"""A tiny Qwen2 with a tokenizer and a chat template, for tests that need a real model.

Its heads have 32 dimensions, the fewest for which vLLM has CPU kernels.
"""

from pathlib import Path

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_CORPUS = [
    "Please reason step by step, and put your final answer within \\boxed{}.",
    "What is the sum of the positive integers that divide the number? Let $x$ and $y$ be such that the value of it is",
    "Find the number of ways in which all of the points are on the circle and the triangle has the length of a side",
    "Determine the smallest possible real number $n$ for which there exists a function $f(x)$ with the given property,",
    "where each of these $a_{1}, a_{2}, \\ldots, a_{n}$ can be written as $\\frac{m}{n}$, relatively prime, find $mn$.",
    "Suppose that two players take turns; the first chooses from a set at random. What is the probability that it is",
]


def make_tiny_model(
    folder: Path, *, seed: int = 0, positions: int = 4096, hidden: int = 64, spread: float = 0.1
) -> Path:
    """Write the model into `folder`; `spread` is the standard deviation of its weights (more: surer predictions)."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )
    config = Qwen2Config(
        vocab_size=len(fast),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        eos_token_id=fast.eos_token_id,
        bos_token_id=None,
        initializer_range=spread,
    )
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config)
    model.generation_config.eos_token_id = fast.eos_token_id
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
