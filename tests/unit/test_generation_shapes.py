"""Models that people have: each is asked exactly as its own chat template says, and answers as in transformers alone.

The shapes are small, as transformers builds them; the templates are those that the models' files hold.
"""

import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)

from justrl.config import EvalProtocol
from justrl.data import tiny_model
from justrl.errors import UserError
from justrl.evaluation.completions import read_completions
from justrl.evaluation.generating import GenerationJob, Question, generate
from justrl.io import write_json
from justrl.models.chat_template import ChatTokenizer
from justrl.models.folder import check_weights
from justrl.models.sampling import chat_prompt, check_tokenizer_of_verl, load_tokenizer, stop_token_ids

# Opens the assistant's turn whether it is asked to or not.
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
LLAMA31 = LLAMA3.replace("{{ '<|start", "{% if add_generation_prompt %}{{ '<|start") + "{% endif %}"
# The answer follows the question at once: nothing opens its turn.
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token + ' ' }}{% endif %}{% endfor %}"
)
# Without an opened turn the conversation ends there.
PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
LLAMA32 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}'
    "{%- endif %}{%- endif %}{{- '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    "Today Date: ' + date_string + '\n\n<|eot_id|>' }}{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
CHATML = tiny_model.FAMILIES["nemotron"].chat_template
# BOS opens each turn.
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ bos_token + 'system\n"
    "You are a helpful AI assistant<|im_end|>\n' }}{% endif %}{{ bos_token + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ bos_token + 'assistant\n' }}{% endif %}"
)
SIZE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}
MODELS = {
    "Llama 3": (LlamaConfig, LLAMA3, {}),
    "Llama 3.1": (LlamaConfig, LLAMA31, {"rope_theta": 500000.0}),
    "SmolLM2": (LlamaConfig, SMOLLM2, {"tie_word_embeddings": True}),
    "Mistral": (MistralConfig, MISTRAL, {"sliding_window": None, "head_dim": 32}),
    "Qwen2": (Qwen2Config, CHATML, {}),
    "Qwen3": (Qwen3Config, CHATML, {"head_dim": 32}),
    "Phi-2": (PhiConfig, CHATML, {}),
    "Phi-3": (Phi3Config, PHI3, {}),
    "Phi-3, window": (Phi3Config, PHI3, {"sliding_window": 16}),
}
QUESTIONS = ["What is 1 + 1?", "Find all $x$ with  $x^2 = 2$.\n\nGive them\tall, from small to large.", "½ of 12?"]


def make(folder, config, template, settings):
    """A model of a class of transformers with random weights, a byte-level tokenizer and a template."""
    family = tiny_model.FAMILIES["deepseek"]
    tokenizer = tiny_model.build_tokenizer(family)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(template)
    tokens = tiny_model.token_settings(tokenizer, family)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config(**SIZE | tokens | settings)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=list(MODELS))
def folder(request, tmp_path_factory):
    return make(tmp_path_factory.mktemp("shapes"), *MODELS[request.param])


def in_transformers(folder, question, tokens):
    """The prompt's and the answer's tokens by transformers alone."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    message = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    stops = list(stop_token_ids(folder, tokenizer))
    made = model.generate(**prompt, do_sample=False, max_new_tokens=tokens, eos_token_id=stops)
    length = prompt["input_ids"].shape[1]
    return tokenizer.decode(prompt["input_ids"][0]), tokenizer.decode(made[0, length:], skip_special_tokens=True)


def test_evaluation_is_what_transformers_does_alone(folder, tmp_path):
    check_weights(folder)
    check_tokenizer_of_verl(folder)
    protocol = EvalProtocol(
        temperature=0.0, top_p=1.0, max_tokens=24, prompt_separator=" ", prompt_suffix="Box it.", samples=1
    )
    job = GenerationJob(
        model=str(folder), benchmark="toy", questions=[Question(str(i), text, "2") for i, text in enumerate(QUESTIONS)],
        protocol=protocol, output=tmp_path / "out.parquet", run="tiny", seed=1, backend="transformers",
    )  # fmt: skip
    rows, _ = read_completions([generate(job)])
    for row, question in zip(rows.to_dict("records"), QUESTIONS, strict=True):
        assert (row["prompt"], row["completion"]) == in_transformers(folder, f"{question} Box it.", 24)


def test_a_prompt_with_todays_date_has_one_day_everywhere_but_in_verl(tmp_path, capfd):
    folder = make(tmp_path, LlamaConfig, LLAMA32, {})
    tokenizer = load_tokenizer(folder)
    assert "writes today's date; here it is 26 Jul 2024" in capfd.readouterr().err
    prompt = chat_prompt(tokenizer, "Hi?")
    assert prompt.startswith("<｜begin▁of▁sentence｜><|start_header_id|>system") and "Date: 26 Jul 2024\n" in prompt
    message = [{"role": "user", "content": "Hi?"}]
    assert prompt == ChatTokenizer(folder).render(message)
    theirs = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        message, add_generation_prompt=True, tokenize=False, date_string="26 Jul 2024"
    )
    assert prompt == theirs
    ids = tokenizer.apply_chat_template([message], add_generation_prompt=True, return_dict=False)
    assert tokenizer.decode(ids[0]) == prompt
    with pytest.raises(UserError, match="verl's prompts would differ from day to day"):
        check_tokenizer_of_verl(folder)


def test_a_template_that_leaves_the_answer_without_a_turn_is_refused(tmp_path):
    """ChatML that opens no turn: the model would have to write `<|im_start|>assistant` itself."""
    closed = CHATML.replace("{%- if add_generation_prompt -%}", "{%- if false -%}")
    with pytest.raises(UserError, match="does not open the assistant's turn"):
        load_tokenizer(make(tmp_path, Qwen2Config, closed, {}))


def test_text_is_decoded_as_it_was_written_whatever_the_files_say(tmp_path, capfd):
    folder = make(tmp_path, LlamaConfig, LLAMA31, {})
    path = folder / "tokenizer_config.json"
    write_json(path, json.loads(path.read_text()) | {"clean_up_tokenization_spaces": True})
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode("1 , 2 .", add_special_tokens=False)) == "1 , 2 ."
    assert "clean_up" not in capfd.readouterr().err
